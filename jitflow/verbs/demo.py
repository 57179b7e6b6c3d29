"""The verb ``demo``: train an application on built-in data, with the steps before and after training."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from jitflow.applications import BUILT_IN, get_application, list_applications, load_object
from jitflow.callbacks.history import TrainingHistory
from jitflow.errors import ConfigError, unknown_name
from jitflow.io.files import load_checkpoint, read_json, user_path, writable_folder, write_json
from jitflow.model import default_device
from jitflow.run.describe import Run, describe_run
from jitflow.run.fit import fit
from jitflow.run.folder import RUN_NAME, RunRecord, RunState, outcome_recorded, read_run_record, write_run_record
from jitflow.run.recipe import flatten, override, read_recipe
from jitflow.run.report import REPORT_NAME, write_final_report
from jitflow.run.settings import changed_settings, complete, describe_changes
from jitflow.run.start import clear_run, recorded_recipe
from jitflow.training.demo import Demo, DemoState, Step
from jitflow.verbs.commandline import run_command

METRICS_NAME = "metrics.json"
# Where a demo kept its settings before there was run.json.
_FORMER_NAME = "settings.json"
SETTINGS = "settings"
"""Section of a demo's record that holds its settings besides the recipe."""
_HELP = """

Run the command again to resume an interrupted demo, or to report the results of a finished one.

Args:
    out: Folder of the results.
    seed: Seed of all random generators.
    restart: Delete the results in the folder and start from scratch.
    dry_run: Print what would be done, and do nothing.
"""


@dataclass(frozen=True)
class DemoPlan:
    """Complete settings of a demo.

    Attributes:
        name: The application.
        demo: Its demo.
        out: Folder of the results.
        seed: Seed of all random generators.
        overrides: Settings of the recipe by dotted name.
        settings: The demo's other settings.
        recipe: Complete recipe of the training.
        base: Folder of the demo that it starts from; None for none.
    """

    name: str
    demo: Demo
    out: Path
    seed: int
    overrides: Mapping[str, Any]
    settings: Mapping[str, Any]
    recipe: dict[str, Any]
    base: Path | None = None

    @property
    def record(self) -> dict[str, Any]:
        """All settings of the demo, as stored in ``run.json``."""
        return {**self.recipe, SETTINGS: dict(self.settings)}


def demo(args: list[str]) -> None:
    """Run the demo of an application, ``jitflow demo``."""
    name = list_applications()[0]
    if args[:1] and not args[0].startswith("-"):
        name, args = args[0], args[1:]

    def command(out: str = f"runs/demo/{name}", seed: int = 0, restart: bool = False, dry_run: bool = False) -> None:
        run_demo(name, out, seed, restart=restart, dry_run=dry_run)

    command.__doc__ = find_demo(name).summary + _HELP
    run_command(f"demo {name}", command, args)


def find_demo(name: str) -> Demo:
    """Import a demo.

    Args:
        name: The application's name, or that of a further demo.

    Raises:
        ConfigError: If there is no such demo.
    """
    if name in list_applications():
        where = get_application(name).demo
    else:
        # No application beside the named one is imported, unless none is.
        further = {word: path for own in BUILT_IN for word, path in get_application(own).further_demos.items()}
        if name not in further:
            raise unknown_name("demo", name, [*list_applications(), *further])
        where = further[name]
    if not where:
        raise ConfigError(f"the application {name} has no demo")
    found: Demo = load_object(where)
    return found


