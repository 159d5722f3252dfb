"""Backward pass of the causal convolution: with a_t the sum before the activation and g_t = dy_t act'(a_t),

dx_s = Σ_j weight_{K-1-j} g_{s+j},   dweight_k = Σ_t g_t x_{t-K+1+k},   dbias = Σ_t g_t,

the sums over t as one partial sum a program, added up afterwards, so that a run repeats bit for bit.
"""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.causal_conv1d.triton_common import (
    STEPS,
    grid_of,
    load_taps,
    load_window,
    places,
    program_place,
    sigmoid,
    true_window,
    weighted,
)


def backward(
    dy: Tensor,
    d_final_state: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients (dx, dweight, dbias, d_initial_state), None where the input is None."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    programs, chunk, chunks, block = grid_of(batch, length, channels, widest=128)
    since, number = places(cu_seqlens, length, reverse)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    partial = torch.empty((batch * chunks, width + 1, channels), dtype=torch.float32, device=x.device)
    d_initial = None if initial_state is None else torch.empty_like(initial_state)
    flags = {
        "CHANNELS": channels, "K": width, "HAS_STATE": initial_state is not None,
        "HAS_D_FINAL": d_final_state is not None, "PACKED": cu_seqlens is not None, "REVERSE": reverse,
        "HAS_BIAS": bias is not None, "SILU": activation == "silu", "BLOCK": block, "num_warps": 1,
    }  # fmt: skip
    causal_conv1d_bwd_kernel[(programs,)](
        dy, x, weight, bias, initial_state, d_final_state, since, number, cu_seqlens, dx, partial,
        length, chunk, chunks, dy.stride(0), x.stride(0), dy.stride(1), x.stride(1),
        STEPS=STEPS, **flags,
    )  # fmt: skip
    if d_initial is not None:
        causal_conv1d_bwd_state_kernel[(sequences * triton.cdiv(channels, block),)](
            dy, x, weight, bias, initial_state, d_final_state, cu_seqlens, d_initial,
            length, dy.stride(0), x.stride(0), dy.stride(1), x.stride(1),
            **flags,
        )  # fmt: skip
    sums = partial.sum(0)
    # Copies: what an op returns must not be views of one another.
    dweight = sums[:width].t().to(weight.dtype, copy=True, memory_format=torch.contiguous_format)
    return dx, dweight, None if bias is None else sums[width].to(bias.dtype, copy=True), d_initial


@triton.jit
def sum_gradient(d, total, SILU: tl.constexpr):
    """dy act'(a)."""
    if SILU:
        s = sigmoid(total)
        d *= s * (1.0 + total * (1.0 - s))
    return d


@triton.jit
def weighted_later(taps, later, g, rest, K: tl.constexpr, PACKED: tl.constexpr):
    """Σ_j weight_{K-1-j} g_{s+j}; `later` has the first K - 1, of which the first belongs to s. Past the row g is 0."""
    if PACKED:
        total = tl.where(rest >= K - 1, taps[0] * g, 0.0)
        for j in tl.static_range(K - 1):
            total += tl.where(rest >= j, taps[K - 1 - j] * later[j], 0.0)
    else:
        total = taps[0] * g
        for j in tl.static_range(K - 1):
            total += taps[K - 1 - j] * later[j]
    return total


@triton.jit
def causal_conv1d_bwd_kernel(
    dy, x, weight, bias, initial, d_final, since, number, cu_seqlens, dx, partial,
    length, chunk, chunks, stride_yb, stride_xb,
    stride_yl: tl.constexpr, stride_xl: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, HAS_STATE: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    batch, c, channel, known = program_place(chunks, CHANNELS, BLOCK)
    X_STEP: tl.constexpr = -stride_xl if REVERSE else stride_xl
    Y_STEP: tl.constexpr = -stride_yl if REVERSE else stride_yl
    OUT_STEP: tl.constexpr = -CHANNELS if REVERSE else CHANNELS
    taps = load_taps(weight, channel, known, K)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)

    start = c * chunk
    stop = tl.minimum(start + chunk, length)
    t0 = length - 1 - start if REVERSE else start
    x_row = x + batch * stride_xb + t0 * stride_xl + channel
    y_row = dy + batch * stride_yb + t0 * stride_yl + channel
    out_row = dx + (batch * length + t0) * CHANNELS + channel
    window = load_window(
        x_row, X_STEP, start, length, initial, batch, channel, known, CHANNELS, K, HAS_STATE and not PACKED
    )
    later = ()  # g of the last K - 1 positions, oldest first
    sums = ()
    for k in tl.static_range(K):
        sums = sums + (tl.zeros([BLOCK], tl.float32),)
        if k < K - 1:
            later = later + (tl.zeros([BLOCK], tl.float32),)
    total_g = tl.zeros([BLOCK], tl.float32)
    # K - 1 positions past the chunk, whose g its last inputs need.
    for tile in range(tl.cdiv(stop + (K - 1) - start, STEPS)):
        s0 = start + tile * STEPS
        rows = ()
        grads = ()
        for i in tl.static_range(STEPS):
            live = known & (s0 + i < length)
            rows = rows + (tl.load(x_row + i * X_STEP, mask=live, other=0.0),)
            grads = grads + (tl.load(y_row + i * Y_STEP, mask=live, other=0.0),)
        for i in tl.static_range(STEPS):
            s = s0 + i
            live = s < length
            now = rows[i].to(tl.float32)
            seen = window
            if PACKED:
                position = tl.load(since + s, mask=live, other=K)
                if position < K - 1:
                    sequence = tl.load(number + s, mask=live, other=0)
                    seen = true_window(window, position, sequence, initial, channel, known, CHANNELS, K, HAS_STATE)
            g = sum_gradient(grads[i].to(tl.float32), weighted(taps, seen, now, shift, K), SILU)
            own = tl.where(s < stop, g, 0.0)
            total_g += own
            added = ()
            for k in tl.static_range(K - 1):
                added = added + (sums[k] + own * seen[k],)
            sums = added + (sums[K - 1] + own * now,)

            # The input K - 1 positions back has met all its taps.
            p = s - (K - 1)
            mine = (p >= start) & (p < stop)
            rest = (length - 1 - p).to(tl.int32)
            sequence = batch.to(tl.int32)
            if PACKED:
                sequence = tl.load(number + p, mask=mine, other=0)
                ahead = tl.load(since + p, mask=mine, other=0)
                size = tl.load(cu_seqlens + sequence + 1) - tl.load(cu_seqlens + sequence)
                rest = size - 1 - ahead
            grad = weighted_later(taps, later, g, rest, K, PACKED)
            if HAS_D_FINAL:  # noqa: SIM102 (a constant, apart from the other)
                if rest < K - 1:
                    place = (sequence.to(tl.int64) * (K - 1) + (K - 2 - rest)) * CHANNELS
                    grad += tl.load(d_final + place + channel, mask=known & mine, other=0.0)
            tl.store(out_row + (i - (K - 1)) * OUT_STEP, grad.to(dx.dtype.element_ty), mask=known & mine)
            window = window[1:] + (now,)
            later = later[1:] + (g,)
        x_row += STEPS * X_STEP
        y_row += STEPS * Y_STEP
        out_row += STEPS * OUT_STEP

    place = partial + (batch * chunks + c) * ((K + 1) * CHANNELS) + channel
    for k in tl.static_range(K):
        tl.store(place + k * CHANNELS, sums[k], mask=known)
    tl.store(place + K * CHANNELS, total_g, mask=known)


@triton.jit
def causal_conv1d_bwd_state_kernel(
    dy, x, weight, bias, initial, d_final, cu_seqlens, d_initial,
    length, stride_yb, stride_xb,
    stride_yl: tl.constexpr, stride_xl: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, HAS_STATE: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of the initial state: the inputs -K + 1 … -1 of each sequence meet g of its first K - 1 positions."""
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    sequence = tl.program_id(0) // BLOCKS
    channel = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    taps = load_taps(weight, channel, known, K)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    first = tl.zeros([], tl.int64)
    size = first + length
    if PACKED:
        first += tl.load(cu_seqlens + sequence)
        size = tl.load(cu_seqlens + sequence + 1).to(tl.int64) - first
    else:
        x += sequence.to(tl.int64) * stride_xb
        dy += sequence.to(tl.int64) * stride_yb
    state = sequence.to(tl.int64) * ((K - 1) * CHANNELS) + channel

    window = ()
    grads = ()
    for j in tl.static_range(K - 1):
        window = window + (tl.load(initial + state + j * CHANNELS, mask=known, other=0.0),)
        # A sequence shorter than K - 1 hands part of its initial state on to its final state.
        handed = tl.zeros([BLOCK], tl.float32)
        if HAS_D_FINAL:
            kept = j >= size
            handed = tl.load(d_final + state + (j - size) * CHANNELS, mask=known & kept, other=0.0)
        grads = grads + (handed,)
    for i in tl.static_range(K - 1):
        t = first + (size - 1 - i if REVERSE else i)
        live = known & (i < size)
        now = tl.load(x + t * stride_xl + channel, mask=live, other=0.0).to(tl.float32)
        d = tl.load(dy + t * stride_yl + channel, mask=live, other=0.0).to(tl.float32)
        g = sum_gradient(d, weighted(taps, window, now, shift, K), SILU)
        window = window[1:] + (now,)
        updated = ()
        for j in tl.static_range(K - 1):
            # Position i meets input j - (K - 1) through tap j - i.
            updated = updated + ((grads[j] + taps[j - i] * g) if j >= i else grads[j],)
        grads = updated
    for j in tl.static_range(K - 1):
        tl.store(d_initial + state + j * CHANNELS, grads[j], mask=known)
