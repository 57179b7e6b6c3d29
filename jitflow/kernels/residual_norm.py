"""Residual addition, RMS norm and modulation of tokens in one pass, and its gradient in one.

Shapes: B batch, N tokens, D width, C chunks of tokens.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from jitflow.kernels.launch import next_power_of_2, pointers, row_contiguous, sample_strides, wrap_triton
from jitflow.kernels.residual_norm_passes import backward_kernel, forward_kernel

# Tokens of a program, and of one turn of its loop. A program reads the modulation once, and sums its gradient.
_CHUNK, _ROWS = 16, 1


def _launch_forward(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    outputs: tuple[Tensor | None, Tensor | None, Tensor | None],
    eps: float,
) -> None:
    """Fill the sum, the normalised tokens and the reciprocal norms (those that are not None)."""
    batch, num_tokens, dim = x.shape
    block = next_power_of_2(dim)
    wrap_triton(forward_kernel)[(triton.cdiv(num_tokens, _CHUNK), batch)](
        *pointers(x, x, branch, gate, weight, shift, scale, *outputs),
        num_tokens,
        dim,
        *sample_strides(x, branch, gate, shift, scale),
        EPS=eps,
        HAS_BRANCH=branch is not None,
        HAS_NORM=scale is not None,
        HAS_SHIFT=shift is not None,
        CHUNK=_CHUNK,
        ROWS=_ROWS,
        BLOCK=block,
        num_warps=_warps(block),
    )


def _warps(block: int) -> int:
    """Warps of a program: eight values of a row for each thread, which are loaded at once."""
    return max(1, min(8, block // 256))


def _like(x: Tensor, kind: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=kind, device=x.device)


@triton_op("jitflow::gated_add", mutates_args={})
def _gated_add(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    x, branch = row_contiguous(x), row_contiguous(branch)
    total = _like(x, x.dtype)
    _launch_forward(x, branch, gate, None, None, None, (total, None, None), 0.0)
    return total


@triton_op("jitflow::norm_modulate", mutates_args={})
def _norm_modulate(
    x: Tensor, weight: Tensor, shift: Tensor | None, scale: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x = row_contiguous(x)
    out = _like(x, dtype)
    rstd = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    _launch_forward(x, None, None, weight, shift, scale, (None, out, rstd), eps)
    return out, rstd


@triton_op("jitflow::gated_add_norm_modulate", mutates_args={})
def _gated_add_norm_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    scale: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    x, branch = row_contiguous(x), row_contiguous(branch)
    total = _like(x, x.dtype)
    out = _like(x, dtype)
    rstd = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    _launch_forward(x, branch, gate, weight, shift, scale, (total, out, rstd), eps)
    return total, out, rstd


@triton_op("jitflow::residual_norm_backward", mutates_args={})
def _backward(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    rstd: Tensor | None,
    d_sum: Tensor | None,
    d_out: Tensor | None,
    has_shift: bool,
) -> list[Tensor]:
    """Gradients of tokens (B, N, D), branch, and partial sums (B, C, D) of those of gate, factor and shift.

    Those that an operation does not have are empty tensors.
    """
    batch, num_tokens, dim = x.shape
    x = row_contiguous(x)
    branch = None if branch is None else row_contiguous(branch)
    d_sum = None if d_sum is None else d_sum.contiguous()
    d_out = None if d_out is None else d_out.contiguous()
    chunks, block = triton.cdiv(num_tokens, _CHUNK), next_power_of_2(dim)
    with_branch, with_norm = branch is not None, d_out is not None

    def sums(exist: bool) -> Tensor:
        return torch.empty((batch, chunks, dim) if exist else (0,), dtype=torch.float32, device=x.device)

    d_x = _like(x, x.dtype)
    d_branch = sums(False) if branch is None else _like(x, branch.dtype)
    d_gate, d_factor, d_shift = sums(with_branch), sums(with_norm), sums(with_norm and has_shift)
    wrap_triton(backward_kernel)[(chunks, batch)](
        *pointers(x, x, branch, gate, weight, scale, rstd, d_sum, d_out),
        d_x,
        d_branch,
        d_gate,
        d_factor,
        d_shift,
        num_tokens,
        dim,
        *sample_strides(x, branch, gate, scale),
        HAS_BRANCH=with_branch,
        HAS_NORM=with_norm,
        HAS_SHIFT=has_shift,
        HAS_SUM=d_sum is not None,
        CHUNK=_CHUNK,
        ROWS=_ROWS,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return [d_x, d_branch, d_gate, d_factor, d_shift]


def _norm_gradients(
    d_factor: Tensor, d_shift: Tensor, weight: Tensor, scale: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of weight (D,), shift and scale (B, D) from the partial sums of a backward pass."""
    of_factor = d_factor.sum(1)
    d_weight = (of_factor * (1 + scale.float())).sum(0).to(weight.dtype)
    d_scale = (of_factor * weight.float()).to(scale.dtype)
    return d_weight, None if shift is None else d_shift.sum(1).to(shift.dtype), d_scale


