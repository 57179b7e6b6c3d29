"""Lightning module of LightningDiT on latents, conditioned on the user (or on any class)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from jitflow.apps.microdoppler.arrays.scale import ArrayScale
from jitflow.apps.microdoppler.spectrogram_axes import SpectrogramAxes
from jitflow.codec.latent import LatentCodec, load_image_codec
from jitflow.codec.linear import LinearCodec
from jitflow.core.path import Prediction
from jitflow.errors import CheckpointError, ConfigError
from jitflow.layers.transformer import CompiledParts
from jitflow.nets.lightningdit import LightningDiT
from jitflow.nets.registry import create_model
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.module import FlowModule
from jitflow.training.terms import CosineTerm


@dataclass(frozen=True)
class LatentFlowSettings(FlowSettings):
    """Settings of a flow between noise and latents: those of the LightningDiT release, with the documented guidance.

    Attributes:
        num_sampling_steps: Steps of the solver. The release's "250 steps" are 250 points, which are 249 steps.
        cfg_channels: Guide only this many leading channels, 3 in the release; None guides all.
        time_shift: Above 1 moves sampling times towards the noise; the release's shift ``s`` is ``1 / s`` here.
    """

    P_mean: float = 0.0
    P_std: float = 1.0
    prediction: Prediction = "velocity"
    sampling_method: str = "euler"
    num_sampling_steps: int = 250
    cfg_scale: float = 4.0


class UserConditionedDiT(FlowModule):
    """LightningModule that trains a LightningDiT on normalised latents of users' images.

    The statistics of the latents, their codec and the user ids come from the data (:meth:`adopt_data`) and are stored
    in every checkpoint. A linear codec is stored completely, an autoencoder only by its checksum, so that sampling
    needs its file (:meth:`attach_codec`).

    Args:
        num_users: Number of users; this number is the label "no user", which guidance needs. In a recipe null
            takes the number of the data.
        model_name: Name of the network, see ``jitflow models 'LightningDiT*'``.
        latent_shape: Shape of one latent, (channels, height, width). In a recipe null takes the shape of the data.
        cosine_weight: Weight of the cosine loss on the velocity's direction; 0 disables it.
        net_settings: Arguments of the network that replace the variant's.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory.
        conditions: Named conditions besides the user, such as ``{activity: {names: [walk, run]}, speed: {range: [0.5,
            2.0]}}``. In a recipe null takes those of the data.
        compile: Compile every block with ``torch.compile`` (true, or ``"blocks"``), the whole ``"network"``, or it and
            the loss of a training step together (``"loss"``); ``"auto"`` is ``"loss"`` on CUDA and nothing elsewhere.
        settings: Further :class:`LatentFlowSettings`.

    Attributes:
        user_ids: User ids by label, 1-based unless the data differ.
        codec_record: Codec of the latents: ``id``, ``checksum`` and ``img_size``; None before training.
        axes: Time and velocity of the images' edges, as :class:`SpectrogramAxes` takes them; None if unknown.
        arrays: Scale of the spectrogram arrays that it was trained on, to invert it; None for pictures.

    Raises:
        ConfigError: If a value is out of its range.
    """

    application: ClassVar[str] = "microdoppler"
    takes_codec_file: ClassVar[bool] = True
    label_name: ClassVar[str] = "user"
    settings_class = LatentFlowSettings

    def __init__(
        self,
        num_users: int | None = 31,
        model_name: str = "LightningDiT-XL/1",
        latent_shape: tuple[int, int, int] | None = (32, 16, 16),
        *,
        cosine_weight: float = 1.0,
        net_settings: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        conditions: dict[str, Any] | None = None,
        compile: bool | CompiledParts = "auto",
        **settings: Any,
    ) -> None:
        flow = LatentFlowSettings(**settings)
        if num_users is None or latent_shape is None:
            raise ConfigError("num_users and latent_shape can be null only in a recipe; give both")
        if num_users < 1:
            raise ConfigError(f"num_users must be at least 1; got {num_users}")
        channels, height, width = latent_shape
        net = create_model(
            model_name,
            input_size=(height, width),
            in_channels=channels,
            num_classes=num_users,
            use_checkpoint=gradient_checkpointing,
            **({} if conditions is None else {"conditions": conditions}),
            **(net_settings or {}),
        )
        if not isinstance(net, LightningDiT):
            raise ConfigError(f"{model_name} works on pixels; latents need a LightningDiT (`jitflow models 'Light*'`)")
        net.compile_parts(compile)
        with torch.device("cpu"):
            # Setting the statistics reads them, which fails on the meta device.
            self.latents = LatentCodec((channels, height, width))
        super().__init__(
            self.latents,
            net,
            num_classes=num_users,
            settings=flow,
            loss_terms=[CosineTerm(cosine_weight)] if cosine_weight else [],
        )
        self.model_name = model_name
        self.user_ids = list(range(1, num_users + 1))
        self.codec_record: dict[str, Any] | None = None
        self.axes: dict[str, float] | None = None
        self.arrays: ArrayScale | None = None
        self.save_hyperparameters(flow.arguments())
        self.save_hyperparameters()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the users by label, ``user01`` and so on."""
        return tuple(f"user{user:02d}" for user in self.user_ids)

    def labels_of(self, user_ids: Sequence[int]) -> Tensor:
        """Translate user ids to labels.

        Args:
            user_ids: User ids of the data, 1-based.

        Returns:
            Labels, shape ``(B,)``, int64.

        Raises:
            ConfigError: If a user id is unknown.
        """
        unknown = [user for user in user_ids if user not in self.user_ids]
        if unknown:
            ids = self.user_ids
            known = f"{ids[0]} to {ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else ", ".join(map(str, ids))
            raise ConfigError(f"this model has no user {unknown[0]}; its users are {known}")
        return torch.tensor([self.user_ids.index(user) for user in user_ids], dtype=torch.int64)

    @classmethod
    def settings_from_data(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        """Return number of users, latent shape and conditions of the data; the documented ones if unknown."""
        found = {"num_users": info.get("num_classes", 31), "latent_shape": info.get("latent_shape", (32, 16, 16))}
        return {**found, "conditions": info.get("conditions")}

    def check_data(self, info: dict[str, Any]) -> None:
        """Raise ConfigError if the description of the latents does not fit this module."""
        users = info.get("num_classes", self.num_classes)
        if users != self.num_classes:
            raise ConfigError(f"the data has {users} users but the model {self.num_classes}; set num_users={users}")
        shape = tuple(info.get("latent_shape", self.latents.shape))
        if shape != self.latents.shape:
            raise ConfigError(f"the latents have shape {shape} but the model takes {self.latents.shape}")
        users_given = info.get("user_ids")
        if self.codec_record is not None and users_given is not None and list(users_given) != self.user_ids:
            raise ConfigError(
                f"the checkpoint was trained on the users {_listed(self.user_ids)} and the data have "
                f"{_listed(users_given)}, which would shift the labels; continue with the users it was trained on, or "
                "start a new run from its weights with --init_from"
            )
        recorded, given = self.latents.expected_checksum, info.get("codec", {}).get("checksum")
        if recorded and given and recorded != given:
            raise ConfigError(
                f"the checkpoint was trained on latents of codec {recorded[:12]}, these are of {given[:12]}; "
                "resume with the latents it was trained on"
            )

    def adopt_data(self, info: dict[str, Any]) -> None:
        """Adopt latent statistics, codec and user ids from the data, unless a checkpoint provided them."""
        if self.codec_record is None and "codec" in info:
            file = info.get("linear_codec")
            self._set_latent_record({**info, "linear": None if file is None else LinearCodec.from_file(file).state()})

    def attach_codec(self, images: Any) -> None:
        """Attach the image codec of the latents; raise ConfigError if it is a different one."""
        self.latents.attach(images)

    def load_codec(self, path: str | Path) -> None:
        """Load the image codec of the latents; raise ConfigError if the file holds a different one."""
        size = self.codec_record["img_size"] if self.codec_record is not None else 256
        self.attach_codec(load_image_codec(path, img_size=size if isinstance(size, int) else tuple(size)))

    def describe_labels(self) -> dict[str, Any]:
        """Return names and ids of the users by label, for an export."""
        return {**super().describe_labels(), "user_of_label": list(self.user_ids)}

    def extra_state(self) -> dict[str, Any]:
        """Return latent statistics, codec and user ids for the checkpoint."""
        if self.codec_record is None:
            return {}
        entry = {
            "mean": self.latents.mean.clone(),
            "std": self.latents.std.clone(),
            "codec": self.codec_record,
            "user_ids": self.user_ids,
            "axes": self.axes,
            "arrays": None if self.arrays is None else self.arrays.to_record(),
        }
        if isinstance(self.latents.images, LinearCodec):
            entry["linear"] = self.latents.images.state()
        return {"latents": entry}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore latent statistics, codec and user ids from a checkpoint."""
        entry = extra.get("latents")
        if entry is None:
            return
        try:
            self._set_latent_record(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's record of its latents is damaged ({error})") from None
        if len(self.user_ids) != self.num_classes:
            raise CheckpointError(
                f"the checkpoint names {len(self.user_ids)} users for a network of {self.num_classes}"
            )

    def _set_latent_record(self, record: Mapping[str, Any]) -> None:
        """Set latent statistics, codec and user ids from data or a checkpoint."""
        codec = {name: record["codec"][name] for name in ("id", "checksum", "img_size")}
        self.latents.set_normalisation(record["mean"], record["std"])
        # Latents of other code do not record their codec; then any codec of the right shape may be attached.
        self.latents.expected_id, self.latents.expected_checksum = codec["id"] or None, codec["checksum"] or None
        self.user_ids = [int(user) for user in record["user_ids"]]
        if record.get("linear") is not None:
            self.latents.attach(LinearCodec.from_state(record["linear"]))
        axes = record.get("axes")
        self.axes = None if axes is None else {f.name: float(axes[f.name]) for f in fields(SpectrogramAxes)}
        arrays = record.get("arrays")
        self.arrays = None if arrays is None else ArrayScale.of_record(arrays)
        self.codec_record = codec


def _listed(users: Sequence[int]) -> str:
    return ", ".join(map(str, users[:5])) + (", ..." if len(users) > 5 else "")
