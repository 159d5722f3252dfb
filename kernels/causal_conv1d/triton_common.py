"""What the forward and backward kernels of the causal convolution share.

A program owns BLOCK channels and walks over the positions of its chunk, in the order of the scan; the rows it has
passed stay in registers, so every input is read once (and K - 1 rows more a chunk). "Position" s is memory position s,
or L - 1 - s with `reverse`. Near the ends of a sequence two numbers decide what a tap sees: `since`, positions since
the sequence's first, and `rest`, positions until its last.
"""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STEPS = 8  # rows loaded ahead, and unrolled
LOG2E = tl.constexpr(1.4426950408889634)


def grid_of(batch: int, length: int, channels: int, widest: int = 256) -> tuple[int, int, int, int]:
    """(programs, positions a chunk, chunks, channels a program): enough warps to fill the GPU, chunks not too short."""
    block = min(widest, max(32, triton.next_power_of_2(channels)))
    blocks = triton.cdiv(channels, block)
    chunk = batch * length * blocks // 16384
    chunk = STEPS * max(4, min(32, chunk // STEPS))
    chunks = triton.cdiv(length, chunk)
    return blocks * chunks * batch, chunk, chunks, block


def places(cu_seqlens: Tensor | None, length: int, reverse: bool) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """`since` of every position of a packed row and the number of its sequence, int32; None without packing."""
    if cu_seqlens is None:
        return None, None
    t = torch.arange(length, dtype=torch.int32, device=cu_seqlens.device)
    t = length - 1 - t if reverse else t
    number = torch.searchsorted(cu_seqlens[1:].contiguous(), t, right=True, out_int32=True)
    since = cu_seqlens[number + 1] - 1 - t if reverse else t - cu_seqlens[number]
    return since.contiguous(), number.contiguous()


@triton.jit
def program_place(chunks, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """(batch, chunk, channels, which of them exist); programs of one chunk lie side by side."""
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    pid = tl.program_id(0)
    channel = (pid % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    rest = pid // BLOCKS
    return (rest // chunks).to(tl.int64), (rest % chunks).to(tl.int64), channel, channel < CHANNELS


@triton.jit
def load_taps(weight, channel, known, K: tl.constexpr):
    """The K weights of each channel, oldest tap first, float32."""
    taps = ()
    for k in tl.static_range(K):
        taps = taps + (tl.load(weight + channel * K + k, mask=known, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def load_window(x_row, stride, s, length, initial, batch, channel, known, CHANNELS: tl.constexpr, K: tl.constexpr,
                HAS_STATE: tl.constexpr):  # fmt: skip
    """The K - 1 rows before position s, oldest first; before position 0 the initial state or zeros."""
    window = ()
    for j in tl.static_range(K - 1):
        p = s - (K - 1) + j
        row = tl.load(x_row - (K - 1 - j) * stride, mask=known & (p >= 0) & (p < length), other=0.0).to(tl.float32)
        if HAS_STATE:
            place = (batch * (K - 1) + (K - 1) + p) * CHANNELS + channel
            row += tl.load(initial + place, mask=known & (p < 0), other=0.0)
        window = window + (row,)
    return window


@triton.jit
def tap_input(row, j, since, number, initial, channel, known, CHANNELS: tl.constexpr, K: tl.constexpr,
              HAS_STATE: tl.constexpr):  # fmt: skip
    """What the tap j positions back sees: `row`, or before the sequence's first position its initial state."""
    inside = since >= j
    before = tl.zeros_like(row)
    if HAS_STATE:
        place = (number.to(tl.int64) * (K - 1) + (K - 1 + since - j)) * CHANNELS
        before = tl.load(initial + place + channel, mask=known & (since < j), other=0.0)
    return tl.where(inside, row, before)


@triton.jit
def true_window(window, since, number, initial, channel, known, CHANNELS: tl.constexpr, K: tl.constexpr,
                HAS_STATE: tl.constexpr):  # fmt: skip
    """`window` with what lies before the sequence's first position replaced."""
    seen = ()
    for j in tl.static_range(K - 1):
        seen = seen + (tap_input(window[j], K - 1 - j, since, number, initial, channel, known, CHANNELS, K, HAS_STATE),)
    return seen


@triton.jit
def weighted(taps, window, x, bias, K: tl.constexpr):
    """bias + Σ_k weight_k x_{t-K+1+k}."""
    total = bias + taps[K - 1] * x
    for k in tl.static_range(K - 1):
        total += taps[k] * window[k]
    return total


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))
