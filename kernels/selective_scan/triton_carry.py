"""The scan over chunks: from what each chunk does alone to the state, or adjoint, that enters it."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.selective_scan.triton_exponentials import LOG2E, exp_parts
from ssmbio.kernels.selective_scan.triton_plan import Plan


def carry_over_chunks(
    A: Tensor, states: Tensor, sums: Tensor, entering: Tensor | None, plan: Plan, exact: bool, backwards: bool
) -> None:
    """Replaces each chunk's local last state in `states` by the state that enters the chunk."""
    # Of many chunks as many at once as registers hold; EXACT needs some for itself.
    block, ahead = 64, 16 if plan.chunks <= 16 else 32 if exact else 64
    elements = plan.padded_states * plan.channels
    selective_scan_carry_kernel[(triton.cdiv(elements, block), plan.batch)](
        A, states, sums, entering,
        plan.channels, plan.states, plan.chunks,
        HAS_STATE=entering is not None, BACKWARDS=backwards, EXACT=exact, NV=plan.padded_states // 4,
        BLOCK=block, AHEAD=ahead, num_warps=block // 32,
    )  # fmt: skip


@triton.jit
def selective_scan_carry_kernel(
    A, carry, sums, entering,
    channels, states, chunks,
    HAS_STATE: tl.constexpr, BACKWARDS: tl.constexpr, EXACT: tl.constexpr, NV: tl.constexpr,
    BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < NV * channels * 4
    channel = (e // 4) % channels
    n = (e // (4 * channels)) * 4 + e % 4
    known = inside & (n < states)
    rates = tl.load(A + channel * states + n, mask=known, other=-1.0)  # 0 would make NaN of an infinite sum
    h = tl.zeros([BLOCK], tl.float32)
    if HAS_STATE:
        h = tl.load(entering + (batch * channels + channel) * states + n, mask=known, other=0.0)
    carry += batch * chunks * NV * 4 * channels
    sums += batch * chunks * channels
    stride = tl.full([1], NV * 4, tl.int64) * channels
    for c0 in range(0, chunks, AHEAD):
        # All loads of AHEAD chunks first: the scan itself is one multiply-add a chunk, the latency of loads the cost.
        local = ()
        total = ()
        for i in tl.static_range(AHEAD):
            c = chunks - 1 - c0 - i if BACKWARDS else c0 + i
            there = inside & (c >= 0) & (c < chunks)
            local = local + (tl.load(carry + c * stride + e, mask=there, other=0.0),)
            total = total + (tl.load(sums + c * channels + channel, mask=there, other=0.0),)
        for i in tl.static_range(AHEAD):
            c = chunks - 1 - c0 - i if BACKWARDS else c0 + i
            there = inside & (c >= 0) & (c < chunks)
            tl.store(carry + c * stride + e, h, mask=there)
            # An infinite sum says that a boundary of packed sequences lies in the chunk: nothing passes it.
            cut = total[i] == float("inf")
            if EXACT:
                q, s = exp_parts(rates * total[i])
                h = h * tl.where(cut, 0.0, s)
                h = tl.where(cut, 0.0, q) * h + h + local[i]
            else:
                h = tl.where(cut, 0.0, tl.exp2(rates * (total[i] * LOG2E))) * h + local[i]
