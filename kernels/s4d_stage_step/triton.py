"""Triton backend of `s4d_stage_step`: one kernel for a narrow stage, four a layer for a wide one."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.dense_step import triton as dense
from ssmbio.kernels.dense_step.triton_blocks import (
    EXACT,
    advance,
    gelu,
    layer_norm,
    load_rows,
    load_tiles,
    load_vector,
    product,
)  # fmt: skip
from ssmbio.kernels.dispatch import on_its_device
from ssmbio.kernels.s4d_layer_step import triton as layer_step
from ssmbio.kernels.s4d_stage_step.op import S4DStage

# `rows_of` alone may look at the batch: a row's sums depend on the others.
# Of a stage in one kernel: over a wider one, a multiprocessor takes longer than four launches.
WIDEST, MOST_PAIRS = 128, 64
# Up to these, weights of the largest matrix and pairs, registers hold a layer's matrices while the next ones come in.
LARGEST_AHEAD, MOST_PAIRS_AHEAD = 64 * 128, 32
BLOCK = 64
WARPS = 16


def rows_of(batch: int) -> int:
    """Rows a program: one until every multiprocessor of an H100 has its own, then two, which share the weights."""
    return 1 if batch <= 132 else 2


@on_its_device
def step(x: Tensor, weights: S4DStage, state: Tensor, extra: Tensor | None, add_input: bool, eps: float) -> Tensor:
    """The stage's output (B, D), from the arguments of `s4d_stage_step`."""
    (batch, channels), (layers, _, _, pairs), inner = x.shape, state.shape, weights.widen_weight.shape[1]
    if channels > WIDEST or pairs > MOST_PAIRS:
        return _layer_by_layer(x, weights, state, extra, add_input, eps)
    rows = rows_of(batch)
    ahead = rows == 1 and channels * max(channels, inner) <= LARGEST_AHEAD and pairs <= MOST_PAIRS_AHEAD
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    a, b, c, state = (tensor.view(torch.int64) for tensor in (weights.a, weights.b, weights.c, state))
    s4d_stage_step_fwd_kernel[(triton.cdiv(batch, rows),)](
        x, extra, *weights._replace(a=a, b=b, c=c), state, y,
        batch, layers, x.stride(0), 0 if extra is None else extra.stride(0), eps,
        CHANNELS=channels, N=pairs, INNER=inner, ADD_INPUT=add_input,
        ROWS=rows, NP=triton.next_power_of_2(pairs), BLOCK=min(BLOCK, max(16, triton.next_power_of_2(channels))),
        AHEAD=ahead, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return y


def _layer_by_layer(
    x: Tensor, weights: S4DStage, state: Tensor, extra: Tensor | None, add_input: bool, eps: float
) -> Tensor:
    start = x if extra is None else x + extra
    v, g, inner = start, torch.empty_like(start), start.new_empty(start.shape[0], weights.widen_weight.shape[1])
    new = torch.empty_like(start)
    for layer in range(len(state)):
        w = S4DStage(*(tensor[layer] for tensor in weights))
        layer_step.step(v, w.norm_weight, w.norm_bias, w.a, w.b, w.c, w.D, state[layer], eps, g)
        dense.step(g, w.mix_weight, w.mix_bias, None, None, "glu", v, eps, new)
        v = new
        dense.step(v, w.widen_weight, w.widen_bias, w.ff_norm_weight, w.ff_norm_bias, "gelu", None, eps, inner)
        dense.step(inner, w.narrow_weight, w.narrow_bias, None, None, None, v, eps, v)
    return v + start if add_input else v


@triton.jit
def added(v, w, CHUNKS: tl.constexpr):
    total = ()
    for k in tl.static_range(CHUNKS):
        total = total + (v[k] + w[k],)
    return total


@triton.jit
def load_matrix(weight, lane, OUT: tl.constexpr, IN: tl.constexpr, BLOCK: tl.constexpr):
    """(OUT, IN) → tiles (1, BLOCK, BLOCK), those of the first BLOCK outputs first."""
    tiles = ()
    for k in tl.static_range((OUT + BLOCK - 1) // BLOCK):
        tiles = tiles + load_tiles(weight, k * BLOCK + lane, lane, OUT, IN, BLOCK, BLOCK)
    return tiles


@triton.jit
def linear(
    v, tiles, weight, bias, lane, OUT: tl.constexpr, IN: tl.constexpr, BLOCK: tl.constexpr, LOADED: tl.constexpr
):
    """W v + bias, in chunks; W stands in `tiles`, or is loaded from `weight` as it is needed."""
    CHUNKS: tl.constexpr = (IN + BLOCK - 1) // BLOCK
    out = ()
    for k in tl.static_range((OUT + BLOCK - 1) // BLOCK):
        if LOADED:
            out = out + (product(v, tiles, k * CHUNKS, CHUNKS) + bias[k],)
        else:
            own = load_tiles(weight, k * BLOCK + lane, lane, OUT, IN, BLOCK, BLOCK)
            out = out + (product(v, own, 0, CHUNKS) + bias[k],)
    return out


@triton.jit
def load_system(p, lane, n, CHANNELS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, NP: tl.constexpr):
    """(CHANNELS, N) numbers of 64 bits → chunks (1, BLOCK, NP), zero past either end."""
    chunks = ()
    for k in tl.static_range((CHANNELS + BLOCK - 1) // BLOCK):
        channel = k * BLOCK + lane[None, :, None]
        if CHANNELS % BLOCK == 0 and N == NP:
            chunks = chunks + (tl.load(p + channel * N + n[None, None, :]),)
        else:
            inside = (channel < CHANNELS) & (n[None, None, :] < N)
            chunks = chunks + (tl.load(p + channel * N + n[None, None, :], mask=inside, other=0),)
    return chunks


@triton.jit
def state_places(row, k, lane, n, CHANNELS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    """Of chunk k, (BLOCK, ROWS, NP): this way round, threads are dealt out over channels and not over rows."""
    return row[None, :, None] * (CHANNELS * N) + (k * BLOCK + lane)[:, None, None] * N + n[None, None, :]


@triton.jit
def load_states(p, row, lane, n, CHANNELS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, NP: tl.constexpr):
    """(…, CHANNELS, N) numbers of 64 bits → chunks (ROWS, BLOCK, NP), zero past either end."""
    chunks = ()
    for k in tl.static_range((CHANNELS + BLOCK - 1) // BLOCK):
        place = p + state_places(row, k, lane, n, CHANNELS, N, BLOCK)
        if CHANNELS % BLOCK == 0 and N == NP:
            h = tl.load(place)
        else:
            inside = (k * BLOCK + lane < CHANNELS)[:, None, None] & (n < N)[None, None, :]
            h = tl.load(place, mask=inside, other=0)
        chunks = chunks + (tl.permute(h, (1, 0, 2)),)
    return chunks


@triton.jit(do_not_specialize=["batch"])
def s4d_stage_step_fwd_kernel(
    x, extra, norm_weight, norm_bias, a, b, c, D, mix_weight, mix_bias, ff_norm_weight, ff_norm_bias,
    widen_weight, widen_bias, narrow_weight, narrow_bias, state, y,
    batch: tl.int64, layers, stride_x, stride_extra, eps,
    CHANNELS: tl.constexpr, N: tl.constexpr, INNER: tl.constexpr, ADD_INPUT: tl.constexpr,
    ROWS: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    CHUNKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    INNER_CHUNKS: tl.constexpr = (INNER + BLOCK - 1) // BLOCK
    lane = tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = row < batch
    row = tl.minimum(row, batch - 1)
    start = load_rows(x, row, stride_x, lane, CHANNELS, BLOCK)
    if extra is not None:
        start = added(start, load_rows(extra, row, stride_extra, lane, CHANNELS, BLOCK), CHUNKS)
    v = start
    values, gates, widen, narrow = (), (), (), ()
    if AHEAD:
        values = load_matrix(mix_weight, lane, CHANNELS, CHANNELS, BLOCK)
        gates = load_matrix(mix_weight + CHANNELS * CHANNELS, lane, CHANNELS, CHANNELS, BLOCK)
        widen = load_matrix(widen_weight, lane, INNER, CHANNELS, BLOCK)
        narrow = load_matrix(narrow_weight, lane, CHANNELS, INNER, BLOCK)
    for layer in range(layers):
        # With AHEAD, a matrix is loaded for the next layer as soon as this layer's was used, and the loads never pause.
        loaded = tl.minimum(layer + 1, layers - 1) if AHEAD else layer
        mix = mix_weight + loaded * (2 * CHANNELS * CHANNELS)
        to_inner = widen_weight + loaded * (INNER * CHANNELS)
        from_inner = narrow_weight + loaded * (INNER * CHANNELS)
        own_state = state + layer * batch * (CHANNELS * N)
        h = load_states(own_state, row, lane, n, CHANNELS, N, BLOCK, NP)
        a_tiles = load_system(a + layer * (CHANNELS * N), lane, n, CHANNELS, N, BLOCK, NP)
        b_tiles = load_system(b + layer * (CHANNELS * N), lane, n, CHANNELS, N, BLOCK, NP)
        c_tiles = load_system(c + layer * (CHANNELS * N), lane, n, CHANNELS, N, BLOCK, NP)
        gain = load_vector(norm_weight + layer * CHANNELS, lane, CHANNELS, BLOCK)
        shift = load_vector(norm_bias + layer * CHANNELS, lane, CHANNELS, BLOCK)
        skip = load_vector(D + layer * CHANNELS, lane, CHANNELS, BLOCK)
        values_bias = load_vector(mix_bias + layer * (2 * CHANNELS), lane, CHANNELS, BLOCK)
        gates_bias = load_vector(mix_bias + layer * (2 * CHANNELS) + CHANNELS, lane, CHANNELS, BLOCK)
        ff_gain = load_vector(ff_norm_weight + layer * CHANNELS, lane, CHANNELS, BLOCK)
        ff_shift = load_vector(ff_norm_bias + layer * CHANNELS, lane, CHANNELS, BLOCK)
        inner_bias = load_vector(widen_bias + layer * INNER, lane, INNER, BLOCK)
        outer_bias = load_vector(narrow_bias + layer * CHANNELS, lane, CHANNELS, BLOCK)

        u = layer_norm(v, gain, shift, lane, eps, CHANNELS, BLOCK)
        g = ()
        for k in tl.static_range(CHUNKS):
            new, out = advance(h[k], u[k], a_tiles[k], b_tiles[k], c_tiles[k])
            inside = (k * BLOCK + lane < CHANNELS)[:, None, None] & (n < N)[None, None, :] & here[None, :, None]
            place = own_state + state_places(row, k, lane, n, CHANNELS, N, BLOCK)
            tl.store(place, tl.permute(new, (1, 0, 2)), mask=inside)
            g = g + (gelu(out + skip[k] * u[k]),)

        value = linear(g, values, mix, values_bias, lane, CHANNELS, CHANNELS, BLOCK, AHEAD)
        gate = linear(g, gates, mix + CHANNELS * CHANNELS, gates_bias, lane, CHANNELS, CHANNELS, BLOCK, AHEAD)
        if AHEAD:
            values = load_matrix(mix, lane, CHANNELS, CHANNELS, BLOCK)
            gates = load_matrix(mix + CHANNELS * CHANNELS, lane, CHANNELS, CHANNELS, BLOCK)
        mixed = ()
        for k in tl.static_range(CHUNKS):
            mixed = mixed + (v[k] + value[k] / (1.0 + tl.exp(-gate[k])),)
        normed = layer_norm(mixed, ff_gain, ff_shift, lane, eps, CHANNELS, BLOCK)
        wide = linear(normed, widen, to_inner, inner_bias, lane, INNER, CHANNELS, BLOCK, AHEAD)
        if AHEAD:
            widen = load_matrix(to_inner, lane, INNER, CHANNELS, BLOCK)
        inner = ()
        for k in tl.static_range(INNER_CHUNKS):
            inner = inner + (gelu(wide[k]),)
        v = added(mixed, linear(inner, narrow, from_inner, outer_bias, lane, CHANNELS, INNER, BLOCK, AHEAD), CHUNKS)
        if AHEAD:
            narrow = load_matrix(from_inner, lane, CHANNELS, INNER, BLOCK)
    if ADD_INPUT:
        v = added(v, start, CHUNKS)
    for k in tl.static_range(CHUNKS):
        i = k * BLOCK + lane[None, :]
        tl.store(y + row[:, None] * CHANNELS + i, v[k].to(y.dtype.element_ty), mask=here[:, None] & (i < CHANNELS))
