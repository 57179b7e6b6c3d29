"""Compare evaluated models: scores side by side, differences with their intervals, and differences in protocol."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jitflow.checkpoint.find import find_model
from jitflow.errors import ConfigError, MissingFileError
from jitflow.evaluation.intervals import Interval, difference
from jitflow.evaluation.protocol import card_differences, read_report
from jitflow.evaluation.report import REPORT_NAMES, interval_of, is_score, is_trained_on, report_files
from jitflow.io.files import existing_file, file_checksum, user_path

log = logging.getLogger(__name__)
ANY = "all"
"""Word for every entry of the protocol card."""
# What a comparison is about.
_OF_MODEL = ("checkpoint", "checkpoint_sha256")
_SEEDS = ("seed_of_image", "seed", "seeds_sha256")
# Where these agree, sample i of two models has the same seed and condition.
_OF_SAMPLES = (
    *(*_SEEDS, "num_images", "num_classes", "class_of_image"),
    *("num_texts", "recovery_time", "reading_time", "judge_seed", "judge_steps", "reference"),
)
# An entry that others determine.
_FOLLOWS = {"network_evaluations": ("solver", "steps")}


@dataclass(frozen=True)
class Candidate:
    """A model to compare.

    Attributes:
        name: Short name for the heading of its column.
        report: Its report; None for a checkpoint without one.
        checkpoint: File of the model; None if it is not there.
    """

    name: str
    report: Mapping[str, Any] | None
    checkpoint: Path | None


@dataclass(frozen=True)
class ComparedScore:
    """A score of several models.

    Attributes:
        name: Its name in the reports.
        values: Its value for each model; None where it is missing.
        intervals: Its interval for each model; None where there is none.
        changes: Interval of the difference to the first model, for each further one; None where it is unknown.
        trained_on: Whether each model was trained on the score's feature space.
    """

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Interval | None]
    changes: Sequence[Interval | None]
    trained_on: Sequence[bool]


@dataclass(frozen=True)
class Comparison:
    """Models side by side.

    Attributes:
        candidates: The models, in the order given; differences are to the first one with a report.
        scores: Their scores.
        differences: Entries of the protocol card that differ, with the value of each model that has a report.
        same_samples: Whether sample i of all models has the same seed and condition.
    """

    candidates: Sequence[Candidate]
    scores: Sequence[ComparedScore] = ()
    differences: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    same_samples: bool = False

    @property
    def judged(self) -> list[Candidate]:
        """The models that have a report."""
        return [candidate for candidate in self.candidates if candidate.report is not None]


def compare(paths: Sequence[str | Path], *, may_differ: Collection[str] = ()) -> Comparison:
    """Compare models by their reports.

    Args:
        paths: A report or its folder, or a checkpoint or its run's folder, of each model. A checkpoint takes the report
            of its weights in its run's folder: of several the one whose protocol is that of the others, or the newest.
        may_differ: Entries of the protocol card that may differ, such as ``guidance``; ``all`` for any.

    Returns:
        The comparison.

    Raises:
        ConfigError: If there are less than two models, or the protocols differ in another entry.
        MissingFileError: If a path does not exist.
    """
    if len(paths) < 2:
        raise ConfigError("a comparison needs at least two checkpoints or reports: jitflow compare A B")
    names = short_names([str(path) for path in paths])
    found = [_find(user_path(path)) for path in paths]
    chosen = _choose([reports for reports, _ in found])
    candidates = [
        Candidate(name, report, checkpoint or _checkpoint_of(report))
        for name, report, (_, checkpoint) in zip(names, chosen, found, strict=True)
    ]
    reports = [candidate.report for candidate in candidates if candidate.report is not None]
    if len(reports) < 2:
        return Comparison(candidates)
    cards = [report["protocol"] for report in reports]
    differences = _differences(cards)
    _refuse(differences, may_differ)
    # A folder of samples without a record has no seeds.
    are_known = all(any(card.get(name) is not None for name in _SEEDS) for card in cards)
    same_samples = are_known and not any(name in differences for name in _OF_SAMPLES)
    return Comparison(candidates, _scores(reports, same_samples), differences, same_samples)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return what tells paths of checkpoints or reports apart: without what all begin or end with; else numbered."""
    parts = [list(Path(path).parts) for path in paths]
    for end in (0, -1):
        while all(len(own) > 1 for own in parts) and len({own[end] for own in parts}) == 1:
            for own in parts:
                own.pop(end)
    names = ["/".join(own) for own in parts]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _find(path: Path) -> tuple[list[Mapping[str, Any]], Path | None]:
    """Return the reports that a path names, newest first, and its checkpoint if it is one."""
    if path.suffix == ".json" or (path.is_dir() and any((path / name).is_file() for name in REPORT_NAMES)):
        return [read_report(path)], None
    try:
        checkpoint = find_model(path)
    except MissingFileError as error:
        raise MissingFileError(f"{error}, and no report ({' or '.join(REPORT_NAMES)})") from None
    existing_file(checkpoint, what="checkpoint or report")
    return list(_reports_of(checkpoint)), checkpoint


