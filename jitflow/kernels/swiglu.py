"""Bias and gate of a SwiGLU layer in one pass, and their gradients, the bias's included, in one.

Shapes: B batch, N tokens, H hidden size, R chunks of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from jitflow.kernels.launch import row_contiguous, wrap_triton

# Tile of a program in the forward pass; in the backward pass it goes down a chunk of rows and sums the bias's gradient.
_ROWS, _COLUMNS, _CHUNK = 8, 128, 256


@triton.jit
def _forward_kernel(
    uv_ptr, bias_ptr, out_ptr, num_rows, hidden, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (rows < num_rows)[:, None] & (columns < hidden)[None, :]
    at = uv_ptr + rows[:, None] * (2 * hidden) + columns[None, :]
    u = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(at + hidden, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        u += tl.load(bias_ptr + columns, mask=columns < hidden, other=0.0).to(tl.float32)[None, :]
        v += tl.load(bias_ptr + hidden + columns, mask=columns < hidden, other=0.0).to(tl.float32)[None, :]
    out = u * tl.sigmoid(u) * v
    tl.store(out_ptr + rows[:, None] * hidden + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    uv_ptr,
    bias_ptr,
    d_out_ptr,
    d_uv_ptr,
    d_bias_ptr,
    num_rows,
    hidden,
    HAS_BIAS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * CHUNK
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < hidden
    d_bias_u = tl.zeros((ROWS, COLUMNS), tl.float32)
    d_bias_v = tl.zeros((ROWS, COLUMNS), tl.float32)
    if HAS_BIAS:
        bias_u = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        bias_v = tl.load(bias_ptr + hidden + columns, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, CHUNK, ROWS):
        rows = first + start + tl.arange(0, ROWS)
        mask = (rows < num_rows)[:, None] & inside[None, :]
        at = rows[:, None] * (2 * hidden) + columns[None, :]
        u = tl.load(uv_ptr + at, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(uv_ptr + at + hidden, mask=mask, other=0.0).to(tl.float32)
        d_out = tl.load(d_out_ptr + rows[:, None] * hidden + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        if HAS_BIAS:
            u += bias_u[None, :]
            v += bias_v[None, :]
        gate = tl.sigmoid(u)
        d_v = d_out * u * gate
        d_u = d_out * v * gate * (1.0 + u * (1.0 - gate))
        d_bias_u += d_u
        d_bias_v += d_v
        tl.store(d_uv_ptr + at, d_u.to(d_uv_ptr.dtype.element_ty), mask=mask)
        tl.store(d_uv_ptr + at + hidden, d_v.to(d_uv_ptr.dtype.element_ty), mask=mask)
    if HAS_BIAS:
        part = d_bias_ptr + tl.program_id(0) * 2 * hidden + columns
        tl.store(part, tl.sum(d_bias_u, axis=0), mask=inside)
        tl.store(part + hidden, tl.sum(d_bias_v, axis=0), mask=inside)


@triton_op("jitflow::swiglu", mutates_args={})
def _swiglu(uv: Tensor, bias: Tensor | None) -> Tensor:
    uv = row_contiguous(uv)
    hidden = uv.shape[-1] // 2
    num_rows = uv.numel() // (2 * hidden)
    out = torch.empty((*uv.shape[:-1], hidden), dtype=uv.dtype, device=uv.device)
    wrap_triton(_forward_kernel)[(triton.cdiv(num_rows, _ROWS), triton.cdiv(hidden, _COLUMNS))](
        uv,
        uv if bias is None else bias,
        out,
        num_rows,
        hidden,
        HAS_BIAS=bias is not None,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return out


@triton_op("jitflow::swiglu_backward", mutates_args={})
def _backward(uv: Tensor, bias: Tensor | None, d_out: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the inputs, shape (B, N, 2 H), and partial sums (R, 2 H) of the bias's; empty without one."""
    uv, d_out = row_contiguous(uv), d_out.contiguous()
    hidden = uv.shape[-1] // 2
    num_rows = uv.numel() // (2 * hidden)
    chunks = triton.cdiv(num_rows, _CHUNK)
    d_uv = torch.empty(uv.shape, dtype=uv.dtype, device=uv.device)
    d_bias = torch.empty((chunks, 2 * hidden) if bias is not None else (0,), dtype=torch.float32, device=uv.device)
    wrap_triton(_backward_kernel)[(chunks, triton.cdiv(hidden, _COLUMNS))](
        uv,
        uv if bias is None else bias,
        d_out,
        d_uv,
        d_bias,
        num_rows,
        hidden,
        HAS_BIAS=bias is not None,
        CHUNK=_CHUNK,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
    )
    return d_uv, d_bias


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, d_out):
    uv, bias = ctx.saved_tensors
    d_uv, d_bias = _backward(uv, bias, d_out)
    return d_uv, None if bias is None else d_bias.sum(0).to(bias.dtype)


_swiglu.register_autograd(_gradients, setup_context=_keep)


def swiglu(uv: Tensor, bias: Tensor | None) -> Tensor:
    """Compute hidden units of a gated layer: ``silu(u) v`` with ``[u | v] = uv + bias``, in float32.

    Args:
        uv: Output of the first product without its bias, shape ``(B, N, 2 H)``.
        bias: Its bias, shape ``(2 H,)``; None where it is already added.

    Returns:
        Hidden units, shape ``(B, N, H)``, dtype of ``uv``.
    """
    return _swiglu(uv, bias)
