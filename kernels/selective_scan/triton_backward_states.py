"""What leaves quarters of chunks in the backward pass of the selective scan; `triton_backward.py` says why."""

from __future__ import annotations

import triton
import triton.language as tl

from ssmbio.kernels.selective_scan.triton_exponentials import sigmoid
from ssmbio.kernels.selective_scan.triton_tiles import (
    chunk_place,
    decayed,
    decays,
    load_row,
    load_staged,
    load_state,
    over_states,
    program_place,
    state_at_start,
    step_size,
    store_state,
)


@triton.jit(do_not_specialize=["quarters"])
def selective_scan_bwd_state_kernel(
    dy, delta, A, BC, z, bias, d_final, last, carry, sums,
    length, padded_length, quarters,
    stride_yb, stride_db, stride_zb,
    stride_yl: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, KD: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    QUARTERS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    batch, quarter, group, _block, channel, end = program_place(pid, quarters, CHANNELS, GROUPS, LANES * KD)
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L

    row = channel + tl.arange(0, LANES)[:, None] * KD + tl.arange(0, KD)[None, :]
    rates = load_state(A, N, 4, channel, end, N, LANES, NV, KD)
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)

    start, size = chunk_place(quarter // QUARTERS, quarters // QUARTERS, length, UNIT)
    size //= QUARTERS
    start += quarter % QUARTERS * size
    total = tl.zeros([LANES, KD], tl.float32)
    back = tl.zeros([LANES, KD, 4, NV], tl.float32)
    tiles = tl.cdiv(tl.minimum(size, length - start), STEPS)  # none in a quarter of padding
    for turn in tl.range(0, tiles, num_stages=3):
        s0 = start + (tiles - 1 - turn) * STEPS
        t0 = length - 1 - s0 if REVERSE else s0
        dy_row = dy + batch * stride_yb + t0 * stride_yl + row
        delta_row = delta + batch * stride_db + t0 * stride_dl + row
        if HAS_Z:
            z_row = z + batch * stride_zb + t0 * stride_zl + row
        passed = tl.zeros([LANES, KD], tl.float32) if EXACT else total
        BC_row = BC + ((batch * GROUPS + group) * padded_length + s0) * (2 * NP)
        for i in tl.static_range(STEPS - 1, -1, -1):
            live = s0 + i < length
            mask = (row < end) & live
            raw = load_row(delta_row + i * SIGN * stride_dl, mask, MASKED)
            dt = step_size(raw, shift, live, SOFTPLUS, HAS_BIAS, MASK_L, EXACT)
            g = load_row(dy_row + i * SIGN * stride_yl, mask, MASKED)
            if HAS_Z:
                gate = load_row(z_row + i * SIGN * stride_zl, mask, MASKED)
                g *= gate * sigmoid(gate, EXACT)
            if PACKED:
                mark = tl.load(last + s0 + i)
                back = state_at_start(back, mark, d_final, channel, end, CHANNELS, N, HAS_D_FINAL, LANES, NV, KD)
                passed = tl.where(mark > 0, float("inf"), passed)
            _, c_row = load_staged(BC_row + i * (2 * NP), NV)
            back = decayed(decays(dt, rates, EXACT), over_states(g) * c_row + back, EXACT)
            passed += dt
        if EXACT:  # a boundary counts whatever came before it, NaN too
            total = tl.where(passed == float("inf"), passed, total + passed)
        else:
            total = passed

    place = (batch * quarters + quarter) * CHANNELS
    store_state(carry + place * NP, 4, 4 * CHANNELS, channel, end, back, NP, LANES, NV, KD)
    tl.store(sums + place + row, total, mask=row < end)
