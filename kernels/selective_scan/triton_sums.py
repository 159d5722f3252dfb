"""What the programs of the backward kernel leave, summed up: gradients in the caller's layout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.launches import Launch
from ssmbio.kernels.selective_scan.triton_plan import Plan


def sum_partials(
    launch: Launch, partials: Tensor, B: Tensor, C: Tensor, plan: Plan, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Partial sums (2, blocks, B, padded length, padded N) in the order of the scan to two gradients (B, L, G, N)."""
    dB, dC = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (B, C))
    block = 64
    grid = (plan.batch * plan.groups * triton.cdiv(plan.length, block), 2)
    launch(
        selective_scan_sum_kernel, grid,
        *partials, dB, dC,
        plan.batch, plan.length, plan.padded_length, plan.groups, plan.states, plan.blocks_per_group,
        REVERSE=reverse, NP=plan.padded_states, BLOCK=block,
    )  # fmt: skip
    return dB, dC


@triton.jit
def selective_scan_sum_kernel(
    partial_B, partial_C, dB, dC,
    batches, length, padded_length, groups, states, blocks,
    REVERSE: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.program_id(1) == 0:
        sum_blocks(partial_B, dB, batches, length, padded_length, groups, states, blocks, REVERSE, NP, BLOCK)
    else:
        sum_blocks(partial_C, dC, batches, length, padded_length, groups, states, blocks, REVERSE, NP, BLOCK)


@triton.jit
def sum_blocks(
    partial, out,
    batches, length, padded_length, groups, states, blocks,
    REVERSE: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pieces = tl.cdiv(length, BLOCK)
    pid = tl.program_id(0)
    batch = (pid // pieces // groups).to(tl.int64)
    group = (pid // pieces) % groups
    s = (pid % pieces).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    n = tl.arange(0, NP)[None, :]
    total = tl.zeros([BLOCK, NP], tl.float32)
    for k in range(0, blocks):
        place = ((group * blocks + k) * batches + batch) * padded_length
        total += tl.load(partial + (place + s) * NP + n, mask=s < length, other=0.0)
    t = length - 1 - s if REVERSE else s
    place = ((batch * length + t) * groups + group) * states
    tl.store(out + place + n, total.to(out.dtype.element_ty), mask=(s < length) & (n < states))


def sum_chunks(
    launch: Launch, partial_A: Tensor, partial_D: Tensor | None, partial_bias: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Partial sums of every chunk, (B, chunks, padded N / 4, D, 4) and (B, chunks, D), to gradients (D, N) and (D,)."""
    dA = partial_A.new_empty(plan.channels, plan.states)
    dD, dbias = (None if x is None else x.new_empty(plan.channels) for x in (partial_D, partial_bias))
    block = 32
    blocks = triton.cdiv(plan.channels, block)
    launch(
        selective_scan_chunk_sum_kernel, ((plan.padded_states + 2) * blocks,),
        partial_A, partial_D, partial_bias, dA, dD, dbias,
        plan.batch * plan.chunks,
        CHANNELS=plan.channels, N=plan.states, NP=plan.padded_states,
        HAS_D=dD is not None, HAS_BIAS=dbias is not None, BLOCK=block, ROWS=64, num_warps=8,
    )  # fmt: skip
    return dA, dD, dbias


@triton.jit
def selective_scan_chunk_sum_kernel(
    partial_A, partial_D, partial_bias, dA, dD, dbias,
    rows,
    CHANNELS: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # Programs of every padded state of A come first, then those of D, then those of the bias.
    part = tl.program_id(0) // tl.cdiv(CHANNELS, BLOCK)
    column = tl.program_id(0) % tl.cdiv(CHANNELS, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    if part < NP:
        e = part * CHANNELS + column
        n = (e // (4 * CHANNELS)) * 4 + e % 4
        total = sum_rows(partial_A + e, rows, NP * CHANNELS, column < CHANNELS, BLOCK, ROWS)
        tl.store(dA + (e // 4) % CHANNELS * N + n, total, mask=(column < CHANNELS) & (n < N))
    elif part == NP:
        if HAS_D:
            total = sum_rows(partial_D + column, rows, CHANNELS, column < CHANNELS, BLOCK, ROWS)
            tl.store(dD + column, total, mask=column < CHANNELS)
    else:
        if HAS_BIAS:
            total = sum_rows(partial_bias + column, rows, CHANNELS, column < CHANNELS, BLOCK, ROWS)
            tl.store(dbias + column, total, mask=column < CHANNELS)


@triton.jit
def sum_rows(pointer, rows, stride: tl.constexpr, inside, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Sums of BLOCK columns over `rows` rows."""
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        total += tl.load(pointer[None, :] + row.to(tl.int64) * stride, mask=(row < rows) & inside[None, :], other=0.0)
    return tl.sum(total, axis=0)
