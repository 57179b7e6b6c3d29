"""Base class of adaLN Transformers: compilation and precomputed modulation.

Shapes: B batch, D width, M number of modulation values of all layers.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from jitflow.core.condition_table import ConditionTable, class_of
from jitflow.errors import ConfigError, check_count, unknown_name
from jitflow.layers.adaln import AdaLNBlock, AdaLNFinal
from jitflow.layers.embed import ConditionEmbedder, LabelEmbedder, TimestepEmbedder

CompiledParts = Literal["auto", "blocks", "network", "loss"]
# Limit of compiled variants of a layer: all blocks share their code, which is compiled with and without class tokens,
# with and without gradients, and for several batch sizes. Torch's default of 8 would silently stop compiling.
_RECOMPILE_LIMIT = 64
# Every block is an object of its own, which takes memory before any weight does.
_MOST_BLOCKS, _MOST_WIDTH, _MOST_RATIO = 1000, 1 << 20, 1000


def check_sizes(depth: int, hidden_size: int, mlp_ratio: float) -> None:
    """Raise ConfigError if a Transformer has many more blocks, or much wider ones, than any that was ever trained.

    Args:
        depth: Number of blocks.
        hidden_size: D.
        mlp_ratio: Hidden size of the feed-forward layers over D.
    """
    check_count("depth", depth, most=_MOST_BLOCKS)
    check_count("hidden_size", hidden_size, most=_MOST_WIDTH)
    if not 0 < mlp_ratio <= _MOST_RATIO:
        raise ConfigError(f"mlp_ratio must lie above 0 and be at most {_MOST_RATIO}; got {mlp_ratio}")


def raise_recompile_limit() -> None:
    """Let a layer be compiled for as many shapes as a training and its samples have."""
    limits = torch.compiler.config
    limits.recompile_limit = max(limits.recompile_limit, _RECOMPILE_LIMIT)


class AdaLNTransformer(nn.Module):
    """Base class of Transformers that are conditioned through adaLN only; a subclass creates the layers.

    Attributes:
        t_embedder: Embedding of the time.
        y_embedder: Embedding of the class, or None for a network without classes.
        conditions: Named conditions besides the class, whose embeddings are added to that of the class; None for none.
        condition_embedder: Embedding of these conditions; None for none.
        pos_embed: Position embedding, shape ``(1, N, D)``.
        blocks: The blocks, each an :class:`~jitflow.layers.adaln.AdaLNBlock`.
        final_layer: Layer that maps tokens to patches.
        class_start: Number of first blocks that are modulated by the time alone.
        grid: Rows and columns of image tokens.
        patch_size: Side of a patch.
        parts_to_compile: What :meth:`compile_parts` was asked for.
    """

    class_start: int = 0
    parts_to_compile: bool | CompiledParts = False

    t_embedder: TimestepEmbedder
    y_embedder: LabelEmbedder | None
    conditions: ConditionTable | None = None
    condition_embedder: ConditionEmbedder | None
    pos_embed: nn.Parameter
    blocks: nn.ModuleList
    final_layer: AdaLNFinal
    grid: tuple[int, int]
    patch_size: int

    def create_conditions(self, record: Any, dim: int) -> None:
        """Create the embedding of named conditions, after all other layers are initialised.

        The same seed then gives these the same values with and without it.

        Args:
            record: The conditions, see :meth:`~jitflow.core.condition_table.ConditionTable.of_record`; None for none.
            dim: D.

        Raises:
            ConfigError: If a condition is invalid, or the network has no classes.
        """
        table = ConditionTable.of_record(record)
        if table is not None and self.y_embedder is None:
            raise ConfigError("conditions are added to the class, and this network has none; set num_classes above 0")
        self.conditions = table
        self.condition_embedder = None if table is None else ConditionEmbedder(table, dim)

    def compile_parts(self, parts: bool | CompiledParts = True) -> None:
        """Compile the network in place with ``torch.compile``, once for each input shape; parameter names are kept.

        Args:
            parts: ``"blocks"`` or True: each block separately; equal blocks are compiled once. ``"network"``: all
                layers together, with fewer and larger kernels, but a compile time that grows with the depth.
                ``"loss"``: nothing here; a module compiles network and loss of its training step together.
                ``"auto"``: as ``"loss"`` on CUDA, nothing elsewhere. False: nothing.

        Raises:
            ConfigError: If ``parts`` has another value.
        """
        if parts not in (True, False, *get_args(CompiledParts)):
            raise unknown_name("compile", parts, ("true", "false", *get_args(CompiledParts)))
        self.parts_to_compile = parts
        if parts == "network":
            raise_recompile_limit()
            self.compile(dynamic=False)
        elif parts is True or parts == "blocks":
            raise_recompile_limit()
            for block in self.blocks:
                block.compile(dynamic=False)

    def modulation(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute the modulation of all layers from time and class, for ``forward(..., modulation=...)``.

        It depends on nothing else, so a sampler can compute it once for all its times and labels, one row for each
        pair, and index it at each step. The rows equal those that ``forward`` computes: bit for bit for the same batch,
        else up to the rounding of a matrix product.

        Args:
            t: Time, shape ``(B,)``, in ``[0, 1]``.
            y: Class of each sample, shape ``(B,)``, int64, or with conditions ``(B, 1 + K)``, float32; None for a
                network without classes.

        Returns:
            Modulation values, shape ``(B, M)``: those of all layers, concatenated.
        """
        c = self._condition(t, self._embed_label(y))
        early = self.t_embedder(t) if self.class_start else c
        layers = enumerate(self._modulated_layers())
        return torch.cat([layer.adaLN_modulation(early if i < self.class_start else c) for i, layer in layers], dim=-1)

    def _embed_label(self, y: Tensor | None) -> Tensor | None:
        if self.y_embedder is None:
            return None
        if y is None:
            raise ValueError("this network needs a label for each sample; the label num_classes means no class")
        num = 0 if self.conditions is None else len(self.conditions)
        if y.dim() != 1 + bool(num) or (num and y.shape[1] != 1 + num):
            wanted = f"(B, {1 + num}): the class and {num} conditions" if num else "(B,)"
            raise ValueError(f"this network takes labels of shape {wanted}; got {tuple(y.shape)}")
        y_emb: Tensor = self.y_embedder(class_of(y))
        return y_emb + self.condition_embedder(y[:, 1:]) if num and self.condition_embedder is not None else y_emb

    def _condition(self, t: Tensor, y_emb: Tensor | None) -> Tensor:
        t_emb: Tensor = self.t_embedder(t)
        return t_emb if y_emb is None else t_emb + y_emb

    def _split_modulation(self, modulation: Tensor | None) -> list[Tensor | None]:
        """Split a modulation ``(B, M)`` into one for each block and the final layer; None gives None for each."""
        layers = self._modulated_layers()
        if modulation is None:
            return [None] * len(layers)
        sizes = [cast("nn.Linear", layer.adaLN_modulation[1]).out_features for layer in layers]
        if modulation.shape[-1] != sum(sizes):
            raise ValueError(f"this network has {sum(sizes)} modulation values; got {tuple(modulation.shape)}")
        return list(modulation.split(sizes, dim=-1))

    def _modulated_layers(self) -> list[AdaLNBlock | AdaLNFinal]:
        return [*cast("list[AdaLNBlock]", list(self.blocks)), self.final_layer]
