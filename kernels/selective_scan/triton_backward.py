"""Backward pass of the selective scan, parallel over chunks of the length.

With a_t = exp(Δ_t A), b_t = Δ_t u_t B_t, g_t = ∂L/∂(C_t h_t + D u_t), the adjoint p_t = ∂L/∂h_t = C_t g_t + c_t, where
c_t = a_{t+1} p_{t+1}:

1. `selective_scan_bwd_state_kernel`: every quarter of a chunk, from its end, from c = 0; what leaves it, its sum of Δ.
2. `selective_scan_carry_kernel`: quarter after quarter from the last, the c that enters each.
3. `selective_scan_bwd_kernel`: every chunk, unit by unit from its end: a unit is scanned forward from its checkpoint,
   then backward from the c that enters it. du = D g + Δ Σ_n p B, dB = Σ_d p Δ u, dC = Σ_d g h. The sums over channels
   are products with zeros and ones on the tensor cores, a partial sum for each program.
   ∂L/∂(Δ_t A) = w_t = a_t h_{t-1} p_t wants h and p at once: the scan forward keeps the state that enters each pair of
   positions, the scan backward takes the two steps of a pair again, with the decays that it needs anyway. (w_t is also
   w_{t+1} + g_t C_t a_t h_{t-1} - c_t b_t, which needs no states, but where a large Δ_t forgets h_{t-1} this is a small
   difference of large numbers, and Δ_t multiplies what rounding leaves of it.)
4. `selective_scan_sum_kernel`: the partial sums of dB and dC; `selective_scan_chunk_sum_kernel`: of dA, dD and dbias.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssmbio.kernels.launches import Launch
from ssmbio.kernels.selective_scan.triton_backward_kernel import selective_scan_bwd_kernel
from ssmbio.kernels.selective_scan.triton_backward_states import selective_scan_bwd_state_kernel
from ssmbio.kernels.selective_scan.triton_carry import carry_over_chunks
from ssmbio.kernels.selective_scan.triton_plan import (
    QUARTERS,
    ROUNDS,
    STEPS,
    UNIT,
    held_at_once,
    plan_rows,
    plan_sums,
    sequence_marks,
)
from ssmbio.kernels.selective_scan.triton_staging import stage_rows
from ssmbio.kernels.selective_scan.triton_sums import sum_chunks, sum_partials


def backward(
    launch: Launch,
    dy: Tensor,
    d_final_state: Tensor | None,
    checkpoints: Tensor,
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
    *,
    wide: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, d_initial_state), None where the input is None.

    N is at most 32. With `wide` du, ddelta and dz are float32.
    """
    batch, length, channels = u.shape
    groups, states = B.shape[2], A.shape[1]
    packed = cu_seqlens is not None
    terms = 0 if u.device.type == "cpu" else 1 if B.dtype == C.dtype == torch.bfloat16 else 3
    exact = u.dtype == torch.float32
    plan = plan_sums(batch, length, channels, states, groups, u.device)
    quarters = replace(plan_rows(batch, length, channels, states, groups, u.device), chunks=QUARTERS * plan.chunks)
    staged = stage_rows(launch, B, C, plan, reverse)
    first, last = sequence_marks(cu_seqlens, length, plan.padded_length, reverse)
    flags = {
        "CHANNELS": channels, "GROUPS": groups, "N": states,
        "SOFTPLUS": delta_softplus, "HAS_BIAS": delta_bias is not None, "HAS_Z": z is not None,
        "HAS_D_FINAL": d_final_state is not None, "PACKED": packed, "REVERSE": reverse, "MASK_L": length % UNIT != 0,
        "NV": plan.padded_states // 4, "STEPS": STEPS, "EXACT": exact,
    }  # fmt: skip
    batch_strides = (dy.stride(0), delta.stride(0), 0 if z is None else z.stride(0))
    row_strides = (dy.stride(1), delta.stride(1), 0 if z is None else z.stride(1))

    carry = None
    if plan.chunks > 1:
        carry = A.new_empty(quarters.state_shape(quarters.chunks))
        sums = A.new_empty(batch, quarters.chunks, channels)
        launch(
            selective_scan_bwd_state_kernel, (quarters.programs,),
            dy, delta, A, staged, z, delta_bias, d_final_state, last, carry, sums,
            length, quarters.padded_length, quarters.chunks,
            *batch_strides, *row_strides,
            MASK_D=quarters.ragged_channels, LANES=quarters.lanes, KD=quarters.kd,
            UNIT=UNIT, QUARTERS=QUARTERS,
            num_warps=quarters.warps, num_stages=1,
            maxnreg=128 if states <= 16 else None,  # 16 warps a multiprocessor: all programs at once
            **flags,
        )  # fmt: skip
        carry_over_chunks(launch, A, carry, sums, None if packed else d_final_state, quarters, exact, backwards=True)

    du, ddelta, dz = (
        None if x is None else x.new_empty(x.shape, dtype=torch.float32 if wide else x.dtype) for x in (u, delta, z)
    )
    blocks = groups * plan.blocks_per_group
    partials = A.new_empty(2, blocks, batch, plan.padded_length, plan.padded_states)
    partial_A = A.new_empty(plan.state_shape(plan.chunks))
    partial_D = None if D is None else A.new_empty(batch, plan.chunks, channels)
    partial_bias = None if delta_bias is None else A.new_empty(batch, plan.chunks, channels)
    d_initial = None if initial_state is None else torch.empty_like(initial_state)
    kept = (2 * UNIT + UNIT // 2 * plan.padded_states) * plan.lanes
    parts = 2 * UNIT * plan.padded_states * (plan.lanes // 32)
    at_once = min(plan.programs, ROUNDS * held_at_once(u.device))
    scratch = A.new_empty(at_once, kept + parts)
    for first_program in range(0, plan.programs, at_once):
        launch(
            selective_scan_bwd_kernel, (min(at_once, plan.programs - first_program),),
            dy, u, delta, A, staged, D, z, delta_bias, initial_state, d_final_state,
            checkpoints, carry, first, last, scratch,
            du, ddelta, dz, partial_A, *partials, partial_D, partial_bias, d_initial,
            first_program, batch, length, plan.padded_length, plan.chunks,
            *batch_strides, u.stride(0), *row_strides, u.stride(1),
            HAS_CARRY=carry is not None, HAS_D=D is not None, HAS_STATE=initial_state is not None,
            MASK_D=plan.ragged_channels, LANES=plan.lanes, UNIT=UNIT, QUARTERS=QUARTERS, TERMS=terms,
            num_warps=plan.warps, num_stages=1,
            **flags,
        )  # fmt: skip
    dB, dC = sum_partials(launch, partials, B, C, plan, reverse)
    dA, dD, dbias = sum_chunks(launch, partial_A, partial_D, partial_bias, plan)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, d_initial
