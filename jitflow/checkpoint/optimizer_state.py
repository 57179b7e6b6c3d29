"""Match an optimiser's moments to parameters, for checkpoints whose code ordered them differently."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jitflow.checkpoint.names import module_names

Shapes = Mapping[str, torch.Size]
_MOMENTS = ("exp_avg", "exp_avg_sq")


def parameter_order(shapes: Shapes) -> list[list[str]]:
    """List parameter names in the order of this library's and the JiT release's optimiser: vectors and biases first.

    Args:
        shapes: Shape of each trained parameter, in the order of ``named_parameters``.

    Returns:
        Two groups of names, as :func:`jitflow.training.optim.parameter_groups` makes them.
    """
    return _split(shapes, lambda name: len(shapes[name]) < 2 or name.endswith(".bias"))


def fit_optimizer(optimizer: object, shapes: Shapes) -> tuple[dict[str, Any] | None, str]:
    """Reorder the state of an AdamW to this library's parameters, by recorded names or by shapes.

    Args:
        optimizer: State dict of an optimiser from a file; may be malformed.
        shapes: Shape of each trained parameter, in the order of ``named_parameters``.

    Returns:
        The state in :func:`parameter_order` (the same object if it already was) and an empty text; or None, and a
        short phrase that says why it cannot be used.
    """
    wrong = problem_of_optimizer(optimizer)
    if wrong or not isinstance(optimizer, dict):
        return None, wrong
    wrong = _problem_of_adam(optimizer)
    if wrong:
        return None, wrong
    groups = optimizer["param_groups"]
    places = [place for group in groups for place in group["params"]]
    if len(places) != len(shapes):
        return None, f"it holds {len(places)} parameters, and the network trains {len(shapes)}"
    orders = [names for names in _possible_orders(groups, shapes) if _fits(optimizer["state"], names, places, shapes)]
    parts = parameter_order(shapes)
    ours = [name for part in parts for name in part]
    if not orders:
        return None, "its moments have other shapes than the parameters, in every order that is known"
    if orders[0] == ours and [len(group["params"]) for group in groups] == [len(part) for part in parts]:
        return optimizer, ""
    if len(orders) > 1:
        return None, "its moments fit the parameters in more than one order"
    place_of = dict(zip(orders[0], places, strict=True))
    state = optimizer["state"]
    moments = {i: state[place_of[name]] for i, name in enumerate(ours) if place_of[name] in state}
    return {"state": moments, "param_groups": _our_groups(groups, place_of, shapes)}, ""


def problem_of_names(optimizer: object, groups: Sequence[Sequence[str]]) -> str:
    """Describe why an optimiser state is not one of these groups of parameters; empty if it is one.

    Args:
        optimizer: State dict of an optimiser that records names; may be malformed.
        groups: Names of the parameters of each group.
    """
    wrong = problem_of_optimizer(optimizer)
    if wrong or not isinstance(optimizer, dict):
        return wrong
    recorded = [list(group.get("param_names") or ()) for group in optimizer["param_groups"]]
    return "" if recorded == [list(names) for names in groups] else "it is of other groups of parameters"


def keep_parameters(optimizer: dict[str, Any], kept: Container[str]) -> dict[str, Any]:
    """Leave parameters out of an optimiser state that records their names; one that records none is returned as it is.

    Args:
        optimizer: State dict of an optimiser.
        kept: Names of the parameters to keep.
    """
    if problem_of_optimizer(optimizer) or not all("param_names" in group for group in optimizer["param_groups"]):
        return optimizer
    groups: list[dict[str, Any]] = []
    state: dict[int, Any] = {}
    number = 0
    for group in optimizer["param_groups"]:
        named = [(n, p) for n, p in zip(group["param_names"], group["params"], strict=True) if n in kept]
        places = range(number, number + len(named))
        groups.append({**group, "param_names": [name for name, _ in named], "params": list(places)})
        moments = [optimizer["state"].get(place) for _, place in named]
        state.update({place: found for place, found in zip(places, moments, strict=True) if found is not None})
        number += len(named)
    return {"state": state, "param_groups": groups}


def problem_of_optimizer(optimizer: object) -> str:
    """Describe why an object is not the state dict of an optimiser; empty if it is one.

    Args:
        optimizer: The object, from a file.
    """
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), Mapping):
        return "it is no state and groups of parameters"
    groups = optimizer.get("param_groups")
    if not isinstance(groups, list) or not all(_is_group(group) for group in groups):
        return "it is no state and groups of parameters"
    return ""


def _problem_of_adam(optimizer: Mapping[str, Any]) -> str:
    places = [place for group in optimizer["param_groups"] for place in group["params"]]
    if len(set(places)) != len(places):
        return "it names a parameter twice"
    for place, entry in optimizer["state"].items():
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(name), Tensor) for name in _MOMENTS):
            return "it holds other values than the moments of Adam"
        if not _is_count(entry.get("step", 0)) or place not in places:
            return "its counters or places are of the wrong kind"
    return ""


def steps_done(optimizer: Mapping[str, Any]) -> int:
    """Return the number of steps of an optimiser, from the counters of its parameters."""
    counters = [entry.get("step", 0) for entry in optimizer["state"].values()]
    return int(max((float(step) for step in counters), default=0))


def _is_group(group: object) -> bool:
    return (
        isinstance(group, Mapping)
        and isinstance(group.get("params"), list)
        and all(isinstance(place, int) for place in group["params"])
        and isinstance(group.get("lr"), (int, float, Tensor))
    )


def _is_count(step: object) -> bool:
    if isinstance(step, Tensor):
        return step.numel() == 1 and bool(step.isfinite())
    return isinstance(step, (int, float)) and math.isfinite(step)


def _possible_orders(groups: Sequence[Mapping[str, Any]], shapes: Shapes) -> list[list[str]]:
    """Return the known orders of the parameter names that fit the sizes of the groups, this library's first."""
    recorded = [name for group in groups for name in group.get("param_names") or ()]
    if recorded:
        # torch writes them where the optimiser was given names.
        names = list(module_names(dict.fromkeys(map(str, recorded))))
        return [names] if sorted(names) == sorted(shapes) else []
    vectors, matrices = parameter_order(shapes)
    # The documented training code splits by name only, and has the decayed group first.
    plain, decayed = _split(shapes, lambda name: "bias" in name or "norm" in name)
    sizes = [len(group["params"]) for group in groups]
    orders: list[list[str]] = []
    for parts in ([vectors, matrices], [decayed, plain], [plain, decayed], [matrices, vectors], [list(shapes)]):
        names = [name for part in parts for name in part]
        if [len(part) for part in parts] == sizes and names not in orders:
            orders.append(names)
    return orders


