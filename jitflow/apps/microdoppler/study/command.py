"""The command ``jitflow microdoppler augment-study``: from recordings to the curve, resumed by the same command."""

from __future__ import annotations

import dataclasses
import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from jitflow.apps.microdoppler.study.settings import NetworkOptions, PeopleOptions, StudyOptions, TrainingsOptions

log = logging.getLogger(__name__)
_RECORD_NAME = "settings.json"
# Settings that add cells and change none.
_FREE = ("full", "num_seeds", "num_processes")


def augment_study(
    run_dir: str,
    /,
    study: StudyOptions = StudyOptions(),  # noqa: B008 (frozen)
    people: PeopleOptions = PeopleOptions(),  # noqa: B008 (frozen)
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 (frozen)
    trainings: TrainingsOptions = TrainingsOptions(),  # noqa: B008 (frozen)
) -> None:
    """Measure whether generated data help a classifier of users: curves, intervals, one sentence.

    Run it again to resume an interrupted study, or to report a finished one; --full adds to it. Options of a section
    can be given without it: --data_dir campaign, --full.

    Args:
        run_dir: Folder of the study: curve.png, curve.pdf, study.html, study.json, and everything that led to them.
        study: Data and extent.
        people: Simulated people, where no data are given.
        network: Generators.
        trainings: Classifiers.
    """
    run_study(run_dir, study, people, network, trainings)


def run_study(
    run_dir: str | Path,
    study: StudyOptions,
    people: PeopleOptions,
    network: NetworkOptions,
    trainings: TrainingsOptions,
) -> dict[str, Any]:
    """Run the study, or what is missing of it.

    Args:
        run_dir: Folder of the study.
        study: Data and extent.
        people: Simulated people, where no data are given.
        network: Generators.
        trainings: Classifiers.

    Returns:
        The content of ``study.json``.

    Raises:
        ConfigError: If the folder holds a study of other settings.
        DataError: If the data cannot be used for a study.
    """
    from jitflow.apps.microdoppler.study.classifiers import CNN, RESNET, SVM, needed_packages
    from jitflow.apps.microdoppler.study.curve import Results
    from jitflow.apps.microdoppler.study.fitted import settings_of
    from jitflow.apps.microdoppler.study.plan import list_arms, plan_study
    from jitflow.apps.microdoppler.study.report import write_report
    from jitflow.apps.microdoppler.study.work import Work, read_results
    from jitflow.io.cores import available_cores
    from jitflow.io.files import user_path
    from jitflow.io.folder_lock import locked

    kinds = (CNN, SVM, RESNET) if study.full else (CNN, SVM)
    needed_packages(kinds)
    folder = user_path(run_dir)
    workers = study.num_processes or available_cores()
    settings = {section: dataclasses.asdict(value) for section, value in _sections(study, people, network, trainings)}
    with locked(folder):
        _check_same(folder, settings)
        work = Work(folder, network, trainings, study.seed, workers)
        seconds: dict[str, float] = {}
        record = _prepare(work, study, people, seconds)
        arms = list_arms(full=study.full, simulator=settings_of(record.array_scale) is not None)
        replicates = plan_study(record.num_train, kinds, arms, study.num_seeds, full=study.full)
        _make_generators(work, replicates, record, seconds)
        _classify(work, replicates, seconds)
        results = Results(read_results(work, replicates), record.test_groups)
        return write_report(folder, results, record, settings, seconds)


def _sections(*sections: Any) -> list[tuple[str, Any]]:
    return list(zip(("study", "people", "network", "trainings"), sections, strict=True))


def _check_same(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Record the settings of a new study; raise ConfigError if the folder's is of others."""
    from jitflow.errors import ConfigError
    from jitflow.io.files import read_json, writable_folder, write_json

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


def _prepare(work: Any, study: StudyOptions, people: PeopleOptions, seconds: dict[str, float]) -> Any:
    """Simulate the data if none are given, and read them once."""
    from jitflow.apps.microdoppler.study.campaign import simulate_campaigns
    from jitflow.apps.microdoppler.study.data import RECORD_NAME, prepare_data, read_record

    if (work.data / RECORD_NAME).exists():
        return read_record(work.data)
    started = time.monotonic()
    data_dir: Path | str | None = study.data_dir
    others: Path | str | None = study.others_dir
    if data_dir is None:
        data_dir, others = simulate_campaigns(work.folder, people, study.seed, work.num_workers)
        seconds["simulating"] = time.monotonic() - started
    started = time.monotonic()
    record = prepare_data(work.data, data_dir, others, study.val_fraction, study.seed)
    seconds["reading"] = time.monotonic() - started
    return record


def _make_generators(work: Any, replicates: list[Any], record: Any, seconds: dict[str, float]) -> None:
    """Train one generator for each subset of real samples, and draw its samples."""
    from jitflow.apps.microdoppler.study.work import make_samples, pretrain, samples_of
    from jitflow.io.parallel import map_processes
    from jitflow.io.progress import meter

    by_name = {replicate.generator: replicate for replicate in replicates}
    missing = [r for name, r in by_name.items() if not samples_of(work.generator(name)).exists()]
    if not missing:
        return
    if record.others:
        started = time.monotonic()
        log.info("pretraining on %d spectrograms of %d other people", record.num_others, len(record.others))
        pretrain(work, record)
        seconds["pretraining"] = time.monotonic() - started
    started = time.monotonic()
    done = len(by_name) - len(missing)
    with meter("training generators", len(by_name), unit="generators") as progress:
        progress.update(done)
        workers = min(work.num_workers, len(missing))
        tasks = [(dataclasses.replace(work, num_workers=workers), replicate) for replicate in missing]
        on_items = lambda count: progress.update(done + count)  # noqa: E731
        with closing(map_processes(make_samples, tasks, workers=workers, on_items=on_items)) as finished:
            for _ in finished:
                pass
    seconds["training generators"] = time.monotonic() - started


def _classify(work: Any, replicates: list[Any], seconds: dict[str, float]) -> None:
    """Train and test every classifier that has no result yet."""
    from jitflow.apps.microdoppler.study.work import classify
    from jitflow.io.parallel import map_processes
    from jitflow.io.progress import meter

    cells = [cell for replicate in replicates for cell in replicate.cells]
    done = sum(work.cell(cell).exists() for cell in cells)
    started = time.monotonic()
    with meter("training classifiers", len(cells), unit="classifiers") as progress:
        progress.update(done)
        missing = [r for r in replicates if not all(work.cell(cell).exists() for cell in r.cells)]
        workers = max(1, min(work.num_workers, len(missing)))
        tasks = [(dataclasses.replace(work, num_workers=workers), replicate) for replicate in missing]
        on_items = lambda count: progress.update(done + count)  # noqa: E731
        with closing(map_processes(classify, tasks, workers=workers, on_items=on_items)) as finished:
            for _ in finished:
                pass
    seconds["training classifiers"] = time.monotonic() - started
