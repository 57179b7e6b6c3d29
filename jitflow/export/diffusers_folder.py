"""Export for diffusers: a folder that ``DiffusionPipeline.from_pretrained`` opens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jitflow.checkpoint.find import WEIGHTS_NAME
from jitflow.checkpoint.formats import write_state
from jitflow.checkpoint.state import ModelState
from jitflow.export.safetensors_folder import write_codec
from jitflow.io.files import write_json, write_text
from jitflow.training.module import FlowModule

_COMPONENT = "jitflow.export.diffusers_pipeline"
LIBRARY = "diffusers"
USAGE = (
    "jitflow must be installed (`pip install 'jitflow[diffusers]'`), and `trust_remote_code=True` is needed: "
    "diffusers runs `pipeline.py`, which imports the pipeline from jitflow.\n\n"
    "```python\nfrom diffusers import DiffusionPipeline\n\n"
    "pipe = DiffusionPipeline.from_pretrained('.', trust_remote_code=True)\n"
    "images = pipe(class_labels=[0, 1], seeds=[0, 1]).images\n```"
)


def write_diffusers(folder: Path, state: ModelState, module: FlowModule, ema: int | str) -> None:
    """Write the model as a component, and the files by which diffusers finds its pipeline.

    Args:
        folder: Target folder.
        state: State of the checkpoint.
        module: The model, for its codec.
        ema: Average to write, 1 or 2; 0 for the weights themselves.
    """
    import diffusers

    component = folder / "model"
    component.mkdir()
    # The component samples from its weights, so these must be the average.
    average = replace(state, weights=state.chosen(int(ema)), ema1=None, ema2=None)
    write_state(average, component / WEIGHTS_NAME, ema=0)
    write_codec(component, module)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": ["pipeline", "JitflowPipeline"],
            "_diffusers_version": diffusers.__version__,
            "model": [_COMPONENT, "JitflowModel"],
        },
    )
    write_text(
        folder / "pipeline.py",
        '"""The pipeline of this folder is a part of jitflow, which must be installed."""\n\n'
        f"from {_COMPONENT} import JitflowPipeline\n\n"
        '__all__ = ["JitflowPipeline"]\n',
    )
