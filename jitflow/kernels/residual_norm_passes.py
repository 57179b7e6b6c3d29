"""Triton code of :mod:`jitflow.kernels.residual_norm`: forward and backward pass over tokens.

A program computes a chunk of tokens of one sample. Shapes as there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    weight_ptr,
    shift_ptr,
    scale_ptr,
    sum_ptr,
    out_ptr,
    rstd_ptr,
    num_tokens,
    dim,
    x_stride,
    branch_stride,
    gate_stride,
    shift_stride,
    scale_stride,
    EPS: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Forward pass of a chunk of tokens: add the gated layer, then norm and modulation, where there are any."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    if HAS_BRANCH:
        gate = tl.load(gate_ptr + batch * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        factor = 1.0 + tl.load(scale_ptr + batch * scale_stride + columns, mask=inside, other=0.0).to(tl.float32)
        factor *= tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_SHIFT:
            shift = tl.load(shift_ptr + batch * shift_stride + columns, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, CHUNK, ROWS):
        rows = first + start + tl.arange(0, ROWS)
        mask = (rows < num_tokens)[:, None] & inside[None, :]
        at = rows[:, None] * dim + columns[None, :]
        x = tl.load(x_ptr + batch * x_stride + at, mask=mask, other=0.0).to(tl.float32)
        if HAS_BRANCH:
            x += gate[None, :] * tl.load(branch_ptr + batch * branch_stride + at, mask=mask, other=0.0).to(tl.float32)
            x = x.to(sum_ptr.dtype.element_ty)
            tl.store(sum_ptr + batch * num_tokens * dim + at, x, mask=mask)
            x = x.to(tl.float32)
        if HAS_NORM:
            rstd = tl.rsqrt(tl.sum(x * x, axis=1) / dim + EPS)
            tl.store(rstd_ptr + batch * num_tokens + rows, rstd, mask=rows < num_tokens)
            normed = x * rstd[:, None] * factor[None, :]
            if HAS_SHIFT:
                normed += shift[None, :]
            tl.store(out_ptr + batch * num_tokens * dim + at, normed.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    weight_ptr,
    scale_ptr,
    rstd_ptr,
    d_sum_ptr,
    d_out_ptr,
    d_x_ptr,
    d_branch_ptr,
    d_gate_ptr,
    d_factor_ptr,
    d_shift_ptr,
    num_tokens,
    dim,
    x_stride,
    branch_stride,
    gate_stride,
    scale_stride,
    HAS_BRANCH: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_SUM: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Backward pass of a chunk of tokens, with the sums over them that the modulation's gradients consist of."""
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * CHUNK
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    # Sums over the tokens of this program, kept row by row until the end.
    if HAS_BRANCH:
        gate = tl.load(gate_ptr + batch * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
        d_gate = tl.zeros((ROWS, BLOCK), tl.float32)
    if HAS_NORM:
        factor = 1.0 + tl.load(scale_ptr + batch * scale_stride + columns, mask=inside, other=0.0).to(tl.float32)
        factor *= tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        d_factor = tl.zeros((ROWS, BLOCK), tl.float32)
        if HAS_SHIFT:
            d_shift = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, CHUNK, ROWS):
        rows = first + start + tl.arange(0, ROWS)
        mask = (rows < num_tokens)[:, None] & inside[None, :]
        at = rows[:, None] * dim + columns[None, :]
        packed = batch * num_tokens * dim + at
        if HAS_SUM:
            d_x = tl.load(d_sum_ptr + packed, mask=mask, other=0.0).to(tl.float32)
        else:
            d_x = tl.zeros((ROWS, BLOCK), tl.float32)
        if HAS_NORM:
            rstd = tl.load(rstd_ptr + batch * num_tokens + rows, mask=rows < num_tokens, other=0.0)
            unit = tl.load(x_ptr + batch * x_stride + at, mask=mask, other=0.0).to(tl.float32) * rstd[:, None]
            d_out = tl.load(d_out_ptr + packed, mask=mask, other=0.0).to(tl.float32)
            d_factor += d_out * unit
            if HAS_SHIFT:
                d_shift += d_out
            d_unit = d_out * factor[None, :]
            along = tl.sum(d_unit * unit, axis=1) / dim
            d_x += rstd[:, None] * (d_unit - unit * along[:, None])
        tl.store(d_x_ptr + packed, d_x.to(d_x_ptr.dtype.element_ty), mask=mask)
        if HAS_BRANCH:
            branch = tl.load(branch_ptr + batch * branch_stride + at, mask=mask, other=0.0).to(tl.float32)
            d_gate += d_x * branch
            tl.store(d_branch_ptr + packed, (d_x * gate[None, :]).to(d_branch_ptr.dtype.element_ty), mask=mask)
    part = (batch * tl.num_programs(0) + tl.program_id(0)) * dim + columns
    if HAS_BRANCH:
        tl.store(d_gate_ptr + part, tl.sum(d_gate, axis=0), mask=inside)
    if HAS_NORM:
        tl.store(d_factor_ptr + part, tl.sum(d_factor, axis=0), mask=inside)
        if HAS_SHIFT:
            tl.store(d_shift_ptr + part, tl.sum(d_shift, axis=0), mask=inside)
