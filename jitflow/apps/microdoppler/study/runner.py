"""The augmentation study as a whole: data, generators, classifiers and the report, each part kept once it is done."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.study.campaign import simulate_campaigns
from jitflow.apps.microdoppler.study.classifiers import CNN, RESNET, SVM, needed_packages
from jitflow.apps.microdoppler.study.curve import Results
from jitflow.apps.microdoppler.study.data import RECORD_NAME, StudyRecord, prepare_data, read_record
from jitflow.apps.microdoppler.study.fitted import settings_of
from jitflow.apps.microdoppler.study.plan import Replicate, list_arms, plan_study
from jitflow.apps.microdoppler.study.report import write_report
from jitflow.apps.microdoppler.study.settings import NetworkOptions, PeopleOptions, StudyOptions, TrainingsOptions
from jitflow.apps.microdoppler.study.work import Work, classify, make_samples, pretrain, read_results, samples_of
from jitflow.errors import ConfigError
from jitflow.io.cores import available_cores
from jitflow.io.files import read_json, user_path, writable_folder, write_json
from jitflow.io.folder_lock import locked
from jitflow.io.parallel import map_processes
from jitflow.io.progress import meter

log = logging.getLogger(__name__)
_RECORD_NAME = "settings.json"
# Settings that add cells and change none.
_FREE = ("full", "num_seeds", "num_processes")
_Task = Callable[[tuple[Work, Replicate], Callable[[], None]], None]


def run_study(
    run_dir: str | Path,
    study: StudyOptions,
    people: PeopleOptions,
    network: NetworkOptions,
    trainings: TrainingsOptions,
) -> dict[str, Any]:
    """Run the study's trainings and tests, or what is missing of them.

    Args:
        run_dir: Folder of the study.
        study: Data and extent.
        people: Simulated people, where no data are given.
        network: Generators.
        trainings: Classifiers.

    Returns:
        The content of ``study.json``.

    Raises:
        ConfigError: If the folder holds a study of other settings, or a package is not installed.
        DataError: If the data cannot be used for a study.
    """
    kinds = (CNN, SVM, RESNET) if study.full else (CNN, SVM)
    needed_packages(kinds)
    sections: dict[str, Any] = {"study": study, "people": people, "network": network, "trainings": trainings}
    settings = {name: dataclasses.asdict(section) for name, section in sections.items()}
    folder = user_path(run_dir)
    with locked(folder):
        _check_same(folder, settings)
        work = Work(folder, network, trainings, study.seed, study.num_processes or available_cores())
        seconds: dict[str, float] = {}
        record = _prepare(work, study, people, seconds)
        arms = list_arms(full=study.full, simulator=settings_of(record.array_scale) is not None)
        replicates = plan_study(record.num_train, kinds, arms, study.num_seeds, full=study.full)
        _make_generators(work, replicates, record, seconds)
        _classify(work, replicates, seconds)
        results = Results(read_results(work, replicates), record.test_groups)
        return write_report(folder, results, record, settings, seconds)


def _check_same(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Record the settings of a new study; raise ConfigError if the folder's is of others."""
    path = folder / _RECORD_NAME
    if not path.exists():
        write_json(writable_folder(folder) / _RECORD_NAME, settings)
        return
    recorded = read_json(path)
    differing = [
        f"{section}.{name} {recorded.get(section, {}).get(name)!r}"
        for section, values in settings.items()
        for name, value in values.items()
        if name not in _FREE and recorded.get(section, {}).get(name) != value
    ]
    if differing:
        raise ConfigError(f"{folder} holds a study with {', '.join(differing)}; repeat that, or name another folder")


def _prepare(work: Work, study: StudyOptions, people: PeopleOptions, seconds: dict[str, float]) -> StudyRecord:
    """Simulate the data if none are given, and read them once."""
    if (work.data / RECORD_NAME).exists():
        return read_record(work.data)
    data_dir: Path | str | None = study.data_dir
    others: Path | str | None = study.others_dir
    if data_dir is None:
        with _timed(seconds, "simulating"):
            data_dir, others = simulate_campaigns(work.folder, people, study.seed, work.num_workers)
    with _timed(seconds, "reading"):
        return prepare_data(work.data, data_dir, others, study.val_fraction, study.seed)


def _make_generators(
    work: Work, replicates: Sequence[Replicate], record: StudyRecord, seconds: dict[str, float]
) -> None:
    """Train one generator for each subset of real samples, and draw its samples."""
    by_name = {replicate.generator: replicate for replicate in replicates}
    missing = [r for name, r in by_name.items() if not samples_of(work.generator(name)).exists()]
    if not missing:
        return
    if record.others:
        log.info("pretraining on %d spectrograms of %d other people", record.num_others, len(record.others))
        with _timed(seconds, "pretraining"):
            pretrain(work, record)
    with _timed(seconds, "training generators"), meter("generators", len(by_name), unit="generators") as progress:
        done = len(by_name) - len(missing)
        progress.update(done)
        _spread(work, make_samples, missing, lambda count: progress.update(done + count))


def _classify(work: Work, replicates: Sequence[Replicate], seconds: dict[str, float]) -> None:
    """Train and test every classifier that has no result yet."""
    cells = [cell for replicate in replicates for cell in replicate.cells]
    missing = [r for r in replicates if not all(work.cell(cell).exists() for cell in r.cells)]
    with _timed(seconds, "training classifiers"), meter("classifiers", len(cells), unit="classifiers") as progress:
        done = sum(work.cell(cell).exists() for cell in cells)
        progress.update(done)
        _spread(work, classify, missing, lambda count: progress.update(done + count))


def _spread(work: Work, task: _Task, replicates: Sequence[Replicate], report: Callable[[int], None]) -> None:
    """Share replicates between the worker processes."""
    if not replicates:
        return
    num = min(work.num_workers, len(replicates))
    tasks = [(dataclasses.replace(work, num_workers=num), replicate) for replicate in replicates]
    # Closed at once after an error, so that no process goes on.
    with closing(map_processes(task, tasks, workers=num, on_items=report)) as finished:
        for _ in finished:
            pass


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Note how long a part of this call takes."""
    started = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - started, 1)
