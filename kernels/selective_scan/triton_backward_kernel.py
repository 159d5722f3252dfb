"""The main kernel of the backward pass of the selective scan; `triton_backward.py` says what it computes."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import triton
import triton.language as tl

from ssmbio.kernels.selective_scan.triton_channel_sums import addends, store_over_channels, store_unit_sums
from ssmbio.kernels.selective_scan.triton_exponentials import sigmoid, softplus_slope
from ssmbio.kernels.selective_scan.triton_tiles import (
    chunk_place,
    decayed,
    decays,
    load_rows,
    load_staged_rows,
    load_state,
    over_states,
    program_place,
    state_at_start,
    step_size,
    store_row,
    store_state,
    sum_states,
)


@triton.jit
def end_mark(last, s, length, batch, PACKED: tl.constexpr):
    """Number + 1 of the sequence whose last position is s, or 0: of packed sequences, or of the batch's rows."""
    if PACKED:
        mark = tl.load(last + s)
    else:
        mark = tl.where(s == length - 1, batch + 1, 0).to(tl.int32)
    return mark


@triton.jit
def selective_scan_bwd_kernel(
    dy, u, delta, A, BC, D, z, bias, initial, d_final,
    checkpoints, carry, first, last, scratch,
    du, ddelta, dz, partial_A, partial_B, partial_C, partial_D, partial_bias, d_initial,
    batches, length, padded_length, chunks,
    stride_yb, stride_db, stride_zb, stride_ub,
    stride_yl: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr, stride_ul: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    HAS_CARRY: tl.constexpr, HAS_D: tl.constexpr, HAS_STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr, TERMS: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    QUARTERS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    batch, c, group, block, channel, end = program_place(chunks, CHANNELS, GROUPS, LANES)
    KD: tl.constexpr = 1
    NP: tl.constexpr = 4 * NV
    SIGN: tl.constexpr = -1 if REVERSE else 1
    MASKED: tl.constexpr = MASK_D or MASK_L
    TILES: tl.constexpr = UNIT // STEPS
    ENDS: tl.constexpr = PACKED or HAS_D_FINAL

    lane = tl.arange(0, LANES)[:, None]
    row = channel + lane
    rates = load_state(A, N, 4, channel, end, N, LANES, NV, KD)
    shift = tl.zeros([LANES, KD], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + row, mask=row < end, other=0.0)
    skip = tl.zeros([LANES, KD], tl.float32)
    if HAS_D:
        skip = tl.load(D + row, mask=row < end, other=0.0)

    place = (batch * chunks + c) * CHANNELS
    back = tl.zeros([LANES, KD, 4, NV], tl.float32)
    if HAS_CARRY:
        last_quarter = QUARTERS * (batch * chunks + c + 1) - 1
        back = load_state(carry + last_quarter * (CHANNELS * NP), 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
        if HAS_D_FINAL and not PACKED:
            back = tl.where(c == chunks - 1, 0.0, back)  # it enters with the last position, which padding may follow
    sum_D = tl.zeros([LANES, KD], tl.float32)
    sum_bias = tl.zeros([LANES, KD], tl.float32)
    after = tl.zeros([LANES, KD], tl.float32)
    step = tl.arange(0, STEPS)[:, None]
    inside = channel + tl.arange(0, LANES)[None, :] < end
    SUMS: tl.constexpr = LANES // 32 * UNIT * NP  # partial sums of a unit, for B or for C
    scratch += tl.program_id(0).to(tl.int64) * ((3 * UNIT + TILES * NP) * LANES + 2 * SUMS)
    states = scratch + 3 * UNIT * LANES
    parts_C = states + TILES * NP * LANES
    parts_B = parts_C + SUMS
    start, size = chunk_place(c, chunks, length, UNIT)
    all_units = tl.cdiv(length, UNIT)
    units = size // UNIT
    for turn in range(0, units):
        unit = start // UNIT + units - 1 - turn
        staged = (batch * GROUPS + group) * padded_length + unit * UNIT
        sums = ((block.to(tl.int64) * batches + batch) * padded_length + unit * UNIT) * NP
        # Each unit has sums of its own, which are added up at its end: one sum over a chunk would round more.
        dA = tl.zeros([LANES, KD, 4, NV], tl.float32)
        dD = tl.zeros([LANES, KD], tl.float32)
        dbias = tl.zeros([LANES, KD], tl.float32)

        # Forward over the unit, from its checkpoint.
        h = load_state(checkpoints + (batch * all_units + unit) * (CHANNELS * NP), 4, 4 * CHANNELS, channel, end, NP,
                       LANES, NV, KD)  # fmt: skip
        for tile in tl.range(0, TILES, num_stages=3):
            s0 = unit * UNIT + tile * STEPS
            t0 = length - 1 - s0 if REVERSE else s0
            rows_mask = inside & (s0 + step < length)
            raws = load_rows(delta + batch * stride_db + t0 * stride_dl + channel, SIGN * stride_dl, rows_mask,
                             LANES, KD, STEPS, MASKED)  # fmt: skip
            xs = load_rows(u + batch * stride_ub + t0 * stride_ul + channel, SIGN * stride_ul, rows_mask,
                           LANES, KD, STEPS, MASKED)  # fmt: skip
            gs = load_rows(dy + batch * stride_yb + t0 * stride_yl + channel, SIGN * stride_yl, rows_mask,
                           LANES, KD, STEPS, MASKED)  # fmt: skip
            gates = gs
            if HAS_Z:
                gates = load_rows(z + batch * stride_zb + t0 * stride_zl + channel, SIGN * stride_zl, rows_mask,
                                  LANES, KD, STEPS, MASKED)  # fmt: skip
                dz_row = dz + (batch * length + t0) * CHANNELS + row
            BC_row = BC + (staged + tile * STEPS) * (2 * NP)
            kept = scratch + tile * (STEPS * LANES) + lane
            dts = ()
            time = tl.zeros([LANES, KD], tl.float32)
            for i in tl.static_range(STEPS):
                dts = dts + (step_size(raws[i], shift, s0 + i < length, SOFTPLUS, HAS_BIAS, MASK_L, EXACT),)
                time += dts[i]
            time *= -0.5
            products = ()
            for i in tl.static_range(STEPS):
                live = s0 + i < length
                dt = dts[i]
                x = xs[i]
                g = gs[i]
                if PACKED:
                    mark = tl.load(first + s0 + i)
                    h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                if i % 2 == 0:
                    Bs, Cs = load_staged_rows(BC_row + i * (2 * NP), NV, 2)
                h = decayed(decays(dt, rates, EXACT), h, EXACT)
                passed = h * Cs[i % 2]
                remaining = h
                h += over_states(dt * x) * Bs[i % 2]
                if HAS_Z:
                    s = sigmoid(gates[i], EXACT)
                    y = sum_states(h * Cs[i % 2]) + skip * x
                    d_gate = g * y * s * (1.0 + gates[i] * (1.0 - s))
                    store_row(dz_row + i * SIGN * CHANNELS, d_gate, (row < end) & live, MASKED)
                    g *= gates[i] * s
                time += dt
                slope = g * sum_states(passed * rates)
                dA += over_states(time * g) * passed
                if HAS_D_FINAL:
                    mark = end_mark(last, s0 + i, length, batch, PACKED)
                    if mark > 0:
                        where = d_final + (mark - 1).to(tl.int64) * (CHANNELS * N)
                        leaving = remaining * load_state(where, N, 4, channel, end, N, LANES, NV, KD)
                        slope += sum_states(leaving * rates)
                        dA += over_states(time) * leaving
                tl.store(kept + i * LANES, g)
                tl.store(kept + (UNIT + i) * LANES, slope)
                tl.store(kept + (2 * UNIT + i) * LANES, dt)
                products = products + (addends(h * over_states(g), TERMS),)
            store_over_channels(parts_C + tile * (STEPS * NP), products, LANES, NV, UNIT, TERMS)
            store_state(states + tile * (LANES * NP), 4, 4 * LANES, 0, LANES, remaining, NP, LANES, NV, KD)

        tl.debug_barrier()  # what was kept above is read below, perhaps by asynchronous copies
        store_unit_sums(partial_C + sums, parts_C, LANES, NV, UNIT)

        # Backward over the unit.
        for tile_turn in tl.range(0, TILES, num_stages=3):
            tile = TILES - 1 - tile_turn
            s0 = unit * UNIT + tile * STEPS
            t0 = length - 1 - s0 if REVERSE else s0
            rows_mask = inside & (s0 + step < length)
            raws = load_rows(delta + batch * stride_db + t0 * stride_dl + channel, SIGN * stride_dl, rows_mask,
                             LANES, KD, STEPS, MASKED)  # fmt: skip
            xs = load_rows(u + batch * stride_ub + t0 * stride_ul + channel, SIGN * stride_ul, rows_mask,
                           LANES, KD, STEPS, MASKED)  # fmt: skip
            kept = scratch + tile * (STEPS * LANES)
            gs = load_rows(kept, LANES, rows_mask, LANES, KD, STEPS, False)
            slopes = load_rows(kept + UNIT * LANES, LANES, rows_mask, LANES, KD, STEPS, False)
            dts = load_rows(kept + 2 * UNIT * LANES, LANES, rows_mask, LANES, KD, STEPS, False)
            remaining = load_state(states + tile * (LANES * NP), 4, 4 * LANES, 0, LANES, NP, LANES, NV, KD)
            BC_row = BC + (staged + tile * STEPS) * (2 * NP)
            out_row = (batch * length + t0) * CHANNELS + row

            time = tl.zeros([LANES, KD], tl.float32)
            for i in tl.static_range(STEPS):
                time += dts[i]
            time *= 0.5
            leaving = back * remaining
            if ENDS:  # nothing leaves where a sequence ends with the tile
                leaving = tl.where(end_mark(last, s0 + STEPS - 1, length, batch, PACKED) > 0, 0.0, leaving)
            slope = sum_states(leaving * rates)
            dA += over_states(time + after) * leaving
            half = time
            products = ()
            for i in tl.static_range(STEPS - 1, -1, -1):
                live = s0 + i < length
                mask = (row < end) & live
                dt = dts[i]
                x = xs[i]
                g = gs[i]
                v = dt * x
                w = v
                if ENDS:
                    mark = end_mark(last, s0 + i, length, batch, PACKED)
                    back = state_at_start(back, mark, d_final, channel, end, CHANNELS, N, HAS_D_FINAL, LANES, NV, KD)
                    slope = tl.where(mark > 0, 0.0, slope)
                    w = tl.where(mark > 0, 0.0, v)
                if (i + 1) % 2 == 0:
                    Bs, Cs = load_staged_rows(BC_row + (i - 1) * (2 * NP), NV, 2)
                entering = back * Bs[i % 2]
                p = over_states(g) * Cs[i % 2] + back
                into = sum_states(p * Bs[i % 2])
                back = decayed(decays(dt, rates, EXACT), p, EXACT)
                # At the end of a tile or sequence what enters with b is in no sum: `remaining` was without it.
                slope += slopes[i]
                if i == STEPS - 1:
                    dA += over_states(after * w) * entering
                else:
                    slope -= w * sum_states(entering * rates)
                    dA -= over_states(time * w) * entering
                store_row(du + out_row + i * SIGN * CHANNELS, dt * into + skip * g, mask, MASKED)
                d_step = slope + x * into
                if SOFTPLUS:
                    d_step *= softplus_slope(raws[i] + shift, dt, EXACT)
                if MASK_L:
                    d_step = tl.where(live, d_step, 0.0)
                store_row(ddelta + out_row + i * SIGN * CHANNELS, d_step, mask, MASKED)
                dbias += d_step
                dD += g * x
                time -= dt
                products = (addends(p * over_states(v), TERMS),) + products
                if PACKED and HAS_STATE:
                    mark = tl.load(first + s0 + i)
                    if mark > 0:
                        where = (mark - 1).to(tl.int64) * (CHANNELS * N)
                        store_state(d_initial + where, N, 4, channel, end, back, N, LANES, NV, KD)
                        # The time of this sequence begins here, not in the middle of the tile.
                        entered = load_state(initial + where, N, 4, channel, end, N, LANES, NV, KD)
                        dA -= over_states(time) * back * entered
            after = half
            store_over_channels(parts_B + tile * (STEPS * NP), products, LANES, NV, UNIT, TERMS)
        sum_D += dD
        sum_bias += dbias
        if turn > 0:
            dA += load_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
        store_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, dA, NP, LANES, NV, KD)
        tl.debug_barrier()  # all has been read before the next unit writes, and all sums are written
        store_unit_sums(partial_B + sums, parts_B, LANES, NV, UNIT)

    first_state = checkpoints + (batch * all_units + start // UNIT) * (CHANNELS * NP)
    h = load_state(first_state, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
    if PACKED:
        h = tl.where(tl.load(first + start) > 0, 0.0, h)
    dA = load_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
    dA += over_states(after) * back * h
    store_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, dA, NP, LANES, NV, KD)
    if HAS_D:
        tl.store(partial_D + place + row, sum_D, mask=row < end)
    if HAS_BIAS:
        tl.store(partial_bias + place + row, sum_bias, mask=row < end)
    if HAS_STATE and not PACKED:  # noqa: SIM102 (a constant, apart from the other)
        if c == 0:
            store_state(d_initial + batch * (CHANNELS * N), N, 4, channel, end, back, N, LANES, NV, KD)
