"""The zoo: every method against its base at equal steps and at equal time: ``python benchmarks/zoo.py``.

Each row of ``_zoo_rows.py`` trains the same small network on the built-in digits with several seeds; the four best then
train on colour crops of photos. A judge that no method was trained on scores the samples. Results go to
``benchmarks/results/zoo.json`` after each run; the same command goes on with the missing ones. One run is made for
about a minute of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _zoo_data import HELD_OUT, ZooData, digits, moments_of, photos
from _zoo_rows import BASE, ENCODER, ROWS, Row
from _zoo_table import best_rows, report
from rich.console import Console
from torch import Tensor

from jitflow.errors import ConfigError, unknown_name
from jitflow.evaluation.frechet import frechet_distance
from jitflow.evaluation.moments import Moments
from jitflow.io.files import read_json, write_json
from jitflow.model import load
from jitflow.run.fit import fit
from jitflow.run.folder import describe_environment
from jitflow.run.recipe import override, read_recipe
from jitflow.training.trained_on import is_same_space

RESULTS = Path(__file__).parent / "results" / "zoo.json"
FOLDER = Path("runs") / "zoo"
COMMAND = "python benchmarks/zoo.py"
EQUAL_STEPS, EQUAL_TIME, YOUNGER = "equal_steps", "equal_time", "younger"
NUM_BEST = 4
_MIB = 2**20
# Steps whose times vary more than those of the training: caches are empty.
_WARM_UP_STEPS = 10

log = logging.getLogger(__name__)
Run = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes of one run, the same for all rows.

    Attributes:
        steps: Training steps of the base, and of every row at equal steps.
        batch_size: Images per step.
        hidden_size: Width of the network, of four blocks.
        learning_rate: Learning rate, constant after the warm-up, so that a row can be judged at any step.
        num_samples: Samples that are judged.
        sampling_steps: Steps of the solver.
        guidance: Guidance scale of rows that do not set it.
        ema_decay: Decay of the average that is judged.
        limit: Most steps of a cheap row at equal time, as a multiple of ``steps``.
    """

    steps: int = 600
    batch_size: int = 64
    hidden_size: int = 64
    learning_rate: float = 2e-3
    num_samples: int = 1000
    sampling_steps: int = 20
    guidance: float = 1.5
    ema_decay: float = 0.99
    limit: float = 1.25


