"""LightningDiT: a diffusion Transformer on latents.

Shapes: B batch, C channels, H x W latent positions, P patch side, N tokens, D width, A heads, K head dim.
Parameter names are those of the LightningDiT release, so that its state dicts load unchanged. The network computes
the same too, except that it never drops labels (the training module does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jitflow.errors import CheckpointError, ConfigError
from jitflow.io.files import load_checkpoint
from jitflow.layers.adaln import AdaLNBlock, AdaLNFinal
from jitflow.layers.attention import Attention
from jitflow.layers.embed import LabelEmbedder, TimestepEmbedder, sincos_position_table
from jitflow.layers.features import InnerFeatures, feature_names
from jitflow.layers.initial import initialise_
from jitflow.layers.mlp import Mlp, SwiGLU
from jitflow.layers.patch import PatchEmbed, unpatchify
from jitflow.layers.rope import StoredRotaryTable
from jitflow.layers.stream import Stream
from jitflow.layers.transformer import AdaLNTransformer, check_sizes
from jitflow.nets.weights import strip_prefix, summarise


class LightningDiT(AdaLNTransformer):
    """Diffusion Transformer on latents, conditioned on time and class.

    Names and defaults of the arguments are the release's; its published networks set ``use_swiglu``, ``use_rope``
    and ``use_rmsnorm``, as the named variants of the registry do. With every flag off it is a plain DiT.

    Args:
        input_size: Side of the latents, or (height, width); divisible by ``patch_size``.
        patch_size: P.
        in_channels: C, of input and output.
        hidden_size: D.
        depth: Number of blocks.
        num_heads: A.
        mlp_ratio: Nominal hidden size of the feed-forward layers over D.
        class_dropout_prob: Above 0 there is a row for "no class"; labels are never dropped here.
        num_classes: Number of classes; the label ``num_classes`` means "no class".
        learn_sigma: Also predict a second half of channels, which ``forward`` leaves out.
        use_qknorm: Normalise queries and keys.
        use_swiglu: Gated feed-forward layers of the same cost instead of plain ones.
        use_rope: Rotary positions in addition to the fixed table.
        use_rmsnorm: RMSNorm instead of LayerNorm.
        wo_shift: Whether the condition only scales and gates the blocks, without a shift.
        use_checkpoint: Recompute blocks in the backward pass to save memory; same result.
        conditions: Named conditions besides the class, such as ``{speed: {range: [0.5, 2.0]}}``; labels then have the
            shape ``(B, 1 + K)``, see :mod:`jitflow.core.condition_table`.

    Raises:
        ConfigError: If the sizes are inconsistent.

    References:
        Yao et al. 2025, arXiv:2501.01423; Peebles & Xie 2022, arXiv:2212.09748.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 32,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        use_qknorm: bool = False,
        use_swiglu: bool = False,
        use_rope: bool = False,
        use_rmsnorm: bool = False,
        wo_shift: bool = False,
        use_checkpoint: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(depth, hidden_size, mlp_ratio)
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.input_size = (int(height), int(width))
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.learn_sigma = learn_sigma
        self.use_checkpoint = use_checkpoint
        self.grid = (height // patch_size, width // patch_size)
        if min(self.grid) < 1 or height % patch_size or width % patch_size:
            raise ConfigError(f"input_size {height}x{width} is not divisible by patch_size {patch_size}")
        unit = 4 if use_rope else 1
        if hidden_size % 4 or hidden_size % num_heads or (hidden_size // num_heads) % unit:
            raise ConfigError(
                f"hidden_size {hidden_size} must be divisible by 4 and num_heads {num_heads} times a multiple of {unit}"
            )
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1; got {num_classes}")

        self.pos_embed = nn.Parameter(sincos_position_table(self.grid, hidden_size), requires_grad=False)
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, null_row=class_dropout_prob > 0)
        self.feat_rope = StoredRotaryTable(self.grid, hidden_size // num_heads) if use_rope else None
        head_norm: Any = ("rms" if use_rmsnorm else "layer") if use_qknorm else None
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                hidden_size,
                Attention(hidden_size, num_heads, qk_norm=head_norm),
                SwiGLU(hidden_size, mlp_ratio=mlp_ratio) if use_swiglu else Mlp(hidden_size, mlp_ratio=mlp_ratio),
                rms=use_rmsnorm,
                shift=not wo_shift,
            )
            for _ in range(depth)
        )
        self.final_layer = AdaLNFinal(hidden_size, patch_size, in_channels * (1 + learn_sigma), rms=use_rmsnorm)
        normal = [self.y_embedder.embedding_table.weight, *self.t_embedder.matrices()]
        initialise_(self, "xavier", normal=normal)
        self.create_conditions(conditions, hidden_size)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        *,
        modulation: Tensor | None = None,
        features: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Predict the velocity of noisy latents.

        Args:
            x: Path sample in normalised latents, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data. It is embedded without a factor of 1000:
                direction and scale of time are the same in the release and in this library.
            y: Class of each sample, shape ``(B,)``, int64, in ``[0, num_classes]``; with conditions ``(B, 1 + K)``,
                float32.
            modulation: ``self.modulation(t, y)`` computed before, shape ``(B, M)``, or ``(1, M)`` for one that all
                samples share; ``t`` and ``y`` are then read only for the feature ``condition``.
            features: Names of inner features to return too, of :attr:`feature_names`.

        Returns:
            Prediction, shape ``(B, C, H, W)``; with ``features`` also these by name, see
            :mod:`jitflow.layers.features`.

        Raises:
            ValueError: If the latents' size or number of channels differs from the network's.
            ConfigError: If the network has no such feature.
        """
        if x.shape[1:] != (self.in_channels, *self.input_size):
            raise ValueError(
                f"this network takes latents of shape (B, {self.in_channels}, {self.input_size[0]}, "
                f"{self.input_size[1]}); got {tuple(x.shape)}"
            )
        inner = InnerFeatures(features, self.feature_names) if features else None
        c = self._condition(t, self._embed_label(y)) if modulation is None or inner else None
        *block_modulations, final_modulation = self._split_modulation(modulation)
        stream = Stream(self.x_embedder(x) + self.pos_embed)
        rope = None if self.feat_rope is None else self.feat_rope(x.device)
        if inner is not None:
            inner.start(c, stream)
        for i, (block, block_modulation) in enumerate(zip(self.blocks, block_modulations, strict=True)):
            if self.use_checkpoint and self.training:
                stream = checkpoint(block, stream, c, rope, block_modulation, use_reentrant=False)
            else:
                stream = block(stream, c, rope, block_modulation)
            if inner is not None:
                inner.add_stream(i + 1, stream)
        out = unpatchify(self.final_layer(stream, c, final_modulation), self.grid, self.patch_size)
        output = out[:, : self.in_channels]
        return output if inner is None else (output, inner.found)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the inner features that :meth:`forward` can return."""
        return feature_names(len(self.blocks))


