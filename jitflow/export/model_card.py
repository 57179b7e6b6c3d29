"""Model card of an exported model: settings, training data, scores and licence."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jitflow
from jitflow.errors import ConfigError
from jitflow.evaluation.protocol import read_report
from jitflow.evaluation.report import interval_heading, report_files, score_rows
from jitflow.io.files import file_checksum
from jitflow.io.json_text import plain_copy
from jitflow.io.yaml_file import format_yaml, read_yaml
from jitflow.training.trained_on import trained_on_note

log = logging.getLogger(__name__)

UNKNOWN_LICENSE = "unknown"
# More names of classes would hide the rest of the card.
_SHOWN_CLASSES = 100
# Paths of the training machine are private.
_PATHS = ("_path", "_dir", "_file", "folder")


def model_card(
    *,
    title: str,
    settings: Mapping[str, Any],
    sampling: Mapping[str, Any],
    weights: str,
    data: Mapping[str, Any] | None,
    reports: Sequence[Mapping[str, Any]],
    trained_on: Sequence[str],
    made_by: str = "",
    license: str,
    usage: str,
    library: str,
) -> str:
    """Write a model card in the form of the Hugging Face hub: YAML between dashes, then Markdown.

    Args:
        title: Heading, such as the network's name.
        settings: Arguments of the module.
        sampling: Default sampling settings.
        weights: Which weights, such as ``EMA 1``.
        data: Training data, as far as known.
        reports: Reports of ``jitflow evaluate``, each with ``metrics`` and ``protocol``.
        trained_on: Names of the feature extractors that the training optimised; their scores are marked.
        made_by: How a post-training made the weights, in words; empty for none.
        license: Identifier of the weights' licence, such as ``cc-by-4.0``.
        usage: Markdown on how to load the model and sample.
        library: Library that loads it: ``jitflow``, ``diffusers`` or ``torch``.

    Returns:
        Text of ``README.md``.
    """
    front = {
        "license": license,
        "library_name": library,
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["jitflow", "flow-matching", "image-generation"],
    }
    terms = (
        "The licence of these weights was not stated when they were exported."
        if license == UNKNOWN_LICENSE
        else f"These weights are under `{license}`."
    )
    parts = [
        f"---\n{_yaml(front)}---\n",
        f"# {_inline(title)}\n",
        f"A flow-matching model of jitflow {jitflow.__version__}; {weights}."
        + (f" Made by {_inline(made_by)}.\n" if made_by else "\n"),
        f"## Use\n\n{usage}\n",
        f"## Default sampling\n\n{_block(sampling)}",
        "## Data\n\n" + (_block(data) if data else "Not recorded beside the checkpoint.\n"),
        "## Scores\n\n" + _all_scores(reports, trained_on),
        f"## Settings\n\n{_block(settings)}",
        f"## Licence\n\n{terms} The code of jitflow is under MIT.\n",
    ]
    return "\n".join(parts)


def find_reports(checkpoint: Path, *, ema: int | str, given: str | Path | None = None) -> list[dict[str, Any]]:
    """Find the reports of ``jitflow evaluate`` that score exactly these weights.

    Args:
        checkpoint: The file that is exported; its run's folder is searched one level deep.
        ema: Exported average; reports of others are skipped. ``"all"`` accepts every report.
        given: A report that must be included.

    Returns:
        The reports, each with ``metrics`` and ``protocol``.

    Raises:
        ConfigError: If ``given`` is of another checkpoint or another average.
    """
    found = [(path, report) for path in report_files(checkpoint) if (report := _report(path)) is not None]
    if given is not None:
        found = [(Path(given), read_report(given))]
    if not found:
        return []
    checksum = file_checksum(checkpoint)
    matching = []
    for path, report in found:
        protocol = report["protocol"]
        same = protocol.get("checkpoint_sha256") == checksum
        if same and (ema == "all" or protocol.get("ema") == ema):
            matching.append(report)
            continue
        what = f"EMA {protocol.get('ema')}" if same else "another checkpoint"
        if given is not None:
            raise ConfigError(f"{path} scores {what}, not what is exported; run jitflow evaluate on {checkpoint}")
        log.info("%s scores %s and is left out of the card", path, what)
    return matching


def find_data(checkpoint: Path, extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the training data of a model.

    Args:
        checkpoint: The file that is exported; ``config.yaml`` of its run is searched for beside and above it.
        extra: Additional state in the file: names of classes; for latents, codec and users.

    Returns:
        Plain values, without the machine's paths; None if nothing is known.
    """
    data: dict[str, Any] = {}
    for folder in _run_folders(checkpoint):
        config = folder / "config.yaml"
        if config.is_file():
            section = _data_section(config)
            if isinstance(section, Mapping):
                data.update(_without_paths(section))
            break
    names = list(extra.get("classes") or ())
    if names:
        more = [f"and {len(names) - _SHOWN_CLASSES} more"] if len(names) > _SHOWN_CLASSES else []
        data["classes"] = [*map(str, names[:_SHOWN_CLASSES]), *more]
    latents = extra.get("latents")
    if isinstance(latents, Mapping):
        data["latents_of"] = dict(latents["codec"])
        data["users"] = list(latents["user_ids"])
    return data or None


def _run_folders(checkpoint: Path) -> tuple[Path, Path]:
    parent = checkpoint.resolve().parent
    return parent, parent.parent


def _report(path: Path) -> dict[str, Any] | None:
    """Read an evaluation report; None if the file is something else."""
    try:
        return read_report(path)
    except ConfigError:
        return None


def _without_paths(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings for the model card with every path reduced to its last part."""
    kept: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            kept[name] = _without_paths(value)
        else:
            is_path = isinstance(value, str) and name.endswith(_PATHS)
            kept[name] = Path(value).name if is_path else value
    return kept


def _all_scores(reports: Sequence[Mapping[str, Any]], trained_on: Sequence[str]) -> str:
    note = trained_on_note([_inline(name) for name in trained_on])
    scores = "\n".join(_scores({**report, "trained_on": trained_on}) for report in reports)
    return (f"These weights were {note}.\n\n" if note else "") + (scores or "None recorded for these weights.\n")


def _scores(report: Mapping[str, Any]) -> str:
    rows = "".join(f"| {' | '.join(map(_inline, row))} |\n" for row in score_rows(report))
    protocol = {name: value for name, value in report["protocol"].items() if name != "checkpoint"}
    heading = f"| score | value | {interval_heading(report)} | |\n|---|---|---|---|\n"
    return f"{heading}{rows}\nProtocol:\n\n{_block(protocol)}"


def _inline(text: str) -> str:
    """Escape a text of a file for a line of Markdown: no markup, no other cell of a table, no other line."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(str(text).split())))


def _block(values: Mapping[str, Any]) -> str:
    """Return settings as a block of code, whose fence is longer than any that a text in it could end it with."""
    text = _yaml(values)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}\n"


def _data_section(config: Path) -> Any:
    """Read the settings of the data from a run's ``config.yaml``; None with a warning if it is damaged."""
    # A damaged recipe must not prevent an export.
    try:
        settings = read_yaml(config)
    except ConfigError as error:
        log.warning("%s; the model card does not describe the data", error)
        return None
    return settings.get("data") if isinstance(settings, Mapping) else None


def _yaml(values: Mapping[str, Any]) -> str:
    # Through JSON, so that tuples become lists, which YAML writes without a Python type tag.
    return format_yaml(plain_copy(values), allow_unicode=True)
