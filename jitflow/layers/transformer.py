"""What Transformers of adaLN blocks have in common, whatever their tokens are.

Shapes: B batch, D width, M all modulation values of one condition.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from jitflow.errors import unknown_name
from jitflow.layers.adaln import AdaLNBlock, AdaLNFinal
from jitflow.layers.embed import LabelEmbedder, TimestepEmbedder

CompiledParts = Literal["blocks", "network"]
# Forms of one layer that may be compiled: all blocks share their code, and each comes with and without class tokens,
# with and without gradients, in several sizes of batches. After 8 torch would quietly stop compiling.
_FORMS = 64


class AdaLNTransformer(nn.Module):
    """Base of networks whose blocks see time and class through adaLN only; a subclass makes the layers.

    Attributes:
        t_embedder: Time to vector.
        y_embedder: Class to vector, or None for a network without classes.
        blocks: The blocks, each an :class:`~jitflow.layers.adaln.AdaLNBlock`.
        final_layer: Tokens to patches.
    """

    t_embedder: TimestepEmbedder
    y_embedder: LabelEmbedder | None
    blocks: nn.ModuleList
    final_layer: AdaLNFinal

    def compile_parts(self, parts: bool | CompiledParts = True) -> None:
        """Compile in place with ``torch.compile``, for the shapes that come; parameter names do not change.

        Args:
            parts: ``"blocks"``, or True: every block by itself, where equal ones are compiled once. ``"network"``: all
                layers as one, in fewer and longer kernels, for a compilation that grows with the depth. False: nothing.

        Raises:
            ConfigError: If ``parts`` is something else.
        """
        if parts:
            limits = torch.compiler.config
            limits.recompile_limit = max(limits.recompile_limit, _FORMS)
        if parts == "network":
            self.compile(dynamic=False)
        elif parts is True or parts == "blocks":
            for block in self.blocks:
                block.compile(dynamic=False)
        elif parts is not False:
            raise unknown_name("compile", parts, ("true", "false", *get_args(CompiledParts)))

    def modulation(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute what all layers need to know of time and class, for ``forward(..., modulation=...)``.

        It depends on nothing else, so a sampler can compute it once for all of its times and labels: a row for
        each pair, picked by index at each step. Rows are as good as the direct way to the last bits of a matrix
        product, and exactly it for the same batch.

        Args:
            t: Time, shape ``(B,)``, in ``[0, 1]``.
            y: Class of each sample, shape ``(B,)``, int64; None for a network without classes.

        Returns:
            Values, shape ``(B, M)``: the layers' modulations one after another.
        """
        c = self._condition(t, self._embed_label(y))
        return torch.cat([layer.adaLN_modulation(c) for layer in self._modulated_layers()], dim=-1)

    def _embed_label(self, y: Tensor | None) -> Tensor | None:
        if self.y_embedder is None:
            return None
        if y is None:
            raise ValueError("this network needs a label for each sample; its number of classes means no class")
        return self.y_embedder(y)

    def _condition(self, t: Tensor, y_emb: Tensor | None) -> Tensor:
        t_emb: Tensor = self.t_embedder(t)
        return t_emb if y_emb is None else t_emb + y_emb

    def _split_modulation(self, modulation: Tensor | None) -> list[Tensor | None]:
        """Part ``(B, M)`` into one modulation for each block and the last layer; None stays None for each."""
        layers = self._modulated_layers()
        if modulation is None:
            return [None] * len(layers)
        sizes = [cast("nn.Linear", layer.adaLN_modulation[1]).out_features for layer in layers]
        if modulation.shape[-1] != sum(sizes):
            raise ValueError(f"this network has {sum(sizes)} modulation values; got {tuple(modulation.shape)}")
        return list(modulation.split(sizes, dim=-1))

    def _modulated_layers(self) -> list[AdaLNBlock | AdaLNFinal]:
        return [*cast("list[AdaLNBlock]", list(self.blocks)), self.final_layer]