# A parameter of every LightningDiT but of no JiT, whose patch embedding has two layers.
ANCHOR = "x_embedder.proj.weight"


def load_lightningdit_weights(path: str | Path, which: str = "ema") -> dict[str, Tensor]:
    """Read the state dict of a LightningDiT from a checkpoint of the release.

    Args:
        path: A ``.pt`` file: sections ``model``, ``ema``, ``opt`` and ``config``, or a state dict alone, with or
            without the prefixes of wrappers (``module.``, ``_orig_mod.``).
        which: Section to read: ``"ema"``, the averaged weights that the release samples from, or ``"model"``. A
            file that is only a state dict is read whatever this says.

    Returns:
        The state dict, tensors on the CPU, mapped from the file where its format allows.

    Raises:
        MissingFileError: If there is no such file.
        CheckpointError: If it is damaged, has no such section, or holds another network's weights.
    """
    content = load_checkpoint(path)
    sections = [name for name, value in content.items() if isinstance(value, Mapping)]
    if any(isinstance(value, Tensor) for value in content.values()):
        weights: Mapping[str, Any] = content
    elif which in sections:
        weights = content[which]
    else:
        raise CheckpointError(f"{path} has no weights named {which!r}; found: {summarise(content)}")
    found = strip_prefix(weights, ANCHOR)
    if ANCHOR not in found:
        raise CheckpointError(f"{path} holds no LightningDiT (no {ANCHOR}); found: {summarise(weights)}")
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def detect_lightningdit(
    weights: Mapping[str, Tensor],
    *,
    input_size: int | tuple[int, int] | None = None,
    num_heads: int | None = None,
) -> dict[str, Any]:
    """Infer the settings of a LightningDiT from its weights.

    Args:
        weights: Its state dict.
        input_size: Size of the latents, where they are not square.
        num_heads: A; needed if the weights have neither rotary positions nor normalised queries.

    Returns:
        Keyword arguments of :class:`LightningDiT`. A label embedding without a row for "no class"
            looks the same as one with it; the row is assumed.

    Raises:
        CheckpointError: If these are not the weights of a LightningDiT, or a setting can neither be inferred nor was
            given.
    """
    try:
        width, in_channels, patch, _ = weights[ANCHOR].shape
        num_tokens = weights["pos_embed"].shape[1]
        rows = weights["y_embedder.embedding_table.weight"].shape[0]
        out_size = weights["final_layer.linear.weight"].shape[0]
        modulation = weights["blocks.0.adaLN_modulation.1.weight"].shape[0]
        swiglu = "blocks.0.mlp.w12.weight" in weights
        hidden = weights["blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc2.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"these are not the weights of a LightningDiT (no {error}); found: {summarise(weights)}"
        ) from None
    for name in ("feat_rope.freqs_cos", "blocks.0.attn.q_norm.weight"):
        if num_heads is None and name in weights:
            num_heads = width // weights[name].shape[-1]
    if num_heads is None:
        raise CheckpointError("the number of heads cannot be inferred from these weights; pass num_heads")
    if input_size is None:
        side = round(num_tokens**0.5)
        if side * side != num_tokens:
            raise CheckpointError(
                f"the weights are for {num_tokens} tokens, which is not a square number; pass input_size"
            )
        input_size = side * patch
    ratio = 1.5 * hidden / width if swiglu else hidden / width
    return {
        "input_size": input_size,
        "patch_size": patch,
        "in_channels": in_channels,
        "hidden_size": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        "num_heads": num_heads,
        # The hidden size of a gated layer is rounded down, so the ratio is rounded to the nearest half.
        "mlp_ratio": round(2 * ratio) / 2,
        "num_classes": rows - 1,
        "learn_sigma": out_size == 2 * patch * patch * in_channels,
        "use_qknorm": "blocks.0.attn.q_norm.weight" in weights,
        "use_swiglu": swiglu,
        "use_rope": "feat_rope.freqs_cos" in weights,
        "use_rmsnorm": "blocks.0.norm1.weight" in weights,
        "wo_shift": modulation == 4 * width,
    }
