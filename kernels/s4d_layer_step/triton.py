"""Triton backend of `s4d_layer_step`: a program has some channels of some rows and takes their LayerNorm by itself."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.dense_step.triton_blocks import EXACT, advance, gelu, load_rows, moments
from ssmbio.kernels.dispatch import on_its_device

TILE = 512  # complex numbers of a state a program
BLOCK = 64  # channels of the LayerNorm at a time
WARPS = 4


def rows_of(batch: int) -> int:
    """Rows a program, which share what they load of a, b and c; no sum depends on it."""
    return 1 if batch <= 32 else 2 if batch <= 128 else 4


@on_its_device
def step(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    D: Tensor,
    state: Tensor,
    eps: float,
    g: Tensor,
) -> None:
    """Writes `g` and the state, from the arguments of `s4d_layer_step`."""
    batch, channels, pairs = state.shape
    padded = triton.next_power_of_2(pairs)
    tile = max(1, min(triton.next_power_of_2(channels), TILE // padded))
    rows = rows_of(batch)
    a, b, c, state = (tensor.view(torch.int64) for tensor in (a, b, c, state))
    s4d_layer_step_fwd_kernel[(triton.cdiv(batch, rows), triton.cdiv(channels, tile))](
        x, norm_weight, norm_bias, a, b, c, D, state, g,
        batch, x.stride(0), eps,
        CHANNELS=channels, N=pairs,
        ROWS=rows, TILE=tile, NP=padded, BLOCK=min(BLOCK, max(16, triton.next_power_of_2(channels))),
        num_warps=WARPS, **EXACT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def s4d_layer_step_fwd_kernel(
    x, norm_weight, norm_bias, a, b, c, D, state, g,
    batch: tl.int64, stride_x, eps,
    CHANNELS: tl.constexpr, N: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    channel = tl.program_id(1) * TILE + tl.arange(0, TILE)
    known = (channel < CHANNELS)[None, :]
    n = tl.arange(0, NP)[None, None, :]
    place = channel[None, :, None] * N + n
    inside = known[:, :, None] & (n < N)
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, 1)
    # All loads before anything that threads wait for each other at.
    a_tile = tl.load(a + place, mask=inside, other=0)
    b_tile = tl.load(b + place, mask=inside, other=0)
    c_tile = tl.load(c + place, mask=inside, other=0)
    gain = tl.load(norm_weight + channel[None, :], mask=known, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + channel[None, :], mask=known, other=0.0).to(tl.float32)
    skip = tl.load(D + channel[None, :], mask=known, other=0.0).to(tl.float32)
    whole = ()
    own = ()
    states = ()
    for r in tl.static_range(ROWS):
        row = tl.minimum(first + r, batch - 1)
        whole = whole + (load_rows(x, row, stride_x, lane, CHANNELS, BLOCK),)
        own = own + (tl.load(x + row[:, None] * stride_x + channel[None, :], mask=known, other=0.0).to(tl.float32),)
        states = states + (tl.load(state + row[:, None, None] * (CHANNELS * N) + place, mask=inside, other=0),)
    for r in tl.static_range(ROWS):
        mean, scale = moments(whole[r], lane, eps, CHANNELS, BLOCK)
        u = (own[r] - mean) * scale * gain + shift
        h, y = advance(states[r], u, a_tile, b_tile, c_tile)
        row = (first + r)[:, None]
        here = row < batch
        tl.store(state + row[:, :, None] * (CHANNELS * N) + place, h, mask=inside & here[:, :, None])
        out = gelu(y + skip * u)
        tl.store(g + row * CHANNELS + channel[None, :], out.to(g.dtype.element_ty), mask=known & here)
