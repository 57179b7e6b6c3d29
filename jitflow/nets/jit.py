"""JiT, a plain Transformer on image patches.

Shapes: B batch, C channels, H x W pixels, P patch side, N tokens, D width, A heads, K head dim.
Parameter names are those of the JiT release, so that its state dicts load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jitflow.errors import ConfigError
from jitflow.layers.attention import Attention
from jitflow.layers.embed import LabelEmbedder, TimestepEmbedder, sincos_position_table
from jitflow.layers.mlp import SwiGLU
from jitflow.layers.norm import RMSNorm, modulate
from jitflow.layers.patch import BottleneckPatchEmbed, unpatchify
from jitflow.layers.rope import RotaryTable


class JiTBlock(nn.Module):
    """Attention and feed-forward, each normalised, modulated and gated by the condition.

    Args:
        dim: D.
        num_heads: A.
        mlp_ratio: Nominal hidden size of the feed-forward layer over D.
        attn_dropout: Dropout of the attention probabilities.
        proj_dropout: Dropout after attention and inside the feed-forward layer.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        attn_dropout: float = 0.0,
        proj_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attn = Attention(dim, num_heads, attn_dropout=attn_dropout, proj_dropout=proj_dropout)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, mlp_ratio=mlp_ratio, dropout=proj_dropout)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor, rope: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            x: Tokens, shape ``(B, N, D)``.
            c: Condition, shape ``(B, D)``.
            rope: Rotation table, shape ``(2, N, K / 2)``.

        Returns:
            Tokens, shape ``(B, N, D)``.
        """
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate_msa.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_msa, scale_msa), rope)
        return x + gate_mlp.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Tokens to patches.

    Args:
        dim: D.
        patch_size: P.
        out_channels: C.
    """

    def __init__(self, dim: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(dim)
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map tokens ``(B, N, D)`` under the condition ``(B, D)`` to patches ``(B, N, P * P * C)``."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class JiT(nn.Module):
    """Image Transformer on raw patches, conditioned on time and class.

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
        num_classes: Number of classes; the label ``num_classes`` means "no class".
        bottleneck_dim: Width of the patch embedding's narrow layer.
        in_context_len: Class tokens put before the image tokens; 0 for none.
        in_context_start: Block before which they are put.
        gradient_checkpointing: Recompute blocks in the backward pass to save memory; same result.

    Raises:
        ConfigError: If sizes do not fit each other.

    References:
        Li & He 2025, arXiv:2511.13720.
    """

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
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.img_size = _height_width(img_size)
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_context_len = in_context_len
        self.in_context_start = in_context_start
        self.gradient_checkpointing = gradient_checkpointing
        self.grid = _token_grid(self.img_size, patch_size)
        if hidden_size % num_heads or (hidden_size // num_heads) % 4:
            raise ConfigError(
                f"hidden_size {hidden_size} must be num_heads {num_heads} times a multiple of 4, "
                "the size that rotary positions need"
            )
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1; got {num_classes}")
        if in_context_len and not 0 <= in_context_start < depth:
            raise ConfigError(f"in_context_start {in_context_start} must be one of the {depth} blocks, from 0")

        table = sincos_position_table(self.grid, hidden_size)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        if in_context_len:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, in_context_len, hidden_size))
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.x_embedder = BottleneckPatchEmbed(patch_size, in_channels, bottleneck_dim, hidden_size)
        # Only the middle half drops out: the first blocks see raw patches, the last ones write pixels.
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            JiTBlock(
                hidden_size,
                num_heads,
                mlp_ratio=mlp_ratio,
                attn_dropout=attn_dropout if i in middle else 0.0,
                proj_dropout=proj_dropout if i in middle else 0.0,
            )
            for i in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)
        head_dim = hidden_size // num_heads
        self._rope = RotaryTable(self.grid, head_dim)
        self._rope_in_context = RotaryTable(self.grid, head_dim, num_prefix=in_context_len)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for conv in (self.x_embedder.proj1, self.x_embedder.proj2):
            nn.init.xavier_uniform_(conv.weight.view(conv.weight.shape[0], -1))
        if self.x_embedder.proj2.bias is not None:
            nn.init.zeros_(self.x_embedder.proj2.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for linear in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)  # type: ignore[arg-type]
        if self.in_context_len:
            nn.init.normal_(self.in_context_posemb, std=0.02)
        # Last, so that nothing overwrites it: every gate starts closed and the first output is exactly 0.
        layers: list[nn.Module] = [*self.blocks, self.final_layer]
        for layer in layers:
            nn.init.zeros_(layer.adaLN_modulation[1].weight)  # type: ignore[index, union-attr]
            nn.init.zeros_(layer.adaLN_modulation[1].bias)  # type: ignore[index, union-attr]
        nn.init.zeros_(self.final_layer.linear.weight)
        nn.init.zeros_(self.final_layer.linear.bias)

    def compile_blocks(self, *, dynamic: bool = False) -> None:
        """Compile every block in place with ``torch.compile``; parameter names do not change.

        Args:
            dynamic: Whether shapes may vary without recompiling.
        """
        for block in self.blocks:
            block.compile(dynamic=dynamic)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predict from a noisy image.

        Args:
            x: Path sample, shape ``(B, C, H, W)``.
            t: Time, shape ``(B,)``, in ``[0, 1]``; 0 is noise, 1 is data.
            y: Class of each sample, shape ``(B,)``, int64, in ``[0, num_classes]``.

        Returns:
            Prediction, shape ``(B, C, H, W)``.

        Raises:
            ValueError: If the image has another size or number of channels than the network.
        """
        if x.shape[1:] != (self.in_channels, *self.img_size):
            raise ValueError(
                f"this network takes images of shape (B, {self.in_channels}, {self.img_size[0]}, "
                f"{self.img_size[1]}); got {tuple(x.shape)}"
            )
        y_emb = self.y_embedder(y)
        c = self.t_embedder(t) + y_emb
        tokens = self.x_embedder(x) + self.pos_embed
        rope = self._rope(x.device)
        for i, block in enumerate(self.blocks):
            if self.in_context_len and i == self.in_context_start:
                prefix = y_emb.unsqueeze(1) + self.in_context_posemb
                tokens = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
                rope = self._rope_in_context(x.device)
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, c, rope, use_reentrant=False)
            else:
                tokens = block(tokens, c, rope)
        tokens = tokens[:, self.in_context_len :]
        return unpatchify(self.final_layer(tokens, c), self.grid, self.patch_size)


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
