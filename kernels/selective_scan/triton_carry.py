"""The scan over chunks: from what each chunk does alone to the state, or adjoint, that enters it."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.launches import Launch
from ssmbio.kernels.selective_scan.triton_exponentials import LOG2E, exp_parts
from ssmbio.kernels.selective_scan.triton_plan import Plan

FEW = 64  # chunks that one walk is enough for
SEGMENTS = 16  # of more chunks, walked side by side: once for what each does alone, once from what enters it
BLOCK = 32  # elements of a state that a program walks with: a warp for each segment


def carry_over_chunks(
    launch: Launch,
    A: Tensor,
    states: Tensor,
    sums: Tensor,
    entering: Tensor | None,
    plan: Plan,
    exact: bool,
    backwards: bool,
) -> None:
    """Replaces each chunk's local last state in `states` by the state that enters the chunk."""
    segments = 1 if plan.chunks <= FEW else SEGMENTS
    programs = triton.cdiv(plan.padded_states * plan.channels, BLOCK)
    alone = A.new_empty(plan.batch, programs, 2, segments * BLOCK) if segments > 1 else None
    launch(
        selective_scan_carry_kernel, (programs, plan.batch),
        A, states, sums, entering, alone,
        plan.chunks,
        CHANNELS=plan.channels, N=plan.states,
        HAS_STATE=entering is not None, BACKWARDS=backwards, EXACT=exact, NV=plan.padded_states // 4,
        BLOCK=BLOCK, SEGMENTS=segments, AHEAD=8 if exact else 16, num_warps=segments,  # compiling is quadratic in these
    )  # fmt: skip


@triton.jit
def past_chunk(h, rates, total, local, EXACT: tl.constexpr):
    """The state after a chunk, from the one before it; `total` is its sum of step sizes.

    An infinite sum says that a boundary of packed sequences lies in the chunk: nothing passes it, NaN neither.
    """
    if EXACT:
        q, s = exp_parts(rates * total)
        h = h * s
        passed = q * h + h + local
    else:
        passed = tl.exp2(rates * (total * LOG2E)) * h + local
    return tl.where(total == float("inf"), local, passed)


@triton.jit
def walk(h, carry, sums, rates, first, left, NP: tl.constexpr, CHANNELS: tl.constexpr, KEEP: tl.constexpr,
         BACKWARDS: tl.constexpr, EXACT: tl.constexpr, AHEAD: tl.constexpr):  # fmt: skip
    """The state after `left`, at most AHEAD, chunks from `first` on, and the sum of their step sizes.

    With KEEP what enters each chunk takes the place of what it does alone. All loads come first: the scan itself is one
    multiply-add a chunk, the latency of loads the cost.
    """
    SIGN: tl.constexpr = -1 if BACKWARDS else 1
    carry += first.to(tl.int64) * (NP * CHANNELS)
    sums += first.to(tl.int64) * CHANNELS
    local = ()
    total = ()
    for i in tl.static_range(AHEAD):
        local = local + (tl.load(carry + i * SIGN * NP * CHANNELS, mask=i < left, other=0.0),)
        total = total + (tl.load(sums + i * SIGN * CHANNELS, mask=i < left, other=0.0),)
    tl.debug_barrier()  # or the compiler puts each load where its value is needed
    passed = tl.zeros_like(h)
    for i in tl.static_range(AHEAD):
        if KEEP:
            tl.store(carry + i * SIGN * NP * CHANNELS, h, mask=i < left)
        h = past_chunk(h, rates, total[i], local[i], EXACT)
        passed += total[i]
    return h, passed


@triton.jit
def entering_segment(h, alone, rates, local, total, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr, EXACT: tl.constexpr):
    """From the state before the first segment the state before each, by what every segment does alone."""
    thread = tl.arange(0, SEGMENTS * BLOCK)
    tl.store(alone + thread, local)
    tl.store(alone + SEGMENTS * BLOCK + thread, total)
    tl.debug_barrier()  # warps read below what others wrote
    locals_before = ()
    totals_before = ()
    for k in tl.static_range(SEGMENTS - 1):
        locals_before = locals_before + (tl.load(alone + k * BLOCK + thread % BLOCK),)
        totals_before = totals_before + (tl.load(alone + (SEGMENTS + k) * BLOCK + thread % BLOCK),)
    for k in tl.static_range(SEGMENTS - 1):
        h = tl.where(k < thread // BLOCK, past_chunk(h, rates, totals_before[k], locals_before[k], EXACT), h)
    return h


@triton.jit(do_not_specialize=["chunks"])
def selective_scan_carry_kernel(
    A, carry, sums, entering, alone,
    chunks,
    CHANNELS: tl.constexpr, N: tl.constexpr,
    HAS_STATE: tl.constexpr, BACKWARDS: tl.constexpr, EXACT: tl.constexpr, NV: tl.constexpr,
    BLOCK: tl.constexpr, SEGMENTS: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    NP: tl.constexpr = 4 * NV
    batch = tl.program_id(1).to(tl.int64)
    thread = tl.arange(0, SEGMENTS * BLOCK)
    e = tl.program_id(0) * BLOCK + thread % BLOCK
    inside = e < NP * CHANNELS
    channel = (e // 4) % CHANNELS
    n = (e // (4 * CHANNELS)) * 4 + e % 4
    known = inside & (n < N)
    rates = tl.load(A + channel * N + n, mask=known, other=-1.0)  # 0 would make NaN of an infinite sum
    zero = tl.zeros([SEGMENTS * BLOCK], tl.float32)
    h = zero
    if HAS_STATE:
        h = tl.load(entering + (batch * CHANNELS + channel) * N + n, mask=known, other=0.0)
    carry += batch * chunks * (NP * CHANNELS) + e
    sums += batch * chunks * CHANNELS + channel
    turns = tl.cdiv(chunks, SEGMENTS)
    first = thread // BLOCK * turns
    left = tl.where(inside, tl.minimum(turns, chunks - first), 0)
    if SEGMENTS > 1:
        last = zero
        passed = zero
        for turn in range(0, turns, AHEAD):
            c = chunks - 1 - first - turn if BACKWARDS else first + turn
            last, more = walk(last, carry, sums, rates, c, left - turn, NP, CHANNELS, False, BACKWARDS, EXACT, AHEAD)
            passed += more
        alone += (batch * tl.num_programs(0) + tl.program_id(0)) * (2 * SEGMENTS * BLOCK)
        h = entering_segment(h, alone, rates, last, passed, SEGMENTS, BLOCK, EXACT)
    for turn in range(0, turns, AHEAD):
        c = chunks - 1 - first - turn if BACKWARDS else first + turn
        h, more = walk(h, carry, sums, rates, c, left - turn, NP, CHANNELS, True, BACKWARDS, EXACT, AHEAD)