def _keep_add(ctx, inputs, output) -> None:
    _, branch, gate = inputs
    ctx.save_for_backward(branch, gate)


def _add_gradients(ctx, d_sum):
    branch, gate = ctx.saved_tensors
    d_x, d_branch, d_gate, *_ = _backward(d_sum, branch, gate, None, None, None, d_sum, None, False)
    return d_x, d_branch, d_gate.sum(1).to(gate.dtype)


def _keep_norm(ctx, inputs, output) -> None:
    x, weight, shift, scale, *_ = inputs
    ctx.save_for_backward(x, weight, shift, scale, output[1])


def _gradients_of_norm(ctx, d_out, _):
    x, weight, shift, scale, rstd = ctx.saved_tensors
    d_x, _, _, d_factor, d_shift = _backward(x, None, None, weight, scale, rstd, None, d_out, shift is not None)
    return d_x, *_norm_gradients(d_factor, d_shift, weight, scale, shift), None, None


def _keep_add_norm(ctx, inputs, output) -> None:
    _, branch, gate, weight, shift, scale, *_ = inputs
    total, _, rstd = output
    ctx.save_for_backward(total, branch, gate, weight, shift, scale, rstd)


def _gradients_of_add_norm(ctx, d_sum, d_out, _):
    total, branch, gate, weight, shift, scale, rstd = ctx.saved_tensors
    d_x, d_branch, d_gate, d_factor, d_shift = _backward(
        total, branch, gate, weight, scale, rstd, d_sum, d_out, shift is not None
    )
    of_norm = _norm_gradients(d_factor, d_shift, weight, scale, shift)
    return d_x, d_branch, d_gate.sum(1).to(gate.dtype), *of_norm, None, None


_gated_add.register_autograd(_add_gradients, setup_context=_keep_add)
_norm_modulate.register_autograd(_gradients_of_norm, setup_context=_keep_norm)
_gated_add_norm_modulate.register_autograd(_gradients_of_add_norm, setup_context=_keep_add_norm)


def gated_add(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """Add a gated layer to the residual stream: ``x + gate branch``, computed in float32, in the dtype of ``x``.

    Args:
        x: Tokens, shape ``(B, N, D)``.
        branch: Output of a layer, shape ``(B, N, D)``.
        gate: Shape ``(B, D)``, or ``(1, D)`` for one that all samples share.
    """
    return _gated_add(x, branch, gate.expand(len(x), -1))


def norm_modulate(
    x: Tensor, weight: Tensor, shift: Tensor | None, scale: Tensor, *, eps: float, dtype: torch.dtype
) -> Tensor:
    """Apply RMS norm and modulation: ``rms_norm(x) weight (1 + scale) + shift``, computed in float32.

    Args:
        x: Tokens, shape ``(B, N, D)``.
        weight: Of the norm, shape ``(D,)``.
        shift: Shape ``(B, D)`` or ``(1, D)``, or None for none.
        scale: Shape ``(B, D)`` or ``(1, D)``.
        eps: Added to the mean square.
        dtype: Of the result.
    """
    batch = len(x)
    shift = None if shift is None else shift.expand(batch, -1)
    return _norm_modulate(x, weight, shift, scale.expand(batch, -1), eps, dtype)[0]


def gated_add_norm_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    scale: Tensor,
    *,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Add a gated layer, then apply norm and modulation, in one pass: :func:`gated_add` and :func:`norm_modulate`.

    Returns:
        The sum, shape ``(B, N, D)``, dtype of ``x``, and its modulated norm in ``dtype``.
    """
    batch = len(x)
    shift = None if shift is None else shift.expand(batch, -1)
    scale, gate = scale.expand(batch, -1), gate.expand(batch, -1)
    total, out, _ = _gated_add_norm_modulate(x, branch, gate, weight, shift, scale, eps, dtype)
    return total, out
