"""Backward pass of the selective scan, parallel over chunks of the length.

With g_t = ∂L/∂(C_t h_t + D u_t) and the adjoint p_t = ∂L/∂h_t = C_t g_t + c_t, where c_t = exp(Δ_{t+1} A) p_{t+1}:

1. `selective_scan_bwd_state_kernel`: every chunk, from its end, from c = 0; what leaves it, and its sum of step sizes.
2. `selective_scan_carry_kernel`: chunk after chunk from the last, the c that enters each.
3. `selective_scan_bwd_kernel`: every chunk from its c. A unit of positions is scanned forward from its checkpoint to
   have states at every STEPS positions; then, from its end, each STEPS positions are scanned forward once more with
   all states kept in registers, and backward with the adjoint. Gradients:
       du = D g + Δ Σ_n p B,   dΔ = u Σ_n p B + Σ_n A w,   dA = Σ_t Δ w,   with w = p exp(Δ A) h_{t-1},
       dB = Σ_d p Δ u,   dC = Σ_d g h.
   The sums over channels are products with a row of ones on the tensor cores; one partial sum a program.
4. `selective_scan_sum_kernel`: the partial sums of dB and dC. (dA, dD, dbias: torch sums over the programs.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssmbio.kernels.selective_scan.triton_backward_kernels import (
    selective_scan_bwd_kernel,
    selective_scan_bwd_state_kernel,
)
from ssmbio.kernels.selective_scan.triton_carry import carry_over_chunks
from ssmbio.kernels.selective_scan.triton_plan import STEPS, UNIT, make_plan, plan_rows, sequence_marks
from ssmbio.kernels.selective_scan.triton_staging import stage_rows, sum_partials


def backward(
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
) -> tuple[Tensor | None, ...]:
    """Gradients (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, d_initial_state), None where the input is None."""
    batch, length, channels = u.shape
    groups, states = B.shape[2], A.shape[1]
    packed = cu_seqlens is not None
    terms = 0 if u.device.type == "cpu" else 1 if B.dtype == C.dtype == torch.bfloat16 else 3
    plan = make_plan(batch, length, channels, states, groups, kd=1, warps=4, wanted_warps=4096)
    wide = replace(plan_rows(batch, length, channels, states, groups, wanted_warps=4096), chunk=plan.chunk)
    staged = stage_rows(B, C, plan, reverse)
    first, last = sequence_marks(cu_seqlens, length, plan.padded_length, reverse)
    sizes = (length, plan.padded_length, plan.chunk, plan.chunks)
    flags = {
        "CHANNELS": channels, "GROUPS": groups, "N": states,
        "SOFTPLUS": delta_softplus, "HAS_BIAS": delta_bias is not None, "HAS_Z": z is not None,
        "HAS_D_FINAL": d_final_state is not None, "PACKED": packed, "REVERSE": reverse, "MASK_L": length % UNIT != 0,
        "NV": plan.padded_states // 4, "STEPS": STEPS,
    }  # fmt: skip
    batch_strides = (dy.stride(0), delta.stride(0), 0 if z is None else z.stride(0))
    row_strides = (dy.stride(1), delta.stride(1), 0 if z is None else z.stride(1))

    carry = None
    if plan.chunks > 1:
        carry = A.new_empty(plan.state_shape(plan.chunks))
        sums = A.new_empty(batch, plan.chunks, channels)
        selective_scan_bwd_state_kernel[(wide.programs,)](
            dy, delta, A, staged, z, delta_bias, d_final_state, last, carry, sums,
            *sizes, *batch_strides, *row_strides,
            MASK_D=wide.ragged_channels, LANES=wide.lanes, KD=wide.kd, num_warps=wide.warps, num_stages=1,
            **flags,
        )  # fmt: skip
        carry_over_chunks(A, carry, sums, None if packed else d_final_state, plan, backwards=True)

    du, ddelta, dz = (
        None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, z)
    )
    blocks = groups * plan.blocks_per_group
    partial_B = A.new_empty(blocks, batch, plan.padded_length, plan.padded_states)
    partial_C = torch.empty_like(partial_B)
    partial_A = A.new_empty(plan.state_shape(plan.chunks))
    partial_D = None if D is None else A.new_empty(batch, plan.chunks, channels)
    partial_bias = None if delta_bias is None else A.new_empty(batch, plan.chunks, channels)
    d_initial = None if initial_state is None else torch.empty_like(initial_state)
    scratch = A.new_empty(plan.programs, UNIT // STEPS, plan.lanes * plan.padded_states)
    selective_scan_bwd_kernel[(plan.programs,)](
        dy, u, delta, A, staged, D, z, delta_bias, initial_state, d_final_state,
        checkpoints, carry, first, last, scratch,
        du, ddelta, dz, partial_A, partial_B, partial_C, partial_D, partial_bias, d_initial,
        batch, *sizes, *batch_strides, u.stride(0), *row_strides, u.stride(1),
        HAS_CARRY=carry is not None, HAS_D=D is not None, HAS_STATE=initial_state is not None,
        MASK_D=plan.ragged_channels, LANES=plan.lanes, KD=1, UNIT=UNIT,
        TERMS=terms, num_warps=plan.warps, num_stages=1,
        **flags,
    )  # fmt: skip
    dB, dC = (sum_partials(p, like, plan, reverse) for p, like in ((partial_B, B), (partial_C, C)))
    dA = partial_A.sum((0, 1)).permute(1, 0, 2).reshape(channels, -1)[:, :states]
    return (
        du, ddelta, dA.contiguous(), dB, dC,
        None if partial_D is None else partial_D.sum((0, 1)), dz,
        None if partial_bias is None else partial_bias.sum((0, 1)), d_initial,
    )  # fmt: skip