def _reports_of(checkpoint: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the reports of exactly these weights in the run's folder, newest first."""
    checksum = ""
    for path in sorted(report_files(checkpoint), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            report = read_report(path)
        except ConfigError:
            continue
        checksum = checksum or file_checksum(checkpoint)
        if report["protocol"].get("checkpoint_sha256") == checksum:
            yield report


def _checkpoint_of(report: Mapping[str, Any] | None) -> Path | None:
    """Return the checkpoint that a report is about, if it is still there and the same."""
    card = report["protocol"] if report is not None else {}
    path = card.get("checkpoint")
    if not path or not Path(path).is_file():
        return None
    if card.get("checkpoint_sha256") != file_checksum(path):
        log.warning("%s is no longer the checkpoint of its report", path)
        return None
    return Path(path)


def _choose(found: Sequence[Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any] | None]:
    """Choose a report for each model, all of one protocol if there are such, else the newest."""
    judged = [reports for reports in found if reports]
    for first in judged[0] if judged else ():
        alike = [
            next((r for r in reports if not _differences([first["protocol"], r["protocol"]])), None)
            for reports in found
        ]
        if all(report is not None for report, reports in zip(alike, found, strict=True) if reports):
            return alike
    return [reports[0] if reports else None for reports in found]


def _differences(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    plain = [_comparable(card) for card in cards]
    names = dict.fromkeys(name for card in plain[1:] for name in card_differences(plain[0], card))
    return {name: [card.get(name) for card in plain] for name in names if name not in _OF_MODEL}


def _comparable(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card in which real data with a checksum have no path, which says nothing about them."""
    reference = card.get("reference")
    if not isinstance(reference, Mapping) or not any(name.endswith(("sha256", "checksum")) for name in reference):
        return dict(card)
    return {**card, "reference": {name: value for name, value in reference.items() if name != "path"}}


def _refuse(differences: Mapping[str, Sequence[Any]], may_differ: Collection[str]) -> None:
    """Raise ConfigError if protocols differ in an entry that was not allowed to."""
    unknown = sorted(set(may_differ) - set(differences) - {ANY})
    if unknown:
        log.info("--may_differ %s: there is no such difference", ",".join(unknown))
    allowed = {*may_differ, *(name for name, causes in _FOLLOWS.items() if set(causes) & set(may_differ))}
    refused = [name for name in differences if name not in allowed and ANY not in allowed]
    if refused:
        listed = "; ".join(f"{name}: {' / '.join(map(_short, differences[name]))}" for name in refused)
        raise ConfigError(
            f"the reports are of different protocols, so their scores do not say which model is better ({listed}); "
            f"evaluate all alike, or say what may differ: --may_differ {','.join([*may_differ, *refused])}"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _scores(reports: Sequence[Mapping[str, Any]], same_samples: bool) -> list[ComparedScore]:
    names = dict.fromkeys(name for report in reports for name in report["metrics"])
    found = []
    for name in names:
        given = [report["metrics"].get(name) for report in reports]
        values = [value if is_score(value) else None for value in given]
        intervals = [interval_of(name, report) for report in reports]
        pairs = list(zip(values, intervals, strict=True))
        changes = [_change(pairs[0], pair, same_samples) for pair in pairs[1:]]
        found.append(ComparedScore(name, values, intervals, changes, [is_trained_on(name, r) for r in reports]))
    return found


def _change(
    first: tuple[float | None, Interval | None], second: tuple[float | None, Interval | None], same_samples: bool
) -> Interval | None:
    (value1, one), (value2, two) = first, second
    if value1 is None or value2 is None or one is None or two is None:
        return None
    return difference((value1, one), (value2, two), same_samples)
