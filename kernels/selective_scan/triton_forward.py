"""Forward pass of the selective scan, parallel over chunks of the length.

1. `selective_scan_fwd_state_kernel`: every chunk from a zero state; its last state and the sum of its step sizes.
2. `selective_scan_carry_kernel`: chunk after chunk, the state that enters each, h ← exp(A ΣΔ) h + last state.
3. `selective_scan_fwd_kernel`: every chunk from the state that enters it; outputs, and a checkpoint every UNIT if a
   backward pass may follow.

Where batch and channels alone fill the GPU there is one chunk and only step 3 runs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.launches import Launch
from ssmbio.kernels.selective_scan.triton_carry import carry_over_chunks
from ssmbio.kernels.selective_scan.triton_exponentials import sigmoid
from ssmbio.kernels.selective_scan.triton_plan import STEPS, UNIT, plan_rows, sequence_marks
from ssmbio.kernels.selective_scan.triton_staging import stage_rows
from ssmbio.kernels.selective_scan.triton_tiles import (
    decayed,
    decays,
    load_row,
    load_staged,
    load_state,
    over_states,
    program_place,
    state_at_start,
    step_size,
    store_row,
    store_state,
    sum_states,
)


def forward(
    launch: Launch,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    checkpoints: Tensor | None,
    *,
    wide: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, L, D) and the final state (B or S, D, N); arguments as the op normalizes them, N at most 32.

    `checkpoints` is memory for what `backward` needs, None where nothing is kept. With `wide` y is float32.
    """
    batch, length, channels = u.shape
    groups, states = B.shape[2], A.shape[1]
    plan = plan_rows(batch, length, channels, states, groups, u.device)
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    y = u.new_empty(u.shape, dtype=torch.float32 if wide else u.dtype)
    final_state = A.new_empty(sequences, channels, states)
    staged = stage_rows(launch, B, C, plan, reverse)
    first, last = sequence_marks(cu_seqlens, length, plan.padded_length, reverse)
    exact = u.dtype == torch.float32
    sizes = (length, plan.padded_length, plan.chunk, plan.chunks)
    flags = {
        "CHANNELS": channels, "GROUPS": groups, "N": states,
        "SOFTPLUS": delta_softplus, "HAS_BIAS": delta_bias is not None, "HAS_STATE": initial_state is not None,
        "PACKED": cu_seqlens is not None, "REVERSE": reverse,
        "MASK_D": plan.ragged_channels, "MASK_L": length % UNIT != 0,
        "NV": plan.padded_states // 4, "LANES": plan.lanes, "KD": plan.kd, "UNIT": UNIT, "STEPS": STEPS,
        "EXACT": exact,
        "num_warps": plan.warps, "num_stages": 1,
    }  # fmt: skip

    carry = None
    if plan.chunks > 1:
        carry = A.new_empty(plan.state_shape(plan.chunks))
        sums = A.new_empty(batch, plan.chunks, channels)
        launch(
            selective_scan_fwd_state_kernel, (plan.programs,),
            u, delta, A, staged, delta_bias, initial_state, first, carry, sums,
            *sizes,
            u.stride(0), delta.stride(0),
            u.stride(1), delta.stride(1),
            **flags,
        )  # fmt: skip
        entering = initial_state if cu_seqlens is None else None
        carry_over_chunks(launch, A, carry, sums, entering, plan, exact, backwards=False)
    launch(
        selective_scan_fwd_kernel, (plan.programs,),
        u, delta, A, staged, D, z, delta_bias, initial_state, carry, first, last,
        y, final_state, checkpoints,
        *sizes,
        u.stride(0), delta.stride(0), 0 if z is None else z.stride(0),
        u.stride(1), delta.stride(1), 0 if z is None else z.stride(1),
        HAS_CARRY=carry is not None, HAS_D=D is not None, HAS_Z=z is not None, KEEP=checkpoints is not None,
        maxnreg=None if exact else 160,  # it would take 168 and spill; 12 programs still
        **flags,
    )  # fmt: skip
    return y, final_state


