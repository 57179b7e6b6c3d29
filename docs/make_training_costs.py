"""Write what a training by `images/jit_*` takes into the recipes' first lines and `docs/large_runs.md` (3 min).

The one place of the measured rate: change it here, run `python docs/make_training_costs.py`, and commit what changed.
Without a change it writes the same; `tests/documented/test_training_costs.py` compares.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.inspect.describe import describe_model
from jitflow.io.files import write_text
from jitflow.run.memory import TrainingMemory, estimate_memory
from jitflow.run.recipe import read_recipe

# Images per second that one H200 trained: JiT-B/16, 256 px, batch 128, bf16, the step compiled
# (benchmarks/results/nvidia-h200.json).
MEASURED_MODEL, MEASURED_RATE = "JiT-B/16", 2450
# Dense bf16 operations per second of an H100 or H200, by their data sheets.
PEAK = 989e12
# One forward pass, and a backward pass of twice its cost; a multiply-accumulate is two operations.
OPERATIONS_PER_MAC = 3 * 2
IMAGES_PER_EPOCH = 1_281_167
MEMORY_GIB = 80

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "jitflow" / "apps" / "images" / "recipes"
NAMES = ("jit_b16_256", "jit_l16_256", "jit_h16_256", "jit_b32_512")
PAGE = Path(__file__).parent / "large_runs.md"
_LINES = re.compile(r"# On one H\d+[^:]*: .*\n(?:# .*\n)*?(?=# State: )")
_TABLE = re.compile(r"(?<=<!-- made by docs/make_training_costs.py -->\n).*?(?=\n\n`python docs/make_)", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """Cost of a whole training by a recipe.

    Attributes:
        model: Name of the network.
        epochs: Epochs of the recipe.
        batch: Images per step on one GPU, in the recipe.
        rate: Images per second on one H200, measured or estimated at the measured network's share of the peak.
        operations: Operations of the whole training.
    """

    model: str
    epochs: int
    batch: int
    rate: float
    operations: float

    @property
    def days(self) -> float:
        """Days of the training on one GPU."""
        return self.epochs * IMAGES_PER_EPOCH / self.rate / 86400

    @property
    def kind(self) -> str:
        """Whether the rate was measured."""
        return "measured" if self.model == MEASURED_MODEL else "estimated"


@functools.cache
def count_macs(model: str) -> int:
    """Count the multiply-accumulates of a forward pass of a network."""
    macs: int = describe_model(model)["macs"]
    return macs


def cost(name: str) -> Cost:
    """Compute the cost of a recipe from its operations and the measured rate."""
    recipe = read_recipe(f"images/{name}")
    model, epochs = recipe["model"]["init_args"]["model_name"], recipe["trainer"]["max_epochs"]
    macs, measured = count_macs(model), count_macs(MEASURED_MODEL)
    operations = OPERATIONS_PER_MAC * macs * IMAGES_PER_EPOCH * epochs
    return Cost(model, epochs, recipe["data"]["init_args"]["batch_size"], MEASURED_RATE * measured / macs, operations)


def share_of_peak() -> float:
    """Return the share of the card's peak that the measured training reaches."""
    return MEASURED_RATE * OPERATIONS_PER_MAC * count_macs(MEASURED_MODEL) / PEAK


def memory(name: str) -> TrainingMemory:
    """Estimate the memory of a recipe's training step; takes up to a minute."""
    recipe: dict[str, Any] = read_recipe(f"images/{name}")
    with torch.device("meta"):
        module = JiTLightningModule(**recipe["model"]["init_args"])
    return estimate_memory(module, precision=recipe["trainer"]["precision"], on_cuda=True)


def header(found: Cost, largest: int) -> str:
    """Return the lines of a recipe that name the largest batch and the days."""
    return (
        f"# On one H200: a batch of up to {largest} fits {MEMORY_GIB} GiB (memory estimate); {found.rate:,.0f} "
        f"images/s ({found.kind}),\n"
        f"# so {found.epochs} epochs take {found.days:.1f} days, on eight {found.days / 8:.1f} if they do not wait for "
        "data or each other (untested).\n"
    )


def row(name: str, found: Cost, largest: int, state_gib: float) -> str:
    """Return a recipe's row of the table in docs/large_runs.md."""
    return (
        f"| `images/{name}` | {found.operations:.1e} | {found.rate:,.0f} ({found.kind}) | {found.days:.1f} | "
        f"{found.days / 8:.1f} | {state_gib:.1f} GiB | {largest} |"
    )


def main() -> None:
    """Rewrite the recipes' lines and the table."""
    rows = [
        f"Measured: {MEASURED_MODEL} at {MEASURED_RATE:,} images/s on one H200 (256 px, batch 128, bf16, the step "
        f"compiled), {share_of_peak():.0%}\nof the card's peak. Other rates are estimates at the same share. "
        "600 epochs:\n",
        "| recipe | operations | images/s on one H200 | days on one | days on eight | state | batch in 80 GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        found, needed = cost(name), memory(name)
        largest = needed.largest_batch(MEMORY_GIB * 2**30)
        path = RECIPES / f"{name}.yaml"
        write_text(path, _LINES.sub(header(found, largest), path.read_text()))
        rows.append(row(name, found, largest, needed.state / 2**30))
    write_text(PAGE, _TABLE.sub("\n".join(rows).replace("\\", "\\\\"), PAGE.read_text()))


if __name__ == "__main__":
    main()
