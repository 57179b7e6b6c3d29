"""Manifest of a simulated campaign: a table of its files with user, session, activity and conditions."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from jitflow.io.files import write_text

MANIFEST_NAME = "manifest.csv"


def write_manifest(folder: Path, truth: dict[str, Any]) -> None:
    """Write the data set's ``manifest.csv``, which :func:`~jitflow.apps.microdoppler.manifest.read_manifest` reads.

    Sessions are named by their users: those of two users are different days. The split is left out where there is no
    validation part, so that whoever reads the set may choose one.

    Args:
        folder: Folder of the data set.
        truth: Content of ``simulation.json``.
    """
    parameters = truth["parameters"]
    rows = [
        {
            "path": sample["file"],
            "user": sample["user_id"],
            "session": f"user{sample['user_id']}_session{sample['session']}",
            "recording": sample["recording"],
            "start_sec": 0.0,
            "duration_sec": parameters["settings"]["duration_sec"],
            "activity": sample["activity"],
            "direction": "away" if sample["aspect_deg"] > 90 else "toward",
            "aspect_deg": round(sample["aspect_deg"], 2),
            "speed_m_s": round(sample["speed_m_s"], 3),
            "height_m": round(sample["walker"]["height_m"], 3),
            "distance_m": round(sample["distance_m"], 2),
            "carrier_hz": parameters["radar"]["carrier_hz"],
            **({"split": sample["split"]} if parameters["val_fraction"] else {}),
        }
        for sample in truth["samples"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / MANIFEST_NAME, text.getvalue())
