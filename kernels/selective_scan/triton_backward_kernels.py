"""The two large kernels of the backward pass of the selective scan; `triton_backward.py` says what they compute."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from ssmbio.kernels.selective_scan.triton_channel_sums import addends, store_over_channels, sum_over_channels
from ssmbio.kernels.selective_scan.triton_tiles import (
    LN2,
    LOG2E,
    load_row,
    load_rows,
    load_staged,
    load_staged_rows,
    load_state,
    over_states,
    program_place,
    sigmoid,
    state_at_start,
    step_size,
    store_row,
    store_state,
    sum_states,
)


@triton.jit
def selective_scan_bwd_state_kernel(
    dy, delta, A, BC, z, bias, d_final, last, carry, sums,
    length, padded_length, chunk, chunks,
    stride_yb, stride_db, stride_zb,
    stride_yl: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, KD: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    batch, c, group, _block, channel, end = program_place(chunks, CHANNELS, GROUPS, LANES * KD)
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L

    row = channel + tl.arange(0, LANES)[:, None] * KD + tl.arange(0, KD)[None, :]
    A2 = load_state(A, N, 4, channel, end, N, LANES, NV, KD) * LOG2E
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)

    start = c * chunk
    total = tl.zeros([LANES, KD], tl.float32)
    back = tl.zeros([LANES, KD, 4, NV], tl.float32)
    tiles = tl.cdiv(tl.minimum(chunk, length - start), STEPS)
    for turn in tl.range(0, tiles, num_stages=3):
        s0 = start + (tiles - 1 - turn) * STEPS
        t0 = length - 1 - s0 if REVERSE else s0
        dy_row = dy + batch * stride_yb + t0 * stride_yl + row
        delta_row = delta + batch * stride_db + t0 * stride_dl + row
        if HAS_Z:
            z_row = z + batch * stride_zb + t0 * stride_zl + row
        BC_row = BC + ((batch * GROUPS + group) * padded_length + s0) * (2 * NP)
        for i in tl.static_range(STEPS - 1, -1, -1):
            live = s0 + i < length
            mask = (row < end) & live
            raw = load_row(delta_row + i * SIGN * stride_dl, mask, MASKED)
            dt = step_size(raw, shift, live, SOFTPLUS, HAS_BIAS, MASK_L)
            g = load_row(dy_row + i * SIGN * stride_yl, mask, MASKED)
            if HAS_Z:
                gate = load_row(z_row + i * SIGN * stride_zl, mask, MASKED)
                g *= gate * sigmoid(gate)
            if PACKED:
                mark = tl.load(last + s0 + i)
                back = state_at_start(back, mark, d_final, channel, end, CHANNELS, N, HAS_D_FINAL, LANES, NV, KD)
                total = tl.where(mark > 0, float("inf"), total)
            _, c_row = load_staged(BC_row + i * (2 * NP), NV)
            back = tl.exp2(over_states(dt) * A2) * (over_states(g) * c_row + back)
            total += dt

    place = (batch * chunks + c) * CHANNELS
    store_state(carry + place * NP, 4, 4 * CHANNELS, channel, end, back, NP, LANES, NV, KD)
    tl.store(sums + place + row, total, mask=row < end)


@triton.jit
def selective_scan_bwd_kernel(
    dy, u, delta, A, BC, D, z, bias, initial, d_final,
    checkpoints, carry, first, last, scratch,
    du, ddelta, dz, partial_A, partial_B, partial_C, partial_D, partial_bias, d_initial,
    batches, length, padded_length, chunk, chunks,
    stride_yb, stride_db, stride_zb, stride_ub,
    stride_yl: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr, stride_ul: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    HAS_CARRY: tl.constexpr, HAS_D: tl.constexpr, HAS_STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr, TERMS: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, KD: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    batch, c, group, block, channel, end = program_place(chunks, CHANNELS, GROUPS, LANES)
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L
    TILES: tl.constexpr = UNIT // STEPS

    row = channel + tl.arange(0, LANES)[:, None] + tl.zeros([1, KD], tl.int32)
    A2 = load_state(A, N, 4, channel, end, N, LANES, NV, KD) * LOG2E
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)
    skip = tl.zeros([LANES, KD], tl.float32)
    if HAS_D:
        skip = tl.load(D + row, mask=row < end, other=0.0)

    place = (batch * chunks + c) * CHANNELS
    back = tl.zeros([LANES, KD, 4, NV], tl.float32)
    if HAS_CARRY:
        back = load_state(carry + place * NP, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
    elif HAS_D_FINAL and not PACKED:
        back = load_state(d_final + batch * (CHANNELS * N), N, 4, channel, end, N, LANES, NV, KD)
    dA = tl.zeros([LANES, KD, 4, NV], tl.float32)
    dD = tl.zeros([LANES, KD], tl.float32)
    dbias = tl.zeros([LANES, KD], tl.float32)
    step = tl.arange(0, STEPS)[:, None]
    inside = channel + tl.arange(0, LANES)[None, :] < end
    scratch += tl.program_id(0).to(tl.int64) * (TILES * LANES * NP)
    start = c * chunk
    all_units = tl.cdiv(length, UNIT)
    units = tl.cdiv(tl.minimum(chunk, length - start), UNIT)
    for turn in range(0, units):
        unit = start // UNIT + units - 1 - turn
        staged = (batch * GROUPS + group) * padded_length + unit * UNIT

        # States at every STEPS positions of the unit, for this program alone.
        h = load_state(checkpoints + (batch * all_units + unit) * (CHANNELS * NP), 4, 4 * CHANNELS, channel, end, NP,
                       LANES, NV, KD)  # fmt: skip
        store_state(scratch, 4, 4 * LANES, 0, LANES, h, NP, LANES, NV, KD)
        for tile in tl.range(0, TILES - 1, num_stages=3):
            s0 = unit * UNIT + tile * STEPS
            t0 = length - 1 - s0 if REVERSE else s0
            rows_mask = inside & (s0 + step < length)
            raw = load_rows(delta + batch * stride_db + t0 * stride_dl + channel, SIGN * stride_dl, rows_mask,
                            LANES, STEPS, MASKED)  # fmt: skip
            xs = load_rows(u + batch * stride_ub + t0 * stride_ul + channel, SIGN * stride_ul, rows_mask,
                           LANES, STEPS, MASKED)  # fmt: skip
            Bs, _ = load_staged_rows(BC + (staged + tile * STEPS) * (2 * NP), NV, STEPS)
            for i in tl.static_range(STEPS):
                dt = step_size(raw[i], shift, s0 + i < length, SOFTPLUS, HAS_BIAS, MASK_L)
                if PACKED:
                    mark = tl.load(first + s0 + i)
                    h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                h = tl.exp2(over_states(dt) * A2) * h + over_states(dt * xs[i]) * Bs[i]
            store_state(scratch + (tile + 1) * LANES * NP, 4, 4 * LANES, 0, LANES, h, NP, LANES, NV, KD)

        tl.debug_barrier()  # the states written above are read below, perhaps by asynchronous copies
        dB = tl.zeros([16, 8 * NV], tl.float32)
        dC = tl.zeros([16, 8 * NV], tl.float32)
        for tile_turn in tl.range(0, TILES, num_stages=3):
            tile = TILES - 1 - tile_turn
            s0 = unit * UNIT + tile * STEPS
            t0 = length - 1 - s0 if REVERSE else s0
            rows_mask = inside & (s0 + step < length)
            raw = load_rows(delta + batch * stride_db + t0 * stride_dl + channel, SIGN * stride_dl, rows_mask,
                            LANES, STEPS, MASKED)  # fmt: skip
            xs = load_rows(u + batch * stride_ub + t0 * stride_ul + channel, SIGN * stride_ul, rows_mask,
                           LANES, STEPS, MASKED)  # fmt: skip
            ds = load_rows(dy + batch * stride_yb + t0 * stride_yl + channel, SIGN * stride_yl, rows_mask,
                           LANES, STEPS, MASKED)  # fmt: skip
            gates = ds
            if HAS_Z:
                gates = load_rows(z + batch * stride_zb + t0 * stride_zl + channel, SIGN * stride_zl, rows_mask,
                                  LANES, STEPS, MASKED)  # fmt: skip
            out_row = (batch * length + t0) * CHANNELS + row
            BC_row = BC + (staged + tile * STEPS) * (2 * NP)

            Bs, Cs = load_staged_rows(BC_row, NV, STEPS)
            h = load_state(scratch + tile * LANES * NP, 4, 4 * LANES, 0, LANES, NP, LANES, NV, KD)
            before = ()
            steps = ()
            gradients = ()
            products = ()
            for i in tl.static_range(STEPS):
                live = s0 + i < length
                mask = (row < end) & live
                dt = step_size(raw[i], shift, live, SOFTPLUS, HAS_BIAS, MASK_L)
                if PACKED:
                    mark = tl.load(first + s0 + i)
                    h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                before = before + (h,)
                h = tl.exp2(over_states(dt) * A2) * h + over_states(dt * xs[i]) * Bs[i]
                g = ds[i]
                if HAS_Z:
                    y = sum_states(h * Cs[i]) + skip * xs[i]
                    s = sigmoid(gates[i])
                    g = ds[i] * gates[i] * s
                    d_gate = ds[i] * y * s * (1.0 + gates[i] * (1.0 - s))
                    store_row(dz + out_row + i * SIGN * CHANNELS, d_gate, mask, MASKED)
                steps = steps + (dt,)
                gradients = gradients + (g,)
                products = products + (addends(h * over_states(g), TERMS),)
            dC = sum_over_channels(dC, products, tile, LANES, NV, TERMS)

            products = ()
            Bs, Cs = load_staged_rows(BC_row, NV, STEPS)  # again: kept since above they would fill the registers
            for i in tl.static_range(STEPS - 1, -1, -1):
                live = s0 + i < length
                mask = (row < end) & live
                if PACKED:
                    mark = tl.load(last + s0 + i)
                    back = state_at_start(back, mark, d_final, channel, end, CHANNELS, N, HAS_D_FINAL, LANES, NV, KD)
                dt = steps[i]
                g = gradients[i]
                p = over_states(g) * Cs[i] + back
                # Adding zero keeps the compiler from holding the decays of the scan above, which costs registers.
                back = tl.exp2(over_states(dt) * A2 + 0.0) * p
                w = back * before[i]
                dA += over_states(dt) * w
                into = sum_states(p * Bs[i])
                store_row(du + out_row + i * SIGN * CHANNELS, dt * into + skip * g, mask, MASKED)
                d_step = sum_states(w * A2) * LN2 + xs[i] * into
                if SOFTPLUS:
                    d_step *= sigmoid(raw[i] + shift)
                if MASK_L:
                    d_step = tl.where(live, d_step, 0.0)
                store_row(ddelta + out_row + i * SIGN * CHANNELS, d_step, mask, MASKED)
                dbias += d_step
                dD += g * xs[i]
                products = (addends(p * over_states(dt * xs[i]), TERMS),) + products
                if PACKED and HAS_STATE:
                    mark = tl.load(first + s0 + i)
                    if mark > 0:
                        where = d_initial + (mark - 1).to(tl.int64) * (CHANNELS * N)
                        store_state(where, N, 4, channel, end, back, N, LANES, NV, KD)
            dB = sum_over_channels(dB, products, tile, LANES, NV, TERMS)
        sums = ((block.to(tl.int64) * batches + batch) * padded_length + unit * UNIT) * NP
        store_over_channels(partial_B + sums, dB, NV)
        store_over_channels(partial_C + sums, dC, NV)

    store_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, dA, NP, LANES, NV, KD)
    if HAS_D:
        tl.store(partial_D + place + row, dD, mask=row < end)
    if HAS_BIAS:
        tl.store(partial_bias + place + row, dbias, mask=row < end)
    if HAS_STATE and not PACKED:  # noqa: SIM102 (a constant, apart from the other)
        if c == 0:
            store_state(d_initial + batch * (CHANNELS * N), N, 4, channel, end, back, N, LANES, NV, KD)
