"""Parser of ``jitflow train``, built from the signatures of the classes it configures, and the dry-run report."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import jsonargparse
import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser

from jitflow.errors import ConfigError
from jitflow.run.fit import Training, describe_length, describe_model
from jitflow.run.forecast import forecast_lines
from jitflow.run.recipe import find_class, importable_packages
from jitflow.run.settings import CHECKPOINTS, SECTIONS
from jitflow.training.float8 import FP8_MIXED, float8_layers
from jitflow.training.module import FlowModule
from jitflow.verbs.commandline import WORDS

log = logging.getLogger(__name__)
# Annotations of settings that are text or a path.
_TEXTS = ({"str"}, {"str", "None"}, {"str", "Path"}, {"str", "Path", "None"})
# Settings of Lightning's Trainer of the type Optional[int | float]. Of equal types typing makes the first one only, so
# that it becomes Optional[float | int] if that was made before, and 1, one batch, would become 1.0, all of them.
_WHOLE_OR_SHARE = {
    **{
        f"limit_{stage}_batches": f"Batches of {batches}: a whole number, or a share with a decimal point; 1.0 is all."
        for stage, batches in (
            ("train", "a training epoch"),
            ("val", "a validation"),
            ("test", "a test"),
            ("predict", "a prediction"),
        )
    },
    "gradient_clip_val": "Gradients are clipped at this value; none are by default.",
}


def train_parser() -> LightningArgumentParser:
    """Build the parser of a training's settings; parsing builds no model, data or trainer."""
    # An abbreviated option could become ambiguous when options are added.
    parser = LightningArgumentParser(prog="jitflow train", exit_on_error=False, allow_abbrev=False, parser_mode=WORDS)
    parser.add_argument("-c", "--config", action="config", help="Name of a recipe, or a file.")
    parser.add_argument("--run_dir", type=str | None, default=None, help="Folder of the run; runs/<recipe>.")
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        help="Resume a run: a checkpoint, a run's folder, or 'auto' for the folder of --run_dir; without --config its "
        "recorded settings are used. An unfinished run with the same settings resumes without this option.",
    )
    parser.add_argument("--restart", type=bool, default=False, help="Delete an earlier training in the folder.")
    parser.add_argument(
        "--init_from", type=str | None, default=None, help="Start a new run from the weights of this checkpoint."
    )
    parser.add_argument("--init_ema", type=int, default=1, help="Average of the weights that --init_from loads.")
    parser.add_argument(
        "--ema_snapshots_every_n_steps",
        type=int | None,
        default=None,
        help="Also save snapshots for post-hoc averages of any width; off by default.",
    )
    parser.add_argument(
        "--ema_on_cpu",
        type=bool,
        default=False,
        help="Keep both averages in the host's memory; slower, less on the GPU.",
    )
    parser.add_argument(
        "--optimizer_on_cpu",
        type=bool,
        default=False,
        help="Keep the optimiser's state in the host's memory and step there; slower, less on the GPU.",
    )
    parser.add_argument("--dry_run", type=bool, default=False, help="Check everything, print what would run, and stop.")
    parser.add_argument(
        "--allow_import",
        type=list[str],
        default=[],
        help="Packages, besides jitflow, torch and Lightning, whose classes the recipe may name; their code runs.",
    )
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of all random generators.")
    parser.add_lightning_class_args(FlowModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
    _add_trainer(parser)
    for name, (function, left_out) in SECTIONS.items():
        if name != "trainer":
            parser.add_class_arguments(function, name, skip=left_out, instantiate=False, sub_configs=False)
    # Relative to the run's folder.
    parser.set_defaults({"checkpoint.dirpath": CHECKPOINTS})
    parser.add_argument("--logging.tensorboard", type=str | None, default="tensorboard", help="TensorBoard folder.")
    parser.add_argument("--logging.csv", type=str | None, default="csv", help="Folder of the CSV logs.")
    parser.add_argument(
        "--logging.wandb", type=dict[str, Any] | None, default=None, help="Settings of a Weights & Biases run."
    )
    return parser


@contextmanager
def import_policy(allow_import: Collection[str]) -> Iterator[None]:
    """Let the parser import classes of the packages that a recipe may name, and no others.

    Args:
        allow_import: Packages besides those of :func:`jitflow.run.recipe.importable_packages`.
    """
    # All others stay denied in this process, of which the parser keeps one list.
    known = importable_packages()
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*known, *allow_import])
    try:
        yield
    finally:
        jsonargparse.set_parsing_settings(import_path_denylist=[p for p in allow_import if p not in known])


def set_texts_aside(
    args: Sequence[str], recipe: Mapping[str, Any], allow_import: Collection[str] = ()
) -> tuple[list[str], dict[tuple[str, str], str]]:
    """Replace the values of settings of model and data that are text, such as ``1e3``, which the parser reads as YAML.

    Args:
        args: Options in the form ``--name=value``.
        recipe: The recipe that they name, with the classes of model and data.
        allow_import: Packages of further classes.

    Returns:
        The options for the parser, and what was typed by section and name.
    """
    kinds: dict[tuple[str, str], str] = {}
    for section in ("model", "data"):
        # The parser explains a class that cannot be used.
        with suppress(ConfigError):
            cls = find_class(recipe.get(section) or {}, allow_import)
            kinds.update({(section, p.name): str(p.annotation) for p in inspect.signature(cls).parameters.values()})
    kept: list[str] = []
    texts: dict[tuple[str, str], str] = {}
    for arg in args:
        flag, equals, value = arg.partition("=")
        section, _, name = flag.removeprefix("--").replace(".init_args.", ".").partition(".")
        is_text = set(kinds.get((section, name), "").split(" | ")) in _TEXTS
        if equals and is_text and value != "null":
            texts[section, name] = value
            kept.append(f"{flag}=text")
        else:
            kept.append(arg)
            texts.pop((section, name), None)
    return kept, texts


def _add_trainer(parser: LightningArgumentParser) -> None:
    """Add the arguments of Lightning's Trainer; to its precisions our own, and numbers that stay whole."""
    parameters = inspect.signature(pl.Trainer).parameters
    ours = {
        "precision": (
            parameters["precision"].annotation | Literal["fp8-mixed"],
            "Lightning's, or fp8-mixed: bf16-mixed with float8 products in the large layers.",
        ),
        **{name: (int | float | None, text) for name, text in _WHOLE_OR_SHARE.items()},
    }
    parser.add_class_arguments(
        pl.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True, skip=set(ours)
    )
    assert parser.groups is not None
    for name, (kind, text) in ours.items():
        parser.groups["trainer"].add_argument(
            f"--trainer.{name}", type=kind, default=parameters[name].default, help=text
        )


def describe_dry_run(training: Training) -> None:
    """Log the plan of a training: folder, model, data, devices, length, memory, time, perhaps a warning."""
    trainer = training.trainer
    lines = {
        "run folder": training.run_dir,
        "resume": training.start.checkpoint or "no",
        "model": describe_model(training.module),
        "data": ", ".join(f"{k} {v}" for k, v in training.info.items() if isinstance(v, (int, str))),
        "devices": f"{trainer.num_devices} x {trainer.strategy.root_device.type}, {_describe_precision(training)}",
        "length": describe_length(training),
        **forecast_lines(training.module, training.data, trainer, training.course),
    }
    log.info("dry run, nothing is trained:")
    for key, value in lines.items():
        log.info("  %-11s %s", key, value)


def _describe_precision(training: Training) -> str:
    precision = str(training.trainer.precision)
    if precision != FP8_MIXED:
        return precision
    return f"{precision} ({len(float8_layers(training.module.net))} layers in float8)"
