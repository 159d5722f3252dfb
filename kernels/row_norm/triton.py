"""Triton backend of `row_norm`: several rows a program, so that narrow rows keep its threads busy.

The backward pass takes the statistics of a row from the row, which it holds, rather than keep them; a fixed number of
programs walk over the rows and sum the parameters' gradients on their way, so nothing is read twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.column_sums.triton import forward as column_sums

ELEMENTS = 4096  # of a program: 32 of each thread; half of them in the backward pass, which holds twice as many tiles
PROGRAMS = 512  # of the backward pass: a few on each multiprocessor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool, dtype: torch.dtype) -> Tensor:
    (rows, channels), tile = x.shape, _tile(x, ELEMENTS)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    row_norm_fwd_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
        x, weight, bias, y, rows, channels, eps, CENTRED=centred, HAS_BIAS=bias is not None, **tile
    )
    return y


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, centred: bool, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of x, to which `residual` is added, and of weight and bias, (2, D)."""
    (rows, channels), tile = x.shape, _tile(x, ELEMENTS // 2)
    programs = min(triton.cdiv(rows, tile["ROWS"]), PROGRAMS)
    dx = torch.empty_like(x)
    partial = torch.empty(programs, 2 * channels, dtype=torch.float32, device=x.device)
    row_norm_bwd_kernel[(programs,)](
        dy, x, weight, residual, dx, partial, rows, channels, eps,
        CENTRED=centred, HAS_RESIDUAL=residual is not None, **tile,
    )  # fmt: skip
    return dx, column_sums(partial).view(2, channels)


def _tile(x: Tensor, elements: int) -> dict[str, int]:
    width = triton.next_power_of_2(x.shape[1])
    return {"ROWS": max(1, elements // width), "WIDTH": width, "num_warps": 4 if width <= elements else 8}


@triton.jit
def normal_rows(x, row, column, rows, channels, eps, CENTRED: tl.constexpr):
    """Rows of mean square 1, zero outside, and what they were multiplied with."""
    known = (row < rows)[:, None] & (column < channels)[None, :]
    value = tl.load(x + row[:, None] * channels + column[None, :], mask=known, other=0.0).to(tl.float32)
    if CENTRED:
        value = tl.where(known, value - tl.sum(value, axis=1)[:, None] / channels, 0.0)
    scale = tl.rsqrt(tl.sum(value * value, axis=1) / channels + eps)
    return value * scale[:, None], scale, known


@triton.jit
def row_norm_fwd_kernel(
    x, weight, bias, y,
    rows, channels, eps,
    CENTRED: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    normal, _, known = normal_rows(x, row, column, rows, channels, eps, CENTRED)
    inside = column < channels
    out = normal * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        out += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row[:, None] * channels + column[None, :], out.to(y.dtype.element_ty), mask=known)


@triton.jit
def row_norm_bwd_kernel(
    dy, x, weight, residual, dx, partial,
    rows, channels, eps,
    CENTRED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pid, programs = tl.program_id(0), tl.num_programs(0)
    column = tl.arange(0, WIDTH)
    inside = column < channels
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    d_weight = tl.zeros([ROWS, WIDTH], tl.float32)
    d_bias = tl.zeros([ROWS, WIDTH], tl.float32)
    for block in range(pid, tl.cdiv(rows, ROWS), programs):
        row = tl.cast(block, tl.int64) * ROWS + tl.arange(0, ROWS)
        normal, scale, known = normal_rows(x, row, column, rows, channels, eps, CENTRED)
        place = row[:, None] * channels + column[None, :]
        d = tl.load(dy + place, mask=known, other=0.0).to(tl.float32)
        d_weight += d * normal
        d_bias += d
        g = d * w
        out = g - normal * (tl.sum(g * normal, axis=1) / channels)[:, None]
        if CENTRED:
            out -= (tl.sum(g, axis=1) / channels)[:, None]
        out *= scale[:, None]
        if HAS_RESIDUAL:
            out += tl.load(residual + place, mask=known, other=0.0).to(tl.float32)
        tl.store(dx + place, out.to(dx.dtype.element_ty), mask=known)
    sums = partial + tl.cast(pid, tl.int64) * (2 * channels) + column
    tl.store(sums, tl.sum(d_weight, axis=0), mask=inside)
    tl.store(sums + channels, tl.sum(d_bias, axis=0), mask=inside)