@triton.jit(do_not_specialize=["chunk", "chunks"])
def selective_scan_fwd_state_kernel(
    u, delta, A, BC, bias, initial, first, carry, sums,
    length, padded_length, chunk, chunks,
    stride_ub, stride_db,
    stride_ul: tl.constexpr, stride_dl: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, PACKED: tl.constexpr,
    REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, KD: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    batch, c, group, _block, channel, end = program_place(pid, chunks, CHANNELS, GROUPS, LANES * KD)
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L

    row = channel + tl.arange(0, LANES)[:, None] * KD + tl.arange(0, KD)[None, :]  # (LANES, KD)
    rates = load_state(A, N, 4, channel, end, N, LANES, NV, KD)
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)

    start = c * chunk
    total = tl.zeros([LANES, KD], tl.float32)
    h = tl.zeros([LANES, KD, 4, NV], tl.float32)
    BC_row = BC + ((batch * GROUPS + group) * padded_length + start) * (2 * NP)
    for tile in tl.range(0, tl.cdiv(tl.minimum(chunk, length - start), STEPS), num_stages=3):
        s0 = start + tile * STEPS
        t0 = length - 1 - s0 if REVERSE else s0
        u_row = u + batch * stride_ub + t0 * stride_ul + row
        delta_row = delta + batch * stride_db + t0 * stride_dl + row
        passed = tl.zeros([LANES, KD], tl.float32) if EXACT else total
        for i in tl.static_range(STEPS):
            live = s0 + i < length
            row_mask = (row < end) & live
            raw = load_row(delta_row + i * SIGN * stride_dl, row_mask, MASKED)
            dt = step_size(raw, shift, live, SOFTPLUS, HAS_BIAS, MASK_L, EXACT)
            x = load_row(u_row + i * SIGN * stride_ul, row_mask, MASKED)
            if PACKED:
                mark = tl.load(first + s0 + i)
                h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                passed = tl.where(mark > 0, float("inf"), passed)
            b, _ = load_staged(BC_row + i * (2 * NP), NV)
            h = decayed(decays(dt, rates, EXACT), h, EXACT) + over_states(dt * x) * b
            passed += dt
        if EXACT:  # a boundary counts whatever came before it, NaN too
            total = tl.where(passed == float("inf"), passed, total + passed)
        else:
            total = passed
        BC_row += STEPS * 2 * NP

    place = (batch * chunks + c) * CHANNELS
    store_state(carry + place * NP, 4, 4 * CHANNELS, channel, end, h, NP, LANES, NV, KD)
    tl.store(sums + place + row, total, mask=row < end)


@triton.jit(do_not_specialize=["chunk", "chunks"])
def selective_scan_fwd_kernel(
    u, delta, A, BC, D, z, bias, initial, carry, first, last,
    y, final, checkpoints,
    length, padded_length, chunk, chunks,
    stride_ub, stride_db, stride_zb,
    stride_ul: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr,
    HAS_CARRY: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, KEEP: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_STATE: tl.constexpr, PACKED: tl.constexpr,
    REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, KD: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    batch, c, group, _block, channel, end = program_place(pid, chunks, CHANNELS, GROUPS, LANES * KD)
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L

    row = channel + tl.arange(0, LANES)[:, None] * KD + tl.arange(0, KD)[None, :]
    rates = load_state(A, N, 4, channel, end, N, LANES, NV, KD)
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)
    skip = tl.zeros([LANES, KD], tl.float32)
    if HAS_D:
        skip = tl.load(D + row, mask=row < end, other=0.0)

    start = c * chunk
    h = tl.zeros([LANES, KD, 4, NV], tl.float32)
    if HAS_CARRY:
        place = (batch * chunks + c) * (CHANNELS * NP)
        h = load_state(carry + place, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
    elif HAS_STATE and not PACKED:
        h = load_state(initial + batch * (CHANNELS * N), N, 4, channel, end, N, LANES, NV, KD)
    BC_row = BC + ((batch * GROUPS + group) * padded_length + start) * (2 * NP)
    units = tl.cdiv(length, UNIT)
    for tile in tl.range(0, tl.cdiv(tl.minimum(chunk, length - start), STEPS), num_stages=3):
        s0 = start + tile * STEPS
        if KEEP:  # noqa: SIM102 (a constant, apart from the other)
            if s0 % UNIT == 0:
                place = (batch * units + s0 // UNIT) * CHANNELS * NP
                store_state(checkpoints + place, 4, 4 * CHANNELS, channel, end, h, NP, LANES, NV, KD)
        t0 = length - 1 - s0 if REVERSE else s0
        u_row = u + batch * stride_ub + t0 * stride_ul + row
        delta_row = delta + batch * stride_db + t0 * stride_dl + row
        y_row = y + (batch * length + t0) * CHANNELS + row
        if HAS_Z:
            z_row = z + batch * stride_zb + t0 * stride_zl + row
        for i in tl.static_range(STEPS):
            live = s0 + i < length
            row_mask = (row < end) & live
            raw = load_row(delta_row + i * SIGN * stride_dl, row_mask, MASKED)
            dt = step_size(raw, shift, live, SOFTPLUS, HAS_BIAS, MASK_L, EXACT)
            x = load_row(u_row + i * SIGN * stride_ul, row_mask, MASKED)
            if PACKED:
                mark = tl.load(first + s0 + i)
                h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
            b, c_row = load_staged(BC_row + i * (2 * NP), NV)
            h = decayed(decays(dt, rates, EXACT), h, EXACT) + over_states(dt * x) * b
            out = sum_states(h * c_row)
            if HAS_D:
                out += skip * x
            if HAS_Z:
                gate = load_row(z_row + i * SIGN * stride_zl, row_mask, MASKED)
                out *= gate * sigmoid(gate, EXACT)
            store_row(y_row + i * SIGN * CHANNELS, out, row_mask, MASKED)
            if PACKED:
                mark = tl.load(last + s0 + i)
                if mark > 0:
                    place = (mark - 1).to(tl.int64) * CHANNELS * N
                    store_state(final + place, N, 4, channel, end, h, N, LANES, NV, KD)
        BC_row += STEPS * 2 * NP
    if not PACKED:  # noqa: SIM102 (a constant, apart from the other)
        if c == chunks - 1:
            store_state(final + batch * (CHANNELS * N), N, 4, channel, end, h, N, LANES, NV, KD)
