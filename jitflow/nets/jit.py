"""JiT ("just image Transformers"): a plain Transformer on image patches.

Shapes: B batch, C channels, H x W pixels, P patch side, N tokens, D width, A heads, K head dim.
Parameter names are those of the JiT release, so that its state dicts load unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jitflow.core.path import Prediction
from jitflow.errors import ConfigError, unknown_name
from jitflow.layers.adaln import AdaLNBlock, AdaLNFinal
from jitflow.layers.attention import Attention
from jitflow.layers.embed import LabelEmbedder, TimestepEmbedder, sincos_position_table
from jitflow.layers.features import BEFORE_CLASS_TOKENS, InnerFeatures, feature_names
from jitflow.layers.fusion import product_dtype
from jitflow.layers.initial import Init, initialise_
from jitflow.layers.mlp import SwiGLU
from jitflow.layers.patch import BottleneckPatchEmbed, PatchEmbed, unpatchify
from jitflow.layers.rope import RotaryTable
from jitflow.layers.stream import Stream
from jitflow.layers.transformer import AdaLNTransformer, check_sizes

Positions = Literal["rotary", "learned"]
RopeAxes = Literal["grid", "line"]


class JiT(AdaLNTransformer):
    """Image Transformer on raw patches, conditioned on time and, where there are classes, on the class.

    Args:
        img_size: Side of the image in pixels, or (height, width); divisible by ``patch_size``.
        patch_size: P.
        in_channels: C, of input and output.
        hidden_size: D; ``hidden_size / num_heads`` must be divisible by 4.
        depth: Number of blocks.
        num_heads: A.
        mlp_ratio: Nominal hidden size of the feed-forward layers over D.
        attn_dropout: Dropout of attention probabilities, in the middle half of the blocks only.
        proj_dropout: Dropout of projections and hidden units, in the middle half of the blocks only.
        num_classes: Number of classes; the label ``num_classes`` means "no class". 0 for a network without classes,
            which has no label embedding and takes no class tokens.
        bottleneck_dim: Width of the patch embedding's bottleneck.
        in_context_len: Number of class tokens prepended to the image tokens; 0 for none.
        in_context_start: Index of the block before which they are prepended.
        class_start: Number of first blocks that are modulated by the time alone, and so do not know the class; at most
            ``in_context_start`` if there are class tokens.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory; same result.
        positions: ``"rotary"``: the release's fixed sinusoidal embedding, and rotary embedding in every attention.
            ``"learned"``: a learned embedding, initialised with standard deviation 0.02, in place of the fixed one.
        use_rope: Whether to rotate queries and keys too; False needs learned positions.
        rope_axes: Coordinates of the rotary embedding: ``"grid"``, row and column of a patch, or ``"line"``, its index
            in row-major order, as for text.
        init: Initialisation of matrices, see :func:`jitflow.layers.initial.initialise_`.
        init_std: Standard deviation of the normal initialisation.
        bf16_stream: Keep the residual stream in bfloat16 too where products are computed in it (autocast); faster, and
            less exact.
        self_conditioning: Take a previous estimate of the data as ``hint``, through its own patch embedding. With
            ``init="xavier"`` that embedding starts at zero, so an untrained hint changes nothing; else it starts like
            all matrices, with which a network trained with hints from the start learns faster.
        conditions: Named conditions besides the class, such as ``{speed: {range: [0.5, 2.0]}}``; labels then have the
            shape ``(B, 1 + K)``, see :mod:`jitflow.core.condition_table`.

    Attributes:
        prediction: The kind of prediction the network was built for, or None if the caller decides.

    Raises:
        ConfigError: If the sizes are inconsistent.

    References:
        Li & He 2025, arXiv:2511.13720.
    """

    prediction: Prediction | None = None

    def __init__(
        self,
        img_size: int | tuple[int, int] = 256,
        patch_size: int = 16,
        in_channels: int = 3,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
        num_classes: int = 1000,
        bottleneck_dim: int = 128,
        in_context_len: int = 32,
        in_context_start: int = 4,
        class_start: int = 0,
        gradient_checkpointing: bool = False,
        positions: Positions = "rotary",
        use_rope: bool = True,
        rope_axes: RopeAxes = "grid",
        init: Init = "xavier",
        init_std: float = 0.02,
        self_conditioning: bool = False,
        bf16_stream: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(depth, hidden_size, mlp_ratio)
        self.img_size = _height_width(img_size)
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_context_len = in_context_len
        self.in_context_start = in_context_start
        self.class_start = class_start
        self.gradient_checkpointing = gradient_checkpointing
        self.use_rope = use_rope
        self.self_conditioning = self_conditioning
        self.bf16_stream = bf16_stream
        self.grid = _token_grid(self.img_size, patch_size)
        if hidden_size % num_heads or (hidden_size // num_heads) % 4:
            raise ConfigError(
                f"hidden_size {hidden_size} must be num_heads {num_heads} times a multiple of 4, "
                "the size that rotary positions need"
            )
        _check_classes(num_classes, depth, in_context_len, in_context_start, class_start)
        if positions not in get_args(Positions):
            raise unknown_name("positions", positions, get_args(Positions))
        if not init_std > 0:
            raise ConfigError(f"init_std must be positive; got {init_std}")
        if rope_axes not in get_args(RopeAxes):
            raise unknown_name("rope_axes", rope_axes, get_args(RopeAxes))
        if not use_rope and positions == "rotary":
            raise ConfigError("use_rope=False leaves no rotary positions; set positions='learned'")

        table = sincos_position_table(self.grid, hidden_size)
        learned = positions == "learned"
        self.pos_embed = nn.Parameter(torch.zeros_like(table) if learned else table, requires_grad=learned)
        if in_context_len:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, in_context_len, hidden_size))
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size) if num_classes else None
        self.x_embedder = BottleneckPatchEmbed(patch_size, in_channels, bottleneck_dim, hidden_size)
        # Dropout in the middle half only: the first blocks read raw patches, the last ones write pixels.
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                hidden_size,
                Attention(
                    hidden_size,
                    num_heads,
                    attn_dropout=attn_dropout if i in middle else 0.0,
                    proj_dropout=proj_dropout if i in middle else 0.0,
                ),
                SwiGLU(hidden_size, mlp_ratio=mlp_ratio, dropout=proj_dropout if i in middle else 0.0),
                norms_first=False,
            )
            for i in range(depth)
        )
        self.final_layer = AdaLNFinal(hidden_size, patch_size, in_channels)
        head_dim = hidden_size // num_heads
        rope_grid = self.grid if rope_axes == "grid" else (1, self.grid[0] * self.grid[1])
        self.rope = RotaryTable(rope_grid, head_dim, num_prefix=in_context_len)
        initialise_(self, init, normal=self._normal_initialised(), std=init_std)
        if self_conditioning:
            # Created last, so that the same seed gives all other weights the same values with and without it.
            self.hint_embedder = PatchEmbed(patch_size, in_channels, hidden_size, bias=False)
            if init == "xavier":
                nn.init.zeros_(self.hint_embedder.proj.weight)
            else:
                nn.init.trunc_normal_(self.hint_embedder.proj.weight, std=init_std)
        self.create_conditions(conditions, hidden_size)

    def _normal_initialised(self) -> list[Tensor]:
        tensors: list[Tensor] = []
        if self.y_embedder is not None:
            tensors.append(self.y_embedder.embedding_table.weight)
        tensors += self.t_embedder.matrices()
        if self.in_context_len:
            tensors.append(self.in_context_posemb)
        if self.pos_embed.requires_grad:
            tensors.append(self.pos_embed)
        return tensors

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        hint: Tensor | None = None,
        *,
        modulation: Tensor | None = None,
        features: Sequence[str] = (),
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Predict from a noisy image.

        Args:
            x: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data.
            y: Class of each sample, shape ``(B,)``, int64, in ``[0, num_classes]``; with conditions ``(B, 1 + K)``,
                float32; ignored without classes.
            hint: Estimate of the data (exact where known), shape of ``x``; None means zeros. Only with
                ``self_conditioning``.
            modulation: ``self.modulation(t, y)`` computed before, shape ``(B, M)``, or ``(1, M)`` for one that all
                samples share; ``t`` is then read only for the feature ``condition``.
            features: Names of inner features to return too, of :attr:`feature_names`.

        Returns:
            Prediction, shape ``(B, C, H, W)``; with ``features`` also these by name, see
            :mod:`jitflow.layers.features`.

        Raises:
            ValueError: If the image's size or number of channels differs from the network's, a label is missing, or the
                hint has another shape.
            ConfigError: If the network has no such feature.
        """
        if x.shape[1:] != (self.in_channels, *self.img_size):
            raise ValueError(
                f"this network takes images of shape (B, {self.in_channels}, {self.img_size[0]}, "
                f"{self.img_size[1]}); got {tuple(x.shape)}"
            )
        if hint is not None and not (self.self_conditioning and hint.shape == x.shape):
            wanted = f"a hint of shape {tuple(x.shape)}" if self.self_conditioning else "no hint (self_conditioning)"
            raise ValueError(f"this network takes {wanted}; got {tuple(hint.shape)}")
        inner = InnerFeatures(features, self.feature_names) if features else None
        y_emb = self._embed_label(y) if modulation is None or self.in_context_len or inner else None
        c = self._condition(t, y_emb) if modulation is None or inner else None
        early = self.t_embedder(t) if self.class_start and modulation is None else c
        *block_modulations, final_modulation = self._split_modulation(modulation)
        tokens = self.x_embedder(x) + self.pos_embed
        if self.self_conditioning:
            # Zeros are embedded too, so that every step has the same graph (DDP, compilation).
            tokens = tokens + self.hint_embedder(torch.zeros_like(x) if hint is None else hint.to(x.dtype))
        rope_in_context = self.rope(x.device) if self.use_rope else None
        rope = None if rope_in_context is None else rope_in_context[:, self.in_context_len :]
        stream = Stream(tokens.to(product_dtype(tokens)) if self.bf16_stream else tokens)
        if inner is not None:
            inner.start(c, stream)
        for i, (block, block_modulation) in enumerate(zip(self.blocks, block_modulations, strict=True)):
            if self.in_context_len and i == self.in_context_start:
                assert y_emb is not None
                if inner is not None:
                    inner.add(BEFORE_CLASS_TOKENS, stream.added())
                prefix = y_emb.unsqueeze(1) + self.in_context_posemb
                stream = Stream(torch.cat([prefix.to(stream.tokens.dtype), stream.added()], dim=1))
                rope = rope_in_context
            # The last block's outputs for the class tokens are not needed.
            unread = self.in_context_len if i == len(self.blocks) - 1 else 0
            known = early if i < self.class_start else c
            if self.gradient_checkpointing and self.training:
                stream = checkpoint(block, stream, known, rope, block_modulation, unread, use_reentrant=False)
            else:
                stream = block(stream, known, rope, block_modulation, unread)
            if inner is not None:
                inner.add_stream(i + 1, stream, self._num_class_tokens_after(i))
        output = unpatchify(self.final_layer(stream, c, final_modulation), self.grid, self.patch_size)
        return output if inner is None else (output, inner.found)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the inner features that :meth:`forward` can return."""
        return feature_names(len(self.blocks), class_tokens_from=self.in_context_start if self.in_context_len else None)

    def _num_class_tokens_after(self, block: int) -> int:
        """Return the number of leading class tokens in the output of a block."""
        return self.in_context_len if self.in_context_start <= block < len(self.blocks) - 1 else 0


def _check_classes(num_classes: int, depth: int, in_context_len: int, in_context_start: int, class_start: int) -> None:
    """Raise ConfigError unless the classes can enter the network where its arguments say."""
    if num_classes < 0:
        raise ConfigError(f"num_classes must not be negative; got {num_classes}")
    if in_context_len and not num_classes:
        raise ConfigError(
            f"in_context_len {in_context_len} asks for class tokens, but num_classes is 0; set in_context_len=0"
        )
    if in_context_len and not 0 <= in_context_start < depth:
        raise ConfigError(f"in_context_start {in_context_start} must be one of the {depth} blocks, from 0")
    last = (in_context_start if in_context_len else depth) if num_classes else 0
    if not 0 <= class_start <= last:
        raise ConfigError(f"class_start {class_start} must be between 0 and {last}: the class must enter the network")


def _height_width(img_size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    if isinstance(img_size, int):
        return img_size, img_size
    height, width = img_size
    return int(height), int(width)


def _token_grid(img_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    rows, cols = img_size[0] // patch_size, img_size[1] // patch_size
    if rows < 1 or cols < 1 or img_size != (rows * patch_size, cols * patch_size):
        raise ConfigError(
            f"img_size {img_size[0]}x{img_size[1]} is not divisible by patch_size {patch_size}; "
            f"the nearest that is: {max(1, round(img_size[0] / patch_size)) * patch_size}"
            f"x{max(1, round(img_size[1] / patch_size)) * patch_size}"
        )
    return rows, cols