def run_demo(
    name: str,
    out: str | Path | None = None,
    seed: int = 0,
    *,
    restart: bool = False,
    dry_run: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """Run a demo, resume an interrupted one, or report the metrics of a finished one.

    Args:
        name: The application.
        out: Folder of the results; ``runs/demo/<name>`` by default.
        seed: Seed of all random generators.
        restart: Delete what the demo wrote into the folder, and start from scratch.
        dry_run: Print what would be done, and do nothing.
        quick: Train for seconds only, for tests; nothing is learned.

    Returns:
        Content of ``metrics.json``; empty after a dry run.

    Raises:
        ConfigError: If the folder holds a run with other settings.
    """
    # For the demo that it may start from as well.
    length = {"quick": quick}
    plan = plan_demo(name, out, seed, **length)
    out = plan.out
    path = out / METRICS_NAME
    console = Console(markup=False, stderr=True, soft_wrap=True)
    if dry_run:
        action = "report the results" if path.exists() else "resume" if out.exists() else "start"
        shown = json.dumps({**plan.overrides, **plan.settings})
        console.print(
            f"would {'restart' if restart else action} in {out} (recipe {plan.demo.recipe}, seed {seed}): {shown}"
        )
        return {}
    if restart:
        clear_demo(out, plan.demo)
    _check_same(plan)
    if path.exists():
        console.print(f"{out} is finished already; --restart trains again from scratch.")
    else:
        if plan.base is not None and not (plan.base / METRICS_NAME).exists():
            console.print(f"{plan.base} holds no finished demo, and so this one comes first")
            run_demo(plan.demo.base, plan.base, seed, **length)
        _run(plan, console)
    metrics: dict[str, Any] = read_json(path)
    plan.demo.describe(out, metrics)
    return metrics


def plan_demo(name: str, out: str | Path | None = None, seed: int = 0, *, quick: bool = False) -> DemoPlan:
    """Resolve the settings of a demo; arguments as in :func:`run_demo`.

    Raises:
        ConfigError: If there is no such demo.
    """
    chosen = find_demo(name)
    accelerator = "gpu" if default_device() == "cuda" else "cpu"
    overrides, settings = {"trainer.accelerator": accelerator, **chosen.overrides}, dict(chosen.settings)
    for dotted, value in (chosen.quick if quick else {}).items():
        section, _, rest = dotted.partition(".")
        if section == SETTINGS:
            settings[rest] = value
        else:
            overrides[dotted] = value
    folder = user_path(out if out is not None else f"runs/demo/{name}")
    base = folder.parent / chosen.base if chosen.base else None
    if base is not None:
        overrides["init_from"] = str(base)
    recipe = complete(override(read_recipe(chosen.recipe), {**overrides, "seed_everything": seed}))
    return DemoPlan(name, chosen, folder, seed, overrides, settings, recipe, base)


def clear_demo(out: Path, chosen: Demo) -> None:
    """Delete the files that a demo wrote into its folder, and no others."""
    clear_run(out / chosen.training)
    for name in (*chosen.writes, METRICS_NAME, REPORT_NAME, RUN_NAME, _FORMER_NAME):
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if chosen.training:
        # The folder may hold other files.
        with suppress(OSError):
            (out / chosen.training).rmdir()


def _check_same(plan: DemoPlan) -> None:
    """Raise ConfigError if a folder holds a demo with other settings, or an unfinished one of an earlier version."""
    out, advice = plan.out, "use --restart or another --out"
    record = read_run_record(out)
    if record is not None:
        changed = changed_settings(flatten(record.recipe), flatten(plan.record))
        if changed:
            raise ConfigError(f"{out} holds a run with other settings: {describe_changes(changed)}; {advice}")
        return
    seed = _former_seed(out)
    if seed is None:
        return
    if not (out / METRICS_NAME).exists():
        raise ConfigError(f"{out} holds an unfinished demo of an earlier version; {advice}")
    if seed != plan.seed:
        raise ConfigError(f"{out} holds a run with other settings: seed {seed} (now {plan.seed}); {advice}")


def _former_seed(out: Path) -> int | None:
    """Return the seed of a demo that predates run.json; None if there is no such demo."""
    if (out / _FORMER_NAME).is_file():
        return int(read_json(out / _FORMER_NAME).get("seed", 0))
    recipe = recorded_recipe(out, None)
    return None if recipe is None else int(recipe["seed_everything"])


def _run(plan: DemoPlan, console: Console) -> None:
    """Run all steps and write ``metrics.json``; each step skips work that is already done."""
    chosen, out = plan.demo, writable_folder(plan.out)
    command = shlex.join(["jitflow", "demo", plan.name, "--out", str(out)])
    record = RunRecord(plan.name, plan.record, "running", command=command)
    if chosen.training:
        # Otherwise the training's own record stands for the whole demo.
        write_run_record(out, record)
    state = DemoState(out, plan.seed, plan.settings, flatten(plan.recipe), console)
    state.base = None if plan.base is None else describe_run(plan.base).checkpoint
    seconds: dict[str, float] = {}
    with outcome_recorded(partial(_write_outcome, out)):
        _run_steps(chosen.before, state, seconds)
        run = fit(plan.recipe, out / chosen.training, callbacks=[TrainingHistory()], command=command)
        _read_training(run, state)
        seconds["train"] = round(state.train_seconds, 1)
        _run_steps(chosen.after, state, seconds)
        settings = {**plan.settings, "training": plan.overrides, "seed": plan.seed}
        write_json(out / METRICS_NAME, {"settings": settings, **state.metrics, "seconds": seconds})
    write_final_report(out)


def _write_outcome(out: Path, state: RunState, detail: str) -> None:
    record = read_run_record(out)
    # There is no record if the training, whose record stands for the whole demo, was refused.
    if record is None:
        return
    record = replace(record, state=state, detail=detail)
    if state == "finished":
        run = describe_run(out)
        record = replace(record, epochs=run.epochs, steps=run.steps, score=run.score)
    write_run_record(out, record)


def _run_steps(steps: Mapping[str, Step], state: DemoState, seconds: dict[str, float]) -> None:
    for name, step in steps.items():
        started = time.monotonic()
        step(state)
        seconds[name] = round(time.monotonic() - started, 1)


def _read_training(run: Run, state: DemoState) -> None:
    """Store the checkpoint, losses and duration of the training for the later steps.

    Raises:
        ConfigError: If the checkpoint holds no losses because another command trained it.
    """
    assert run.checkpoint is not None
    history = load_checkpoint(run.checkpoint).get("callbacks", {}).get(TrainingHistory.__qualname__)
    if history is None:
        raise ConfigError(
            f"{run.checkpoint} holds no losses: it was not trained by `jitflow demo`; use --restart or another --out"
        )
    state.checkpoint, state.best = run.checkpoint, run.best
    state.losses, state.train_seconds = history["losses"], history["seconds"]
