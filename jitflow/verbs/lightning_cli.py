"""``jitflow train``: Lightning's command line over our recipes.

``--config`` takes a recipe's name as well as a file, every setting can be overridden by a dotted option
(``--data.batch_size 32``), and the run gets a folder that explains itself.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from jitflow.callbacks import (
    DataRecord,
    EMACallback,
    EMASnapshotCallback,
    JiTModelCheckpoint,
    LearningRateSchedulerCallback,
    TrainingProgress,
    TrainingWatch,
)
from jitflow.callbacks.guard import FiniteGuard
from jitflow.callbacks.signals import resumable_exit
from jitflow.checkpoint.convert import resumable
from jitflow.checkpoint.find import find_checkpoint, resume_point
from jitflow.checkpoint.folder import LAST_NAME
from jitflow.checkpoint.load import init_from
from jitflow.errors import ConfigError, option_error
from jitflow.io.files import load_checkpoint
from jitflow.run.folder import CONFIG_NAME, write_run_folder
from jitflow.run.memory import describe_fit
from jitflow.run.recipe import build, find_recipe
from jitflow.run.strategy import strategy_for
from jitflow.training.module import FlowModule

log = logging.getLogger(__name__)

# What may differ between two parts of one run: where it is called from, what lies where, how long it shall last.
_MAY_CHANGE = {
    "config",
    "dry_run",
    "ema_on_cpu",
    "optimizer_on_cpu",
    "resume",
    "run_dir",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.min_epochs",
    "trainer.min_steps",
}


class TrainCLI(LightningCLI):
    """Lightning's command line with the callbacks, loggers and folder of a jitflow run.

    Args:
        args: The words of the command line.
        recipe: Name of the recipe, which names the run's folder.
    """

    def __init__(self, args: list[str], *, recipe: str | None) -> None:
        self.recipe = recipe
        super().__init__(
            FlowModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            run=False,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Our modules save plain arguments by themselves; Lightning's record would need its own loader.
            load_from_checkpoint_support=False,
            parser_kwargs={"prog": "jitflow train", "exit_on_error": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that are ours."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="Folder of the run; runs/<recipe>.")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Continue a run: a checkpoint, a run's folder, or 'auto' for the folder of --run_dir. An unfinished "
            "run with the same settings is continued without.",
        )
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="Start a new run from the weights of this checkpoint."
        )
        parser.add_argument("--init_ema", type=int, default=1, help="Average that --init_from takes.")
        parser.add_argument(
            "--ema_snapshots_every_n_steps",
            type=int | None,
            default=None,
            help="Also keep snapshots from which an average of any width can be made after training; off by default.",
        )
        parser.add_argument(
            "--ema_on_cpu",
            action="store_true",
            help="Keep both averages in the host's memory; slower, less on the GPU.",
        )
        parser.add_argument(
            "--optimizer_on_cpu",
            action="store_true",
            help="Keep the optimiser's state in the host's memory and step there; slower, less on the GPU.",
        )
        parser.add_argument("--dry_run", action="store_true", help="Check everything, say what would run, stop.")
        parser.add_class_arguments(
            LearningRateSchedulerCallback, "schedule", skip={"epochs"}, instantiate=False, sub_configs=False
        )
        parser.add_class_arguments(
            JiTModelCheckpoint, "checkpoint", skip={"dirpath"}, instantiate=False, sub_configs=False
        )
        parser.add_class_arguments(FiniteGuard, "guard", instantiate=False, sub_configs=False)

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.config.run_dir or Path("runs") / (self.recipe or "train").replace("/", "_"))

    def settings(self) -> str:
        """Return all settings as YAML."""
        return str(self.parser.dump(self.config, skip_unset=False))

    def instantiate_classes(self) -> None:
        """Build data, model and trainer."""
        epochs = self.config.trainer.max_epochs
        schedule = LearningRateSchedulerCallback(**self.config.schedule, epochs=epochs or 600)
        checkpoint = JiTModelCheckpoint(self.run_dir / "checkpoints", **self.config.checkpoint)
        # Built by ourselves: jsonargparse would bury an error of ours under the types it tried.
        self.model = build(self.config.model.as_dict(), foreign=True)
        self.model.optimizer_on_cpu = self.config.optimizer_on_cpu
        self.datamodule = build(self.config.data.as_dict(), foreign=True)
        rest = self.config.clone()
        rest.pop("model")
        rest.pop("data")
        self.config_init = self.parser.instantiate(rest)
        chosen = self._get(self.config_init, "trainer.callbacks") or []
        chosen = list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]
        callbacks = [
            EMACallback(self.model.ema_decay1, self.model.ema_decay2, on_cpu=self.config.ema_on_cpu),
            schedule,
            TrainingProgress(),
            TrainingWatch(),
            DataRecord(self.run_dir),
            FiniteGuard(**self.config.guard),
            checkpoint,
        ]
        every = self.config.ema_snapshots_every_n_steps
        if every is not None:
            callbacks.append(EMASnapshotCallback(self.run_dir / "ema_snapshots", every_n_steps=every))
        # A callback the user configured replaces ours of the same kind.
        callbacks = [ours for ours in callbacks if not any(isinstance(c, type(ours)) for c in chosen)]
        logger = self.config.trainer.logger
        if logger is None or logger is True:
            # CSV in a new folder for each part of a run: its logger empties the folder it is given.
            logger = [TensorBoardLogger(self.run_dir, "", "tensorboard"), CSVLogger(self.run_dir, "csv")]
        asked = self.config_init.trainer
        self.trainer = self.instantiate_trainer(
            strategy=strategy_for(
                asked.strategy,
                devices=asked.devices,
                accelerator=asked.accelerator,
                num_nodes=asked.num_nodes,
                accumulate=asked.accumulate_grad_batches,
            ),
            callbacks=chosen + callbacks,
            logger=logger,
            default_root_dir=str(self.run_dir),
            # Counted better by our own line and by `jitflow models`.
            enable_model_summary=False,
        )


def train(args: list[str]) -> Path | None:
    """Train as ``jitflow train`` is told.

    Args:
        args: The words after the verb.

    Returns:
        The run's folder; None after a dry run, and on all processes but the first.

    Raises:
        JitflowError: If a setting, the data or a path cannot work; before training starts.
    """
    args, recipe = _with_recipe_paths(args)
    with warnings.catch_warnings():
        # Lightning suspects that words given in Python were given on the command line as well; they were.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        try:
            cli = TrainCLI(args, recipe=recipe)
        except argparse.ArgumentError as error:
            raise option_error(str(error), "jitflow train") from None
    resume = _checkpoint_to_resume(cli)
    if resume is None and cli.config.init_from is not None:
        init_from(cli.model, find_checkpoint(cli.config.init_from), ema=cli.config.init_ema)
    # Everything that can be wrong is looked at before the run leaves a trace.
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    info: dict[str, Any] = getattr(cli.datamodule, "get_dataset_info", dict)()
    cli.model.check_data(info)
    if cli.config.dry_run:
        _describe(cli, resume, info)
        return None
    if resume is not None:
        # Checked before anything of the run is written over.
        resume = resumable(resume, cli.model, cli.run_dir / "checkpoints")
    if cli.trainer.is_global_zero:
        write_run_folder(cli.run_dir, cli.settings(), seed=cli.config.seed_everything)
    log.info("%s in %s", _describe_model(cli.model), cli.run_dir)
    if resume is not None:
        log.info("resuming from %s", resume)
    with resumable_exit(cli.trainer, "the same command goes on"):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume)
    log.info("done: %s", cli.run_dir / "checkpoints" / LAST_NAME)
    return cli.run_dir if cli.trainer.is_global_zero else None


def _checkpoint_to_resume(cli: TrainCLI) -> Path | None:
    """What ``--resume`` names, or else where the folder's own run was cut off; ConfigError if that is another run."""
    if cli.config.resume is not None:
        if cli.config.init_from is not None and cli.config.resume != "auto":
            raise ConfigError("--resume continues a run, --init_from starts a new one; give one of them")
        return find_checkpoint(cli.run_dir if cli.config.resume == "auto" else cli.config.resume)
    found = resume_point(cli.run_dir)
    if found is None:
        return None
    ways = "continue it with --resume auto, or choose another --run_dir"
    changed = changed_settings(cli.run_dir / CONFIG_NAME, cli.settings())
    if changed is None or changed:
        what = f"a run with other settings ({', '.join(changed[:5])})" if changed else "a run already"
        raise ConfigError(f"{cli.run_dir} holds {what}; {ways}")
    if _is_finished(found, cli.trainer):
        raise ConfigError(f"{cli.run_dir} holds a finished run; to train longer {ways}")
    log.info("%s holds this very run, unfinished; going on with it", cli.run_dir)
    return found