def _fits(state: Mapping[Any, Any], names: Sequence[str], places: Sequence[int], shapes: Shapes) -> bool:
    """Whether every moment has the shape of the parameter at its place."""
    return all(
        state[place][moment].shape == shapes[name]
        for name, place in zip(names, places, strict=True)
        if place in state
        for moment in _MOMENTS
    )


def _our_groups(
    groups: Sequence[Mapping[str, Any]], place_of: Mapping[str, int], shapes: Shapes
) -> list[dict[str, Any]]:
    """Return the two parameter groups, each with the options of the group that most of its parameters had."""
    options = {place: group for group in groups for place in group["params"]}
    made: list[dict[str, Any]] = []
    for names in parameter_order(shapes):
        start = sum(len(group["params"]) for group in made)
        source = Counter(id(options[place_of[name]]) for name in names).most_common(1)
        chosen = next((group for group in groups if source and id(group) == source[0][0]), groups[0])
        kept = {name: value for name, value in chosen.items() if name != "param_names"}
        made.append({**kept, "params": list(range(start, start + len(names)))})
    if len(groups) == 1:
        # Vectors never decay here.
        made[0]["weight_decay"] = 0.0
    return made


def _split(shapes: Shapes, belongs: Callable[[str], bool]) -> list[list[str]]:
    """Split the names into those that belong to the first group and the others, each in order."""
    return [[name for name in shapes if belongs(name)], [name for name in shapes if not belongs(name)]]
