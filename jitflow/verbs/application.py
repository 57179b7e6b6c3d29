"""``jitflow <application> <command>``: an application's own commands, and the verbs in its documents' words."""

from __future__ import annotations

from rich.console import Console

from jitflow.applications import get_application, load_object
from jitflow.training.requests import DrawingRequest, TrainingRequest
from jitflow.verbs.commandline import run_group


def application(name: str, args: list[str]) -> None:
    """Run a command of an application; without a word, or with ``--help``, list them.

    Args:
        name: The application's name.
        args: Words after it.

    Raises:
        ConfigError: If it has no such command.
    """
    commands = {command: load_object(path) for command, path in get_application(name).commands.items()}
    asked = run_group(name, commands, args)
    if isinstance(asked, TrainingRequest):
        _train(name, asked)
    elif isinstance(asked, DrawingRequest):
        _draw(name, asked)


def _train(name: str, asked: TrainingRequest) -> None:
    from jitflow.run.start import resumed_folder
    from jitflow.verbs.documented import train_documented

    folder = resumed_folder(asked.resume, asked.run_dir, asked.default_dir)
    run = train_documented(
        name, asked.words, folder, resume=asked.resume, restart=asked.restart, settings=asked.settings
    )
    ending = asked.ending.format(best=run.best or run.checkpoint)
    Console(stderr=True, soft_wrap=True).print(ending, markup=False)


def _draw(name: str, asked: DrawingRequest) -> None:
    from jitflow.model import load
    from jitflow.verbs.sample import check_numbers, draw

    check_numbers(int(asked.asked.get("num") or 1), asked.settings)
    draw(
        load(asked.checkpoint, device=asked.device, application=name),
        asked.asked,
        asked.settings,
        seed=asked.seed,
        ema=asked.ema,
        out=asked.out,
        batch_size=asked.batch_size,
        precision=asked.precision,
    )