class Snapshots(pl.Callback):
    """Save the training at an equal number of steps and at an equal time, and measure what a step costs.

    Time is this process's CPU time, which other work on the machine hardly changes; it is counted as the median of a
    step times the number of steps, so that logging and saving do not count.

    Args:
        folder: Folder of the snapshots.
        steps: Equal number of steps.
        budget_sec: CPU time of the base's steps; None for the base itself.
        limit: Most steps, as a multiple of ``steps``.

    Attributes:
        steps_at: Number of steps at each snapshot.
        step_sec: Median CPU time of a step.
        kept_mib: Memory of weights, averages, optimiser, and all that a step keeps for its backward pass.
    """

    def __init__(self, folder: Path, steps: int, budget_sec: float | None, limit: float) -> None:
        self._folder, self._budget_sec = folder, budget_sec
        self._wanted = {YOUNGER: max(1, steps // 4), EQUAL_STEPS: steps}
        self._last = steps if budget_sec is None else int(steps * limit)
        self._durations: list[float] = []
        self._before: float | None = None
        self._kept: dict[int, int] = {}
        self._hooks: AbstractContextManager[Any] | None = None
        self.steps_at: dict[str, int] = {}
        self.step_sec = 0.0
        self.kept_mib = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Time the step before, and save what is due; count a step's memory once."""
        now, step = time.process_time(), trainer.global_step
        if self._before is not None:
            self._durations.append(now - self._before)
        if step == _WARM_UP_STEPS or (step == 1 and self._last <= _WARM_UP_STEPS):
            self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)
            self._hooks.__enter__()
        self._save_due(trainer, step)
        self._before = time.process_time() if self._hooks is None else None

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """Add up the memory of the counted step."""
        if self._hooks is None:
            return
        self._hooks.__exit__(None, None, None)
        self._hooks = None
        own = [*module.parameters(), *module.buffers(), *module.ema_params1.values(), *module.ema_params2.values()]
        moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        for value in (*own, *(value for value in moments if isinstance(value, Tensor))):
            self._keep(value)
        self.kept_mib = sum(self._kept.values()) / _MIB

    def _keep(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        self._kept[storage.data_ptr()] = storage.nbytes()
        return value

    def _save_due(self, trainer: pl.Trainer, step: int) -> None:
        due = [name for name, at in self._wanted.items() if at == step]
        self.step_sec = statistics.median(self._durations[_WARM_UP_STEPS:] or self._durations or [0.0])
        budget = self._budget_sec
        if EQUAL_TIME not in self.steps_at and step > 0:
            at_end = step == self._last
            if at_end or (budget is not None and step > _WARM_UP_STEPS and step * self.step_sec >= budget):
                due.append(EQUAL_TIME)
        for name in due:
            trainer.save_checkpoint(self._folder / f"{name}.ckpt")
            self.steps_at[name] = step
        if {EQUAL_STEPS, EQUAL_TIME} <= self.steps_at.keys():
            trainer.should_stop = True


class Zoo:
    """Runs of the zoo, with their results in one file.

    Args:
        results: The JSON file of the results.
        folder: Folder of the trainings and judges.
        sizes: Sizes of a run.
        rows: The methods by name.
    """

    def __init__(self, results: Path, folder: Path, sizes: Sizes, rows: Mapping[str, Row] = ROWS) -> None:
        self._results, self._folder, self.sizes, self.rows = results, folder, sizes, rows
        stored = read_json(results) if results.exists() else {}
        if stored and stored["sizes"] != asdict(sizes):
            raise ConfigError(
                f"{results} holds runs of other sizes ({stored['sizes']}); move it away or give --results"
            )
        self.runs: list[Run] = stored.get("runs", [])
        self._references: dict[str, dict[str, Any]] = {}

    def find(self, data: str, row: str, seed: int) -> Run | None:
        """Return the result of a run, or None."""
        wanted = {"data": data, "row": row, "seed": seed}
        return next((run for run in self.runs if wanted.items() <= run.items()), None)

    def run(self, data: str, source: ZooData, row: str, seed: int) -> Run:
        """Train a row, unless a row with the same training has been, and judge it; write the results.

        Args:
            data: Name of the data.
            source: The data.
            row: Name of the row.
            seed: Seed of the run.
        """
        started = time.perf_counter()
        folder, cost = self._trained(data, source, self.rows[row], seed)
        result = {
            "data": data,
            "row": row,
            "seed": seed,
            **cost,
            **self._judged(data, source, folder, cost, self.rows[row], seed),
            "wall_sec": round(time.perf_counter() - started, 1),
        }
        self.runs.append(result)
        machine = {**describe_environment(), "threads": torch.get_num_threads()}
        content = {"command": COMMAND, "sizes": asdict(self.sizes), "machine": machine, "runs": self.runs}
        write_json(self._results, content)
        return result

    def _trained(self, data: str, source: ZooData, row: Row, seed: int) -> tuple[Path, dict[str, Any]]:
        """Return the folder of a row's snapshots and the costs of its training."""
        train = fill(row.train, source.encoder)
        key = hashlib.sha256(json.dumps([asdict(self.sizes), train], sort_keys=True).encode()).hexdigest()[:12]
        folder = self._folder / data / f"{key}-seed{seed}"
        if (folder / "cost.json").exists():
            return folder, read_json(folder / "cost.json")
        base = self.find(data, BASE, seed)
        if base is None and row.train:
            raise ConfigError(f"the row {BASE} of seed {seed} must run before the others")
        budget = base["step_sec"] * self.sizes.steps if base and row.train else None
        snapshots = Snapshots(folder, self.sizes.steps, budget, self.sizes.limit)
        recipe = override(read_recipe("images/digits"), {**self._common(seed), **source.recipe, **train})
        # A training that was cut off starts anew: its clock is lost.
        fit(recipe, folder / "run", callbacks=[snapshots], restart=True)
        cost = {
            "steps": snapshots.steps_at,
            "step_sec": snapshots.step_sec,
            "kept_mib": round(snapshots.kept_mib, 2),
        }
        write_json(folder / "cost.json", cost)
        return folder, cost

    def _common(self, seed: int) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "seed_everything": seed,
            "model.net_settings": {
                "hidden_size": sizes.hidden_size,
                "num_heads": sizes.hidden_size // 32,
                "bottleneck_dim": sizes.hidden_size // 2,
            },
            "model.learning_rate": sizes.learning_rate,
            "model.ema_decay1": sizes.ema_decay,
            "data.batch_size": sizes.batch_size,
            "data.num_workers": 0,
            "schedule.lr_schedule": "constant",
            "schedule.warmup_epochs": 1,
            # One step more, at whose beginning the last snapshot is taken.
            "trainer.max_steps": int(sizes.steps * sizes.limit) + 1,
            "trainer.max_epochs": 100_000,
            "trainer.check_val_every_n_epoch": 100_000,
            "trainer.accelerator": "cpu",
            "checkpoint.save_last_freq": 100_000,
        }

    def _judged(
        self, data: str, source: ZooData, folder: Path, cost: Mapping[str, Any], row: Row, seed: int
    ) -> dict[str, Any]:
        """Return Frechet distances by snapshot and judge, judges that a training optimised, and sampling's CPU time."""
        if data not in self._references:
            self._references[data] = source.references()
        scores: dict[str, dict[str, float]] = {}
        seconds, trained_on = 0.0, []
        for name in (EQUAL_STEPS, EQUAL_TIME):
            if name == EQUAL_TIME and cost["steps"][name] == cost["steps"][EQUAL_STEPS]:
                scores[name] = scores[EQUAL_STEPS]
                continue
            model = load(folder / f"{name}.ckpt", device="cpu")
            labels = [index % source.num_classes for index in range(self.sizes.num_samples)]
            sampling = {"guidance": self.sizes.guidance, "steps": self.sizes.sampling_steps, "solver": "multistep"}
            asked = fill(row.sample, {YOUNGER: str(folder / f"{YOUNGER}.ckpt")})
            before = time.process_time()
            first_seed = seed * self.sizes.num_samples
            pixels = model.sample(labels, first_seed, batch_size=250, **{**sampling, **asked}).pixels
            seconds = time.process_time() - before
            scores[name] = {
                judge: _distance(moments_of(extractor, pixels), reference)
                for judge, (extractor, reference) in self._references[data].items()
            }
            trained_on = [
                judge
                for judge, (extractor, _) in self._references[data].items()
                if any(is_same_space(extractor.name, space) for space in model.module.trained_on)
            ]
        return {"scores": scores, "trained_on": trained_on, "sampling_sec": round(seconds, 2)}


def _distance(made: Moments, real: Moments) -> float:
    return frechet_distance(made.mean, made.covariance, real.mean, real.covariance)


def fill(value: Any, known: Mapping[str, Any]) -> Any:
    """Put what depends on the data in the place of its name in a row.

    Args:
        value: Settings of a row: a key ``ENCODER`` becomes the arguments in ``known``, a text that is a key of
            ``known`` its value.
        known: The encoder's arguments, or names and their values.
    """
    if isinstance(value, Mapping):
        inner = {name: fill(part, known) for name, part in value.items() if name != ENCODER}
        return {**known, **inner} if ENCODER in value else inner
    return known.get(value, value) if isinstance(value, str) else value


def run_zoo(
    zoo: Zoo, sources: Mapping[str, Any], only: Sequence[str], seeds: Sequence[int], budget_sec: float | None = None
) -> Iterator[Run]:
    """Run what is missing: all rows of a seed before the next seed, first on digits, then the best rows on photos.

    Args:
        zoo: The zoo.
        sources: Functions that return the data, by name, in order; the first is for all rows.
        only: Names of the rows.
        seeds: Seeds.
        budget_sec: Wall time within which no run begins that would not end, by the longest so far; None for no limit.

    Yields:
        The result of each new run.
    """
    started, longest = time.perf_counter(), 0.0
    for number, (data, make) in enumerate(sources.items()):
        rows = [BASE, *(name for name in only if name != BASE)]
        if number:
            rows = [BASE, *best_rows(zoo.runs, next(iter(sources)), rows, seeds, NUM_BEST)]
        missing = [(row, seed) for seed in seeds for row in rows if zoo.find(data, row, seed) is None]
        source = make() if missing else None
        for row, seed in missing:
            if budget_sec is not None and time.perf_counter() - started + longest > budget_sec:
                log.info("the budget is used up; the same command goes on")
                return
            assert source is not None
            result = zoo.run(data, source, row, seed)
            longest = max(longest, result["wall_sec"])
            yield result


def main() -> None:
    """Run what is missing of the zoo, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS), help="rows, separated by commas")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--budget", type=float, help="seconds, within which the last run ends")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="keeps the trainings, which rows share")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    only = [name.strip() for name in given.only.split(",")]
    for name in only:
        if name not in ROWS:
            raise SystemExit(str(unknown_name("row", name, ROWS)))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    zoo = Zoo(given.results, given.folder, Sizes())
    sources = {
        "digits": lambda: digits(given.folder / "digits"),
        "photos": lambda: photos(given.folder / "photos"),
    }
    console = Console(soft_wrap=True)
    for run in run_zoo(zoo, sources, only, range(given.seeds), given.budget):
        score = run["scores"][EQUAL_STEPS][HELD_OUT]
        console.print(f"{run['data']}, {run['row']}, seed {run['seed']}: {score:.4f} in {run['wall_sec']} s")
    console.print(report(zoo.runs, zoo.rows), markup=False, highlight=False)


if __name__ == "__main__":
    main()
