"""The methods that the zoo compares: a further one is one line of ``ROWS``, and a row of docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASE = "base"
ENCODER = "ENCODER"
"""Stands for the arguments of the encoder that knows a data set: ``{**of(ENCODER), "weight": 0.1}``."""


@dataclass(frozen=True)
class Row:
    """A method: what it changes in the base's training and sampling.

    Attributes:
        train: Settings of the recipe by dotted name. Rows with the same ones share a training.
        sample: Arguments of :meth:`jitflow.Model.sample`.
    """

    train: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)


def term(name: str, *, encoder: bool = False, **arguments: Any) -> dict[str, Any]:
    """Return the setting of one loss term.

    Args:
        name: Name of the term.
        encoder: Whether it takes the encoder of the data set.
        arguments: Arguments of the term.
    """
    return {"model.loss_terms": {name: {**({ENCODER: True} if encoder else {}), **arguments}}}


# Guidance is the base's unless a row says otherwise; blocks are the middle ones of four.
ROWS: dict[str, Row] = {
    BASE: Row(),
    "muon": Row({"model.optimizer": "muon"}),
    "loss_on data": Row({"model.loss_on": "data"}),
    "prediction velocity": Row({"model.prediction": "velocity"}),
    # A patch of digits holds 16 numbers.
    "asym": Row({"model.prediction": "asym", "model.asym_rank": 3}),
    "cosine": Row(term("cosine", weight=0.1)),
    "repa (forced)": Row(term("repa", encoder=True, feature="block2", force=True, hidden_size=256)),
    "irepa": Row(term("irepa", encoder=True, feature="block2")),
    "pixel_repa": Row(term("pixel_repa", encoder=True)),
    # LPIPS's weight for the encoder, which takes its place: VGG-16 does not know digits.
    "perceptual": Row(term("perceptual", encoder=True, encoder_weight=0.1)),
    "dispersive": Row(term("dispersive", weight=0.25)),
    "class_head": Row({**term("class_head"), "model.net_settings.class_start": 1}),
    "first block without the class": Row({"model.net_settings.class_start": 1}),
    "internal guidance": Row(term("internal_guidance", block=2), {"internal_guidance": 1.4}),
    "internal guidance alone": Row(term("internal_guidance", block=2), {"internal_guidance": 1.4, "guidance": 1.0}),
    "no guidance": Row(sample={"guidance": 1.0}),
    # The same training at a quarter of the steps.
    "autoguidance": Row(sample={"autoguide": "younger"}),
    "apg": Row(sample={"guidance_rule": "apg"}),
    "cfg_zero": Row(sample={"guidance_rule": "cfg_zero"}),
    "churn": Row(sample={"churn": 1.0, "solver": "euler"}),
    "sde": Row(sample={"sde": 1.0, "solver": "euler"}),
}
