"""Forward pass of the causal convolution."""

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
    tap_input,
    true_window,
    weighted,
)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, L, D) and the final state (B or S, K - 1, D); arguments as the op normalizes them."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    programs, chunk, chunks, block = grid_of(batch, length, channels)
    since, number = places(cu_seqlens, length, reverse)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    final_state = torch.empty((sequences, width - 1, channels), dtype=torch.float32, device=x.device)
    flags = {
        "CHANNELS": channels, "K": width, "HAS_STATE": initial_state is not None, "PACKED": cu_seqlens is not None,
        "REVERSE": reverse, "BLOCK": block, "num_warps": 1,
    }  # fmt: skip
    causal_conv1d_fwd_kernel[(programs,)](
        x, weight, bias, initial_state, since, number, y,
        length, chunk, chunks, x.stride(0), x.stride(1),
        HAS_BIAS=bias is not None, SILU=activation == "silu", STEPS=STEPS, **flags,
    )  # fmt: skip
    causal_conv1d_state_kernel[(sequences * triton.cdiv(channels, block),)](
        x, initial_state, cu_seqlens, final_state,
        length, x.stride(0), x.stride(1),
        **flags,
    )  # fmt: skip
    return y, final_state


@triton.jit
def causal_conv1d_fwd_kernel(
    x, weight, bias, initial, since, number, y,
    length, chunk, chunks, stride_xb,
    stride_xl: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, HAS_STATE: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    batch, c, channel, known = program_place(chunks, CHANNELS, BLOCK)
    X_STEP: tl.constexpr = -stride_xl if REVERSE else stride_xl
    Y_STEP: tl.constexpr = -CHANNELS if REVERSE else CHANNELS
    taps = load_taps(weight, channel, known, K)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)

    start = c * chunk
    t0 = length - 1 - start if REVERSE else start
    x_row = x + batch * stride_xb + t0 * stride_xl + channel
    y_row = y + (batch * length + t0) * CHANNELS + channel
    window = load_window(
        x_row, X_STEP, start, length, initial, batch, channel, known, CHANNELS, K, HAS_STATE and not PACKED
    )
    for tile in range(tl.cdiv(tl.minimum(chunk, length - start), STEPS)):
        s0 = start + tile * STEPS
        rows = ()
        for i in tl.static_range(STEPS):
            rows = rows + (tl.load(x_row + i * X_STEP, mask=known & (s0 + i < length), other=0.0),)
        for i in tl.static_range(STEPS):
            live = s0 + i < length
            now = rows[i].to(tl.float32)
            seen = window
            if PACKED:
                position = tl.load(since + s0 + i, mask=live, other=K)
                if position < K - 1:
                    sequence = tl.load(number + s0 + i, mask=live, other=0)
                    seen = true_window(window, position, sequence, initial, channel, known, CHANNELS, K, HAS_STATE)
            out = weighted(taps, seen, now, shift, K)
            if SILU:
                out *= sigmoid(out)
            tl.store(y_row + i * Y_STEP, out.to(y.dtype.element_ty), mask=known & live)
            window = window[1:] + (now,)
        x_row += STEPS * X_STEP
        y_row += STEPS * Y_STEP


@triton.jit
def causal_conv1d_state_kernel(
    x, initial, cu_seqlens, final,
    length, stride_xb,
    stride_xl: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, HAS_STATE: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The last K - 1 inputs of each sequence, those of its initial state where it is shorter."""
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    sequence = tl.program_id(0) // BLOCKS
    channel = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    first = tl.zeros([], tl.int64)
    last = first + length - 1
    if PACKED:
        first += tl.load(cu_seqlens + sequence)
        last = tl.load(cu_seqlens + sequence + 1).to(tl.int64) - 1
    else:
        x += sequence.to(tl.int64) * stride_xb
    for j in tl.static_range(K - 1):
        back = K - 2 - j
        t = first + back if REVERSE else last - back
        row = tl.load(x + t * stride_xl + channel, mask=known & (t >= first) & (t <= last), other=0.0).to(tl.float32)
        since = (last - first).to(tl.int32)
        row = tap_input(row, back, since, sequence, initial, channel, known, CHANNELS, K, HAS_STATE)
        tl.store(final + (sequence.to(tl.int64) * (K - 1) + j) * CHANNELS + channel, row, mask=known)
