"""What an application is: the one object that everything outside its folder knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from jitflow.training.module import FlowModule


@dataclass(frozen=True)
class Application:
    """An application of the library: one folder with one object of this class.

    Attributes:
        name: What checkpoints, recipes and ``run.json`` store; never a class path.
        module: Class of its modules.
        recipes: Package that holds its recipes, YAML files.
    """

    name: str
    module: type[FlowModule]
    recipes: str
