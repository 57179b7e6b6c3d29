"""Protocol card: everything that a score depends on, so that only comparable scores are compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import jitflow
from jitflow.errors import ConfigError
from jitflow.evaluation.features import FeatureExtractor
from jitflow.evaluation.plan import Plan
from jitflow.evaluation.report import REPORT_NAMES, is_report
from jitflow.io.files import file_checksum, read_json, writable_folder, write_json
from jitflow.io.json_text import plain_copy
from jitflow.io.results_folder import free_folder

log = logging.getLogger(__name__)
_CARD_NAME = "protocol.json"
_CLASSES = {
    "balanced": "index % num_classes",
    "random": "torch.randint(num_classes, (num_images,)) of a CPU generator with seed {seed}",
}
# Differences in these leave scores comparable.
_INFORMATIVE = ("versions", "batch_size", "device")


def protocol_card(
    sampling: Mapping[str, Any],
    plan: Plan,
    *,
    num_classes: int,
    checkpoint: str | Path | None,
    extractor: FeatureExtractor,
    reference: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the protocol card of an evaluation with one set of samples and one extractor.

    Args:
        sampling: Solver, steps, guidance, interval, EMA, precision, as ``Samples.settings`` holds them.
        plan: The sampling plan, for the number of images, their classes and their seeds.
        num_classes: Number of classes.
        checkpoint: File of the model.
        extractor: The feature extractor.
        reference: Origin of the real statistics: ``path``, ``checksum``, ``num_images``.

    Returns:
        The card, as plain values.
    """
    return {
        **sampling_card(sampling, checkpoint),
        "num_images": plan.num_images,
        "num_classes": num_classes,
        "class_of_image": _CLASSES[plan.labels].format(seed=plan.seed),
        "seed_of_image": f"{plan.seed} + index",
        "rounding": "round(clip((x + 1) / 2 * 255, 0, 255)), ties to even",
        "extractor": extractor.name,
        "extractor_sha256": extractor.checksum,
        "preprocessing": extractor.preprocessing,
        "reference": dict(reference),
    }


def sampling_card(sampling: Mapping[str, Any], checkpoint: str | Path | None) -> dict[str, Any]:
    """Build the part of a protocol card that every application has: the model and how it was sampled.

    Args:
        sampling: Sampling settings, as ``Samples.settings`` holds them.
        checkpoint: File of the model; None if unknown.
    """
    names = ("solver", "steps", "network_evaluations", "guidance", "interval", "time_shift", "ema", "precision")
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "checkpoint_sha256": file_checksum(checkpoint) if checkpoint else None,
        **{name: sampling.get(name) for name in names},
        "versions": {"jitflow": jitflow.__version__, "torch": torch.__version__},
        "device": sampling.get("device"),
    }


def merge_cards(cards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the cards of several sets of samples, or of several extractors, into one.

    Args:
        cards: The card of each by name.

    Returns:
        One card; what differs is a value for each name, such as ``{"guided,balanced": 2.5, "unguided,balanced": 1.0}``.
    """
    first = next(iter(cards.values()))
    same = {key for key in first if all(card[key] == first[key] for card in cards.values())}
    return {key: first[key] if key in same else {name: card[key] for name, card in cards.items()} for key in first}


def card_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two protocol cards, ignoring versions and devices.

    Args:
        first: A protocol card.
        second: Another protocol card.

    Returns:
        Pairs of values by name; empty if the scores can be compared.
    """
    names = [name for name in {**first, **second} if name not in _INFORMATIVE]
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def claim_folder(out: str | Path, card: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Reserve an output folder for one protocol card, so that interrupted work can be resumed.

    Args:
        out: The requested folder; a numbered one beside it if it holds work under another protocol, see
            :func:`jitflow.io.results_folder.free_folder`.
        card: The protocol card of the evaluation.

    Returns:
        The folder, in which ``protocol.json`` holds the card, and the card as read back from JSON (which has no
        tuples).
    """
    plain = plain_copy(card)

    def is_taken(folder: Path) -> bool:
        path = folder / _CARD_NAME
        differences = card_differences(read_json(path), plain) if path.exists() else {}
        for name, (there, now) in differences.items():
            log.info("%s holds work of another protocol: %s %s there, %s now", folder, name, there, now)
        return bool(differences)

    folder = writable_folder(free_folder(out, is_taken))
    path = folder / _CARD_NAME
    if not path.exists():
        write_json(path, plain)
    stored: dict[str, Any] = read_json(path)
    return folder, stored


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a report of ``jitflow evaluate`` from its file or folder; raise ConfigError if it is not one."""
    path = Path(path)
    names = [name for name in REPORT_NAMES if (path / name).is_file()] or REPORT_NAMES
    report = read_json(path / names[0] if path.is_dir() else path)
    if not is_report(report):
        raise ConfigError(f"{path} is no report of jitflow evaluate (metrics and protocol)")
    return dict(report)
