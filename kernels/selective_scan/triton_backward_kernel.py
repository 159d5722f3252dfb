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
    sum_states_soon,
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
def step_sizes(raws, shift, s0, length, STEPS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
               MASK_L: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """Δ of the rows from position s0 on."""
    dts = ()
    for i in tl.static_range(STEPS):
        dts = dts + (step_size(raws[i], shift, s0 + i < length, SOFTPLUS, HAS_BIAS, MASK_L, EXACT),)
    return dts


@triton.jit(do_not_specialize=["first_program", "batches", "chunks"])
def selective_scan_bwd_kernel(
    dy, u, delta, A, BC, D, z, bias, initial, d_final,
    checkpoints, carry, first, last, scratch,
    du, ddelta, dz, partial_A, partial_B, partial_C, partial_D, partial_bias, d_initial,
    first_program, batches, length, padded_length, chunks,
    stride_yb, stride_db, stride_zb, stride_ub,
    stride_yl: tl.constexpr, stride_dl: tl.constexpr, stride_zl: tl.constexpr, stride_ul: tl.constexpr,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    HAS_CARRY: tl.constexpr, HAS_D: tl.constexpr, HAS_STATE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_Z: tl.constexpr, HAS_D_FINAL: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, MASK_D: tl.constexpr, MASK_L: tl.constexpr, TERMS: tl.constexpr,
    NV: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr,
    QUARTERS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    batch, c, group, block, channel, end = program_place(
        first_program + tl.program_id(0), chunks, CHANNELS, GROUPS, LANES
    )
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
    step = tl.arange(0, STEPS)[:, None]
    inside = channel + tl.arange(0, LANES)[None, :] < end
    SUMS: tl.constexpr = LANES // 32 * UNIT * NP  # partial sums of a unit, for B or for C
    scratch += tl.program_id(0).to(tl.int64) * ((2 * UNIT + UNIT // 2 * NP) * LANES + 2 * SUMS)
    states = scratch + 2 * UNIT * LANES  # that enter each pair of positions
    parts_C = states + UNIT // 2 * NP * LANES
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

        # Forward over the unit, from its checkpoint. Δ of a tile is made a tile ahead: its first decays would wait for
        # softplus, and two warps a scheduler have nothing else to do.
        h = load_state(checkpoints + (batch * all_units + unit) * (CHANNELS * NP), 4, 4 * CHANNELS, channel, end, NP,
                       LANES, NV, KD)  # fmt: skip
        s1 = unit * UNIT
        t1 = length - 1 - s1 if REVERSE else s1
        raws = load_rows(delta + batch * stride_db + t1 * stride_dl + channel, SIGN * stride_dl,
                         inside & (s1 + step < length), LANES, KD, STEPS, MASKED)  # fmt: skip
        dts = step_sizes(raws, shift, s1, length, STEPS, SOFTPLUS, HAS_BIAS, MASK_L, EXACT)
        for tile in tl.range(0, TILES, num_stages=4):
            s0 = unit * UNIT + tile * STEPS
            t0 = length - 1 - s0 if REVERSE else s0
            rows_mask = inside & (s0 + step < length)
            s1 = unit * UNIT + tl.minimum(tile + 1, TILES - 1) * STEPS
            t1 = length - 1 - s1 if REVERSE else s1
            raws = load_rows(delta + batch * stride_db + t1 * stride_dl + channel, SIGN * stride_dl,
                             inside & (s1 + step < length), LANES, KD, STEPS, MASKED)  # fmt: skip
            ahead = step_sizes(raws, shift, s1, length, STEPS, SOFTPLUS, HAS_BIAS, MASK_L, EXACT)
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
            products = ()
            for i in tl.static_range(STEPS):
                live = s0 + i < length
                dt = dts[i]
                x = xs[i]
                g = gs[i]
                if i % 2 == 0:
                    slot = states + (tile * (STEPS // 2) + i // 2) * (LANES * NP)
                    store_state(slot, 4, 4 * LANES, 0, LANES, h, NP, LANES, NV, KD)
                    Bs, Cs = load_staged_rows(BC_row + i * (2 * NP), NV, 2)
                if PACKED:
                    mark = tl.load(first + s0 + i)
                    h = state_at_start(h, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                h = decayed(decays(dt, rates, EXACT), h, EXACT) + over_states(dt * x) * Bs[i % 2]
                if HAS_Z:
                    s = sigmoid(gates[i], EXACT)
                    y = sum_states_soon(h * Cs[i % 2]) + skip * x
                    d_gate = g * y * s * (1.0 + gates[i] * (1.0 - s))
                    store_row(dz_row + i * SIGN * CHANNELS, d_gate, (row < end) & live, MASKED)
                    g *= gates[i] * s
                tl.store(kept + i * LANES, g)
                tl.store(kept + (UNIT + i) * LANES, dt)
                products = products + (addends(h * over_states(g), TERMS),)
            store_over_channels(parts_C + tile * (STEPS * NP), products, LANES, NV, UNIT, TERMS)
            dts = ahead

        tl.debug_barrier()  # what was kept above, and parts_C, is read below, perhaps by asynchronous copies

        # Backward over the unit.
        for tile_turn in tl.range(0, TILES, num_stages=4):
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
            sizes = load_rows(kept + UNIT * LANES, LANES, rows_mask, LANES, KD, STEPS, False)
            entering = ()
            for pair in tl.static_range(STEPS // 2):
                slot = states + (tile * (STEPS // 2) + pair) * (LANES * NP)
                entering = entering + (load_state(slot, 4, 4 * LANES, 0, LANES, NP, LANES, NV, KD),)
            BC_row = BC + (staged + tile * STEPS) * (2 * NP)
            out_row = (batch * length + t0) * CHANNELS + row

            products = ()
            for pair in tl.static_range(STEPS // 2 - 1, -1, -1):
                Bs, Cs = load_staged_rows(BC_row + pair * (4 * NP), NV, 2)
                # The states of the pair again, so that a h and p meet at each position.
                early = entering[pair]
                fade = decays(sizes[2 * pair], rates, EXACT)
                if PACKED:
                    mark = tl.load(first + s0 + 2 * pair)
                    early = state_at_start(early, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                late = decayed(fade, early, EXACT) + over_states(sizes[2 * pair] * xs[2 * pair]) * Bs[0]
                if PACKED:
                    mark = tl.load(first + s0 + 2 * pair + 1)
                    late = state_at_start(late, mark, initial, channel, end, CHANNELS, N, HAS_STATE, LANES, NV, KD)
                before = (early, late)
                faded = (fade, decays(sizes[2 * pair + 1], rates, EXACT))
                for j in tl.static_range(1, -1, -1):
                    live = s0 + 2 * pair + j < length
                    mask = (row < end) & live
                    dt = sizes[2 * pair + j]
                    x = xs[2 * pair + j]
                    g = gs[2 * pair + j]
                    if ENDS:
                        mark = end_mark(last, s0 + 2 * pair + j, length, batch, PACKED)
                        back = state_at_start(back, mark, d_final, channel, end, CHANNELS, N, HAS_D_FINAL, LANES, NV,
                                              KD)  # fmt: skip
                    p = over_states(g) * Cs[j] + back
                    into = sum_states_soon(p * Bs[j])
                    back = decayed(faded[j], p, EXACT)
                    w = before[j] * back
                    dA += over_states(dt) * w
                    store_row(du + out_row + (2 * pair + j) * SIGN * CHANNELS, dt * into + skip * g, mask, MASKED)
                    d_step = sum_states_soon(w * rates) + x * into
                    if SOFTPLUS:
                        d_step *= softplus_slope(raws[2 * pair + j] + shift, dt, EXACT)
                    if MASK_L:
                        d_step = tl.where(live, d_step, 0.0)
                    store_row(ddelta + out_row + (2 * pair + j) * SIGN * CHANNELS, d_step, mask, MASKED)
                    dbias += d_step
                    dD += g * x
                    products = (addends(p * over_states(dt * x), TERMS),) + products
                    if PACKED and HAS_STATE:
                        mark = tl.load(first + s0 + 2 * pair + j)
                        if mark > 0:
                            where = (mark - 1).to(tl.int64) * (CHANNELS * N)
                            store_state(d_initial + where, N, 4, channel, end, back, N, LANES, NV, KD)
            store_over_channels(parts_B + tile * (STEPS * NP), products, LANES, NV, UNIT, TERMS)
        sum_D += dD
        sum_bias += dbias
        # Loads before stores, as far as the barriers allow: what they wait for is waited for at once.
        if turn > 0:
            dA += load_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, NP, LANES, NV, KD)
        store_unit_sums(partial_C + sums, parts_C, LANES, NV, UNIT)
        store_state(partial_A + place * NP, 4, 4 * CHANNELS, channel, end, dA, NP, LANES, NV, KD)
        tl.debug_barrier()  # all has been read before the next unit writes, and all of parts_B is written
        store_unit_sums(partial_B + sums, parts_B, LANES, NV, UNIT)

    if HAS_D:
        tl.store(partial_D + place + row, sum_D, mask=row < end)
    if HAS_BIAS:
        tl.store(partial_bias + place + row, sum_bias, mask=row < end)
    if HAS_STATE and not PACKED:  # noqa: SIM102 (a constant, apart from the other)
        if c == 0:
            store_state(d_initial + batch * (CHANNELS * N), N, 4, channel, end, back, N, LANES, NV, KD)
