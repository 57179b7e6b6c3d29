"""Bias, norm and rotation of queries and keys from the packed product in one pass, and their gradients in one.

Shapes: B batch, N tokens, U of them unread, A heads, K head dim, R chunks of tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from jitflow.kernels.launch import next_power_of_2, row_contiguous, wrap_triton

# Tokens of a tile; in the backward pass a program goes down a chunk of tokens and sums the gradients of the parameters.
_ROWS, _CHUNK = 16, 256


@triton.jit
def _forward_kernel(
    qkv_ptr,
    bias_ptr,
    q_weight_ptr,
    k_weight_ptr,
    table_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    num_rows,
    num_tokens,
    unread,
    head_dim,
    table_stride,
    EPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program computes the queries, the keys or the values of one head, for a few tokens.
    head, num_heads, part = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    dim = num_heads * head_dim
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns, half = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 2)
    inside, inside_half = columns < head_dim, half < head_dim // 2
    mask = (rows < num_rows)[:, None] & inside[None, :]
    at_head = part * dim + head * head_dim
    x = tl.load(qkv_ptr + rows[:, None] * (3 * dim) + at_head + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + at_head + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if part == 2:
        at_v = (rows * dim + head * head_dim)[:, None] + columns[None, :]
        tl.store(v_ptr + at_v, x.to(v_ptr.dtype.element_ty), mask=mask)
    else:
        if part == 0:
            out_ptr, weight_ptr = q_ptr, q_weight_ptr
        else:
            out_ptr, weight_ptr = k_ptr, k_weight_ptr
        skipped = tl.where(part == 0, unread, 0)
        token, batch = rows % num_tokens, rows // num_tokens
        mask_half = (rows < num_rows)[:, None] & inside_half[None, :]
        at_table = table_ptr + token[:, None] * (head_dim // 2) + half[None, :]
        cos = tl.load(at_table, mask=mask_half, other=0.0)
        sin = tl.load(at_table + table_stride, mask=mask_half, other=0.0)
        x *= tl.rsqrt(tl.sum(x * x, axis=1) / head_dim + EPS)[:, None]
        x *= tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        a, b = tl.split(tl.reshape(x, (ROWS, BLOCK // 2, 2)))
        at = (batch * (num_tokens - skipped) + token - skipped) * dim + head * head_dim
        out = out_ptr + at[:, None] + half[None, :]
        read = mask_half & (token >= skipped)[:, None]
        tl.store(out, (a * cos - b * sin).to(out_ptr.dtype.element_ty), mask=read)
        tl.store(out + head_dim // 2, (b * cos + a * sin).to(out_ptr.dtype.element_ty), mask=read)


@triton.jit
def _backward_kernel(
    qkv_ptr,
    bias_ptr,
    q_weight_ptr,
    k_weight_ptr,
    table_ptr,
    d_q_ptr,
    d_k_ptr,
    d_v_ptr,
    d_qkv_ptr,
    d_bias_ptr,
    d_weights_ptr,
    num_rows,
    num_tokens,
    unread,
    head_dim,
    table_stride,
    q_batch,
    q_token,
    q_head,
    k_batch,
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    EPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head, num_heads, part = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    dim = num_heads * head_dim
    first = tl.program_id(0).to(tl.int64) * CHUNK
    columns, half = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 2)
    inside, inside_half = columns < head_dim, half < head_dim // 2
    at_head = part * dim + head * head_dim
    d_bias = tl.zeros((ROWS, BLOCK), tl.float32)
    if part == 2:
        for start in range(0, CHUNK, ROWS):
            rows = first + start + tl.arange(0, ROWS)
            mask = (rows < num_rows)[:, None] & inside[None, :]
            at_v = (rows // num_tokens) * v_batch + (rows % num_tokens) * v_token + head * v_head
            d_v = tl.load(d_v_ptr + at_v[:, None] + columns[None, :], mask=mask, other=0.0)
            d_bias += d_v.to(tl.float32)
            at = rows[:, None] * (3 * dim) + at_head + columns[None, :]
            tl.store(d_qkv_ptr + at, d_v.to(d_qkv_ptr.dtype.element_ty), mask=mask)
    else:
        if part == 0:
            d_ptr, weight_ptr, d_batch, d_token, d_head = d_q_ptr, q_weight_ptr, q_batch, q_token, q_head
        else:
            d_ptr, weight_ptr, d_batch, d_token, d_head = d_k_ptr, k_weight_ptr, k_batch, k_token, k_head
        skipped = tl.where(part == 0, unread, 0)
        weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        d_weight = tl.zeros((ROWS, BLOCK), tl.float32)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + at_head + columns, mask=inside, other=0.0).to(tl.float32)
        for start in range(0, CHUNK, ROWS):
            rows = first + start + tl.arange(0, ROWS)
            token, batch = rows % num_tokens, rows // num_tokens
            mask = (rows < num_rows)[:, None] & inside[None, :]
            mask_half = (rows < num_rows)[:, None] & inside_half[None, :]
            at = rows[:, None] * (3 * dim) + at_head + columns[None, :]
            x = tl.load(qkv_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if HAS_BIAS:
                x = tl.where(mask, x + bias[None, :], 0.0)
            at_table = table_ptr + token[:, None] * (head_dim // 2) + half[None, :]
            cos = tl.load(at_table, mask=mask_half, other=0.0)
            sin = tl.load(at_table + table_stride, mask=mask_half, other=0.0)
            read = mask_half & (token >= skipped)[:, None]
            d_at = d_ptr + (batch * d_batch + (token - skipped) * d_token + head * d_head)[:, None] + half[None, :]
            d_first = tl.load(d_at, mask=read, other=0.0).to(tl.float32)
            d_second = tl.load(d_at + head_dim // 2, mask=read, other=0.0).to(tl.float32)
            # Back through the rotation, then through the norm.
            pairs = tl.join(d_first * cos + d_second * sin, d_second * cos - d_first * sin)
            d_normed = tl.reshape(pairs, (ROWS, BLOCK))
            rstd = tl.rsqrt(tl.sum(x * x, axis=1) / head_dim + EPS)[:, None]
            unit = x * rstd
            d_unit = d_normed * weight[None, :]
            d_x = rstd * (d_unit - unit * (tl.sum(d_unit * unit, axis=1) / head_dim)[:, None])
            d_weight += d_normed * unit
            d_bias += d_x
            tl.store(d_qkv_ptr + at, d_x.to(d_qkv_ptr.dtype.element_ty), mask=mask)
        of_program = (tl.program_id(0) * num_heads + head) * 2 + part
        tl.store(d_weights_ptr + of_program * head_dim + columns, tl.sum(d_weight, axis=0), mask=inside)
    if HAS_BIAS:
        tl.store(d_bias_ptr + tl.program_id(0) * 3 * dim + at_head + columns, tl.sum(d_bias, axis=0), mask=inside)


@triton_op("jitflow::rotary_qkv", mutates_args={})
def _rotary_qkv(
    qkv: Tensor,
    bias: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    num_heads: int,
    unread: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    qkv, table = qkv.contiguous(), row_contiguous(table)
    batch, num_tokens, packed = qkv.shape
    head_dim = packed // 3 // num_heads

    def empty(tokens: int) -> Tensor:
        return torch.empty((batch, tokens, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)

    q, k, v = empty(num_tokens - unread), empty(num_tokens), empty(num_tokens)
    wrap_triton(_forward_kernel)[(triton.cdiv(batch * num_tokens, _ROWS), num_heads, 3)](
        qkv,
        qkv if bias is None else bias,
        q_weight,
        k_weight,
        table,
        q,
        k,
        v,
        batch * num_tokens,
        num_tokens,
        unread,
        head_dim,
        table.stride(0),
        EPS=eps,
        HAS_BIAS=bias is not None,
        ROWS=_ROWS,
        BLOCK=next_power_of_2(head_dim),
    )
    return q, k, v


@triton_op("jitflow::rotary_qkv_backward", mutates_args={})
def _backward(
    qkv: Tensor,
    bias: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    num_heads: int,
    unread: int,
    eps: float,
    d_q: Tensor,
    d_k: Tensor,
    d_v: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the packed product, and partial sums: (R, 3 A K) of the bias's, (R A, 2, K) of the two weights'."""
    qkv, table = qkv.contiguous(), row_contiguous(table)
    batch, num_tokens, packed = qkv.shape
    head_dim = packed // 3 // num_heads
    chunks = triton.cdiv(batch * num_tokens, _CHUNK)
    d_q, d_k, d_v = (d if d.stride(-1) == 1 else d.contiguous() for d in (d_q, d_k, d_v))
    d_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    d_bias = torch.empty((chunks, packed) if bias is not None else (0,), dtype=torch.float32, device=qkv.device)
    d_weights = torch.empty((chunks * num_heads, 2, head_dim), dtype=torch.float32, device=qkv.device)
    wrap_triton(_backward_kernel)[(chunks, num_heads, 3)](
        qkv,
        qkv if bias is None else bias,
        q_weight,
        k_weight,
        table,
        d_q,
        d_k,
        d_v,
        d_qkv,
        d_bias,
        d_weights,
        batch * num_tokens,
        num_tokens,
        unread,
        head_dim,
        table.stride(0),
        *d_q.stride()[:3],
        *d_k.stride()[:3],
        *d_v.stride()[:3],
        EPS=eps,
        HAS_BIAS=bias is not None,
        CHUNK=_CHUNK,
        ROWS=_ROWS,
        BLOCK=next_power_of_2(head_dim),
    )
    return d_qkv, d_bias, d_weights


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.num_heads, ctx.unread, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, d_q, d_k, d_v):
    qkv, bias, q_weight, k_weight, table = ctx.saved_tensors
    d_qkv, d_bias, d_weights = _backward(
        qkv, bias, q_weight, k_weight, table, ctx.num_heads, ctx.unread, ctx.eps, d_q, d_k, d_v
    )
    d_bias = None if bias is None else d_bias.sum(0).to(bias.dtype)
    of_q, of_k = d_weights.sum(0).to(q_weight.dtype).unbind(0)
    return d_qkv, d_bias, of_q, of_k, None, None, None, None


_rotary_qkv.register_autograd(_gradients, setup_context=_keep)


def rotary_qkv(
    qkv: Tensor,
    bias: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    num_heads: int,
    unread: int = 0,
    *,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of an attention from its packed product; queries and keys normalised and rotated.

    Args:
        qkv: Product without its bias, shape ``(B, N, 3 A K)``.
        bias: Its bias, shape ``(3 A K,)``; None where it is already added.
        q_weight: Of the queries' RMS norm, shape ``(K,)``.
        k_weight: Of the keys' RMS norm, shape ``(K,)``.
        table: Rotation table, shape ``(2, N, K / 2)``, float32.
        num_heads: A.
        unread: U, leading tokens without queries.
        eps: Added to the mean squares.

    Returns:
        Queries ``(B, A, N - U, K)``, keys and values ``(B, A, N, K)``, dtype of ``qkv``. The channels of queries and
        keys are in another order, as those of ``apply_rope(..., in_order=False)``.
    """
    q, k, v = _rotary_qkv(qkv, bias, q_weight, k_weight, table, num_heads, unread, eps)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
