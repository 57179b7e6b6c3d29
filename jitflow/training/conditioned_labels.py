"""Labels of a model with named conditions: dropping in training, guidance, checks, and what the checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jitflow.core.combinations import Combinations
from jitflow.core.condition_table import ALL, ConditionTable, null_labels, with_conditions
from jitflow.errors import ConfigError, unknown_name


class ConditionedLabels:
    """Part of a module that knows the named conditions of its network, see :mod:`jitflow.core.condition_table`.

    Attributes:
        net: The network; its ``conditions`` are the table, which most networks do not have.
        num_classes: Number of classes; this number is the null label.
        label_name: Name of the class among the conditions.
        label_drop_prob: Share of training labels whose class and conditions are all null.
        condition_drop_prob: Share of training labels in which one of these is null by itself, for each.
        combinations: Combinations of conditions in the training data; None where unknown.
    """

    label_name: ClassVar[str] = "class"

    net: nn.Module
    num_classes: int
    label_drop_prob: float
    condition_drop_prob: float
    combinations: Combinations | None = None

    @property
    def conditions(self) -> ConditionTable | None:
        """Named conditions of the network besides the class; None for none."""
        found = getattr(self.net, "conditions", None)
        return found if isinstance(found, ConditionTable) else None

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the class and of every condition, in the order of a label."""
        table = self.conditions
        return (self.label_name, *(() if table is None else table.conditions))

    @property
    def trains_null(self) -> bool:
        """Whether training drops every condition in some labels, together or by itself."""
        return self.label_drop_prob > 0 or (self.conditions is not None and self.condition_drop_prob > 0)

    def drop(self, labels: Tensor, together: Tensor, alone: Tensor | None = None) -> Tensor:
        """Replace the class and the conditions of training labels by their null codes.

        Args:
            labels: Labels, shape ``(B,)`` or, with conditions, ``(B, 1 + K)``.
            together: Numbers in ``[0, 1)``, shape ``(B,)``: below ``label_drop_prob`` everything is dropped.
            alone: Numbers in ``[0, 1)``, shape ``(B, 1 + K)``: below ``condition_drop_prob`` one thing is; read only
                with conditions.

        Returns:
            Labels, shape of ``labels``.
        """
        null = null_labels(labels, self.num_classes, self.conditions)
        if alone is None:
            return torch.where(together < self.label_drop_prob, null, labels)
        dropped = (together < self.label_drop_prob)[:, None] | (alone < self.condition_drop_prob)
        return torch.where(dropped, null, labels)

    def unconditional_labels(self, labels: Tensor, guide_by: str) -> Tensor:
        """Return the labels of guidance's second pass.

        Args:
            labels: Labels, shape ``(B,)`` or ``(B, 1 + K)``.
            guide_by: What is null there: ``all``, or names with commas between them.
        """
        guided = _names(guide_by)
        keep = () if guided is None else [name not in guided for name in self.condition_names]
        return null_labels(labels, self.num_classes, self.conditions, keep)

    def check_guide_by(self, guide_by: str) -> None:
        """Raise ConfigError if guidance is by an unknown condition, or by one that was never dropped by itself."""
        guided = _names(guide_by)
        for name in guided or ():
            if name not in self.condition_names:
                raise unknown_name("condition in guide_by", name, (ALL, *self.condition_names))
        if guided is not None and set(guided) != set(self.condition_names) and not self.condition_drop_prob > 0:
            raise ConfigError(
                f"guide_by {guide_by} needs conditions that were dropped by themselves, and condition_drop_prob 0 "
                "never does: guide by all, or train with condition_drop_prob above 0"
            )

    def complete_labels(self, labels: Tensor) -> Tensor:
        """Check the conditions of labels to sample, and add those that are missing, as null.

        Args:
            labels: Labels, shape ``(B,)``, int64, for any condition, or ``(B, 1 + K)``.

        Returns:
            Labels of the shape that the network takes.

        Raises:
            ConfigError: If the shape is wrong, a code is out of range, or "any" was never trained.
        """
        table = self.conditions
        if table is None or (labels.ndim == 2 and labels.shape[1] == 1 + len(table)):
            found = labels
        elif labels.ndim == 1:
            found = with_conditions(labels, table)
        else:
            raise ConfigError(
                f"labels of this model have the shape (B,) or (B, {1 + len(table)}), the class and the conditions "
                f"{', '.join(table.conditions)}; got {tuple(labels.shape)}"
            )
        if table is not None:
            table.check_codes(found[:, 1:])
            unnamed = (found[:, 1:] == found.new_tensor(table.nulls)).any(dim=0)
            if bool(unnamed.any()) and not self.trains_null:
                missing = [name for name, is_null in zip(table.conditions, unnamed.tolist(), strict=True) if is_null]
                raise ConfigError(
                    f"the model was trained with label_drop_prob and condition_drop_prob 0, so it needs every "
                    f"condition; name {', '.join(missing)} (conditions)"
                )
        return found

    def check_conditions(self, info: Mapping[str, Any]) -> None:
        """Raise ConfigError if the data have other conditions than the network.

        Args:
            info: Description of the data (``get_dataset_info``).
        """
        theirs, ours = (ConditionTable.of_record(record) for record in (info.get("conditions"), self._record()))
        if theirs != ours:
            named = [", ".join(table.conditions) if table is not None else "none" for table in (theirs, ours)]
            raise ConfigError(
                f"the data have the conditions {named[0]} and the model {named[1]}"
                + (" with other names or ranges" if named[0] == named[1] else "")
                + "; leave model.conditions null to take those of the data, or continue with the data it was trained on"
            )

    def adopt_conditions(self, info: Mapping[str, Any]) -> None:
        """Take the combinations of conditions of the data, unless a checkpoint provided them.

        Args:
            info: Description of the data.
        """
        table, found = self.conditions, info.get("combinations")
        if table is not None and found is not None and self.combinations is None:
            self.combinations = Combinations.of_record(found, table)

    def conditions_entry(self) -> dict[str, Any]:
        """Return the entry of a checkpoint with the combinations of conditions; empty for none."""
        return {} if self.combinations is None else {"combinations": self.combinations.to_record()}

    def load_conditions(self, extra: Mapping[str, Any]) -> None:
        """Restore the entry of :meth:`conditions_entry` from a checkpoint.

        Args:
            extra: The checkpoint's ``jitflow`` entry.
        """
        table, found = self.conditions, extra.get("combinations")
        self.combinations = None if table is None or found is None else Combinations.of_record(found, table)

    def _record(self) -> dict[str, Any] | None:
        return None if self.conditions is None else self.conditions.to_record()


def _names(guide_by: str) -> list[str] | None:
    """Return the names of conditions in a setting of guidance; None for all."""
    return None if guide_by == ALL else [name.strip() for name in guide_by.split(",")]