def changed_settings(recorded: Path, settings: str) -> list[str] | None:
    """Compare the settings of a run with those that its folder records, leaving aside how long it shall last.

    Args:
        recorded: The folder's ``config.yaml``.
        settings: The settings as YAML.

    Returns:
        Dotted names of what differs, in order; None if there is no record that could be read.
    """
    try:
        before = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if not isinstance(before, dict):
        return None
    then, now = _flat(before), _flat(yaml.safe_load(settings))
    return sorted(name for name in {*then, *now} - _MAY_CHANGE if then.get(name) != now.get(name))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _is_finished(checkpoint: Path, trainer: pl.Trainer) -> bool:
    """Whether a checkpoint lies at the end of what a trainer would do."""
    state = load_checkpoint(checkpoint)
    try:
        epochs = int(state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return False
    by_epochs = trainer.max_epochs is not None and 0 < trainer.max_epochs <= epochs
    return by_epochs or 0 < trainer.max_steps <= int(state.get("global_step", 0))


def _with_recipe_paths(args: list[str]) -> tuple[list[str], str | None]:
    """Replace the names of recipes by their files; also return the first name."""
    resolved, name = [], None
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-c"):
            value = value if equals else next(words, "")
            if not value:
                raise ConfigError("--config needs the name of a recipe or a file, such as images/jit_b16_256")
            name = name or (Path(value).stem if Path(value).is_file() else value)
            resolved.append(f"--config={find_recipe(value)}")
        else:
            resolved.append(word)
    return resolved, name


def _describe(cli: TrainCLI, resume: Path | None, info: dict[str, Any]) -> None:
    cli.datamodule.train_dataloader()
    lines = {
        "run folder": cli.run_dir,
        "resume": resume or "no",
        "model": _describe_model(cli.model),
        "data": ", ".join(f"{k} {v}" for k, v in info.items() if isinstance(v, (int, str))),
        "devices": f"{cli.trainer.num_devices} x {cli.trainer.strategy.root_device.type}, {cli.trainer.precision}",
        "length": f"{cli.trainer.max_epochs} epochs",
        "needs": describe_fit(
            cli.model,
            getattr(cli.datamodule, "batch_size", None),
            cli.trainer.strategy.root_device,
            precision=cli.trainer.precision,
        ),
    }
    log.info("dry run, nothing is trained:")
    for key, value in lines.items():
        log.info("  %-11s %s", key, value)


def _describe_model(model: FlowModule) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return f"{getattr(model, 'model_name', type(model).__name__)}, {parameters / 1e6:.2f}M parameters"
