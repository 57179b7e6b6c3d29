"""Lightning module of JiT on images, with the documented constructor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from jitflow.checkpoint.jit_release import release_args
from jitflow.checkpoint.load import load_module
from jitflow.codec.pixel import PixelCodec
from jitflow.errors import ConfigError
from jitflow.layers.transformer import CompiledParts
from jitflow.nets.jit import JiT
from jitflow.nets.registry import create_model
from jitflow.training.flow_settings import FlowSettings
from jitflow.training.lightning_counters import last_finished_epoch
from jitflow.training.module import FlowModule

if TYPE_CHECKING:
    from typing_extensions import Self


class JiTLightningModule(FlowModule):
    """LightningModule that trains a JiT network on pixels, and samples images from it.

    The documented arguments come first, in their documented order; arguments after ``*`` are additions.

    Args:
        model_name: Name of the network, see ``jitflow models``.
        img_size: Side in pixels, or (height, width); divisible by the patch.
        num_classes: Number of classes.
        attn_dropout: Dropout of attention probabilities, in the middle half of the blocks.
        proj_dropout: Dropout of projections and hidden units, in the middle half of the blocks.
        learning_rate: Step size of AdamW.
        weight_decay: Decay of matrices; vectors and biases never decay.
        ema_decay1: Decay of the first average of the weights, the one that is sampled from.
        ema_decay2: Decay of the second average.
        P_mean: Mean of the logit of the training times.
        P_std: Standard deviation of the logit of the training times.
        noise_scale: Standard deviation of the noise; 1 at 256 px, 2 at 512 px.
        t_eps: Smallest ``1 - t`` that a data prediction is divided by, in training and sampling.
        label_drop_prob: Share of training labels replaced by "any class", which guidance needs.
        sampling_method: Solver: ``heun``, ``euler``, ``midpoint``, ``multistep`` or ``consistency``.
        num_sampling_steps: Steps of the solver.
        cfg_scale: Guidance scale; 1 switches guidance off.
        cfg_interval: Times (low, high) between which guidance acts.
        in_channels: 3 for colour, 1 for grey.
        net_settings: Arguments of the network that replace the variant's, such as ``{"depth": 6}``; with
            ``model_name="JiT"`` they define the whole network.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory.
        compile: Compile every block with ``torch.compile`` (true, or ``"blocks"``), the whole ``"network"``, or it and
            the loss of a training step together (``"loss"``); ``"auto"`` is ``"loss"`` on CUDA and nothing elsewhere.
        settings: Further :class:`~jitflow.training.flow_settings.FlowSettings`.

    Attributes:
        net: The network, a :class:`jitflow.nets.jit.JiT`.
        ema_params1: First average by parameter name, empty until :class:`EMACallback` fills it.
        ema_params2: Second average.
    """

    application: ClassVar[str] = "images"
    has_release_format: ClassVar[bool] = True

    def __init__(
        self,
        model_name: str = "JiT-B/16",
        img_size: int | tuple[int, int] = 256,
        num_classes: int = 1000,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        ema_decay1: float = 0.9999,
        ema_decay2: float = 0.9996,
        P_mean: float = -0.8,
        P_std: float = 0.8,
        noise_scale: float = 1.0,
        t_eps: float = 5e-2,
        label_drop_prob: float = 0.1,
        sampling_method: str = "heun",
        num_sampling_steps: int = 50,
        cfg_scale: float = 1.0,
        cfg_interval: tuple[float, float] = (0.0, 1.0),
        *,
        in_channels: int = 3,
        net_settings: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        compile: bool | CompiledParts = "auto",
        **settings: Any,
    ) -> None:
        flow = FlowSettings(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            ema_decay1=ema_decay1,
            ema_decay2=ema_decay2,
            P_mean=P_mean,
            P_std=P_std,
            noise_scale=noise_scale,
            t_eps=t_eps,
            label_drop_prob=label_drop_prob,
            sampling_method=sampling_method,
            num_sampling_steps=num_sampling_steps,
            cfg_scale=cfg_scale,
            cfg_interval=cfg_interval,
            **settings,
        )
        net = create_model(
            model_name,
            img_size=img_size,
            in_channels=in_channels,
            num_classes=num_classes,
            attn_dropout=attn_dropout,
            proj_dropout=proj_dropout,
            gradient_checkpointing=gradient_checkpointing,
            **(net_settings or {}),
        )
        assert isinstance(net, JiT)
        net.compile_parts(compile)
        super().__init__(PixelCodec(net.img_size, in_channels), net, num_classes=num_classes, settings=flow)
        self.model_name = model_name
        self.img_size = img_size
        self.save_hyperparameters(flow.arguments())
        self.save_hyperparameters()

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        hparams_file: str | Path | None = None,
        strict: bool = True,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a trained module from a checkpoint of any of the three formats.

        Args:
            checkpoint_path: A ``.ckpt``, a ``.pth`` (ours or the JiT release's) or a ``.safetensors``.
            map_location: Device to put the module on; the CPU by default.
            hparams_file: Not used; the settings are in the checkpoint.
            strict: Must stay True: missing weights are never hidden.
            weights_only: Must stay True: no file is allowed to run code.
            kwargs: Settings that override those of the file.

        Returns:
            The module with its weights and both averages.

        Raises:
            MissingFileError: If the file does not exist.
            CheckpointError: If it is damaged or does not fit; lists the names.
            ConfigError: If ``strict`` or ``weights_only`` is switched off.
        """
        if strict is False or weights_only is False:
            raise ConfigError(
                "load_from_checkpoint is always strict and never runs code from a file; to start from weights "
                "that fit in part, see jitflow.checkpoint.load.init_from"
            )
        module = load_module(checkpoint_path, module_class=cls, **kwargs).train()
        assert isinstance(module, cls)
        return module if map_location is None else module.to(map_location)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the checkpoint entries of the JiT release, sharing every tensor with Lightning's entries."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["model"] = checkpoint["state_dict"]
        if checkpoint.get("optimizer_states"):
            checkpoint["optimizer"] = checkpoint["optimizer_states"][0]
        checkpoint["args"] = release_args(dict(self.hparams))
        if self._trainer is not None:
            # In the release this is the last finished epoch; Lightning does not read this entry.
            checkpoint["epoch"] = last_finished_epoch(self.trainer)
