"""The walks over the rows: from what each row does alone to the state, or adjoint, that enters it."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import ROWS, Places, Plan
from ssmbio.kernels.lti_scan.triton_products import load_complex, times

AHEAD = 8  # rows loaded at a time: the walk is one multiply-add a row, the latency of loads its cost


def _programs(plan: Plan) -> tuple[int, int]:
    """A program walks over the sequences of a group, one after another: partial sums do not grow with sequences."""
    groups = min(plan.sequences, 64)
    return plan.channels * plan.blocks, groups


def _states(like: Tensor, plan: Plan) -> Tensor:
    """Rows without a sequence are never walked over, and must not hold what is no number."""
    return like.new_empty(plan.state_shape()) if plan.full else like.new_zeros(plan.state_shape())


def carry_states(
    ends: Tensor, decays: Tensor, b: Tensor, passed: Tensor | None, plan: Plan, places: Places
) -> tuple[Tensor, Tensor, Tensor]:
    """(entering states, the same for b = 1 and no initial state, final states (S, D, N) complex).

    `passed` (S, D, N) complex is what an initial state has become at the end of the first row; None: none.
    """
    entering, bare = (_states(ends, plan) for _ in range(2))
    final = b.new_empty(plan.sequences, plan.channels, plan.pairs)
    programs = _programs(plan)
    lti_scan_carry_kernel[programs](
        ends, decays, torch.view_as_real(b), None if passed is None else torch.view_as_real(passed), places.first_rows,
        entering, bare, torch.view_as_real(final),
        plan.channels, plan.pairs, plan.blocks, plan.sequences, triton.cdiv(plan.sequences, programs[1]),
        plan.rows_of_each,
        HAS_STATE=passed is not None, PACKED=plan.packed, ROWS=ROWS, WIDTH=plan.width, AHEAD=AHEAD, num_warps=1,
    )  # fmt: skip
    return entering, bare, final


def carry_adjoints(
    ends: list[Tensor], slopes: Tensor, finals: Tensor | None, d_final: Tensor | None, decays: Tensor,
    c: Tensor, plan: Plan, places: Places, with_edges: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(entering adjoints of all rows, sums (groups, D, blocks, 4, width), edges (S, D, N, 3) complex or None).

    `slopes` are the states' derivatives at the ends of rows, `finals` the states there, for b = 1, `d_final` the
    adjoint (S, D, N) of the final states. Sums: Σ_rows slope · adjoint, and final state · its adjoint. Edges, of the
    first row's end: the adjoint for 2 c = 1 without `d_final`, its derivative, and what `d_final` alone becomes.
    """
    entering = _states(slopes, plan)
    programs = _programs(plan)
    sums = slopes.new_empty(programs[1], plan.channels, plan.blocks, 4, plan.width)
    edges = c.new_empty(plan.sequences, plan.channels, plan.pairs, 3) if with_edges else None
    lti_scan_carry_back_kernel[programs](
        ends[0], ends[-1], slopes, finals, None if d_final is None else torch.view_as_real(d_final), decays,
        torch.view_as_real(c), places.first_rows,
        entering, sums, None if edges is None else torch.view_as_real(edges),
        plan.channels, plan.pairs, plan.blocks, plan.sequences, triton.cdiv(plan.sequences, programs[1]),
        plan.rows_of_each, plan.segment,
        HAS_D_FINAL=d_final is not None, EDGES=with_edges, PACKED=plan.packed,
        ROWS=ROWS, WIDTH=plan.width, AHEAD=AHEAD, num_warps=1,
    )  # fmt: skip
    return entering, sums, edges


@triton.jit
def place_of_row(row, d, block, channels, blocks, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Offset of the real parts of a row's states; the imaginary ones lie ROWS * WIDTH behind."""
    tile = (tl.cast(row // ROWS, tl.int64) * channels + d) * blocks + block
    return tile * (2 * ROWS * WIDTH) + (row % ROWS) * WIDTH


@triton.jit
def rows_of_sequence(sequence, first_rows, rows_of_each, PACKED: tl.constexpr):
    if PACKED:
        return tl.load(first_rows + sequence), tl.load(first_rows + sequence + 1)
    else:
        return sequence * rows_of_each, (sequence + 1) * rows_of_each


@triton.jit
def lti_scan_carry_kernel(
    ends, decays, b, passed, first_rows,
    entering, bare, final,
    channels, pairs, blocks, sequences, group, rows_of_each,
    HAS_STATE: tl.constexpr, PACKED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    d = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    column = tl.arange(0, WIDTH)
    n = block * WIDTH + column
    IM: tl.constexpr = ROWS * WIDTH
    decay = decays + tl.program_id(0).to(tl.int64) * (2 * WIDTH) + column
    ar = tl.load(decay)
    ai = tl.load(decay + WIDTH)
    br, bi = load_complex(b, d, n, pairs)
    start = tl.program_id(1) * group
    for sequence in range(start, tl.minimum(start + group, sequences)):
        first, last = rows_of_sequence(sequence, first_rows, rows_of_each, PACKED)
        state = (tl.cast(sequence, tl.int64) * channels + d) * pairs * 2 + n * 2
        hr = tl.zeros([WIDTH], tl.float32)  # without the initial state, b = 1
        hi = tl.zeros([WIDTH], tl.float32)
        pr = tl.zeros([WIDTH], tl.float32)  # of the initial state
        pi = tl.zeros([WIDTH], tl.float32)
        if HAS_STATE:
            later_r = tl.load(passed + state, mask=n < pairs, other=0.0)
            later_i = tl.load(passed + state + 1, mask=n < pairs, other=0.0)
        for row0 in range(first, last, AHEAD):
            local_r = ()
            local_i = ()
            for k in tl.static_range(AHEAD):
                place = ends + place_of_row(row0 + k, d, block, channels, blocks, ROWS, WIDTH) + column
                there = (column < WIDTH) & (row0 + k < last)
                local_r = local_r + (tl.load(place, mask=there, other=0.0),)
                local_i = local_i + (tl.load(place + IM, mask=there, other=0.0),)
            for k in tl.static_range(AHEAD):
                place = place_of_row(row0 + k, d, block, channels, blocks, ROWS, WIDTH) + column
                there = (column < WIDTH) & (row0 + k < last)
                xr, xi = times(hr, hi, br, bi)
                tl.store(bare + place, hr, mask=there)
                tl.store(bare + place + IM, hi, mask=there)
                tl.store(entering + place, xr + pr, mask=there)
                tl.store(entering + place + IM, xi + pi, mask=there)
                xr, xi = times(hr, hi, ar, ai)
                hr = tl.where(there, xr + local_r[k], hr)
                hi = tl.where(there, xi + local_i[k], hi)
                if HAS_STATE:
                    xr, xi = times(pr, pi, ar, ai)
                    pr = tl.where(there, tl.where(row0 + k == first, later_r, xr), pr)
                    pi = tl.where(there, tl.where(row0 + k == first, later_i, xi), pi)
        xr, xi = times(hr, hi, br, bi)
        tl.store(final + state, xr + pr, mask=n < pairs)
        tl.store(final + state + 1, xi + pi, mask=n < pairs)


@triton.jit
def lti_scan_carry_back_kernel(
    ends, moments, slopes, finals, d_final, decays, c, first_rows,
    entering, sums, edges,
    channels, pairs, blocks, sequences, group, rows_of_each, segment,
    HAS_D_FINAL: tl.constexpr, EDGES: tl.constexpr, PACKED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    d = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    column = tl.arange(0, WIDTH)
    n = block * WIDTH + column
    IM: tl.constexpr = ROWS * WIDTH
    decay = decays + tl.program_id(0).to(tl.int64) * (2 * WIDTH) + column
    ar = tl.load(decay)
    ai = tl.load(decay + WIDTH)
    cr, ci = load_complex(c, d, n, pairs)
    sum_r = tl.zeros([WIDTH], tl.float32)
    sum_i = tl.zeros([WIDTH], tl.float32)
    end_r = tl.zeros([WIDTH], tl.float32)
    end_i = tl.zeros([WIDTH], tl.float32)
    start = tl.program_id(1) * group
    for sequence in range(start, tl.minimum(start + group, sequences)):
        first, last = rows_of_sequence(sequence, first_rows, rows_of_each, PACKED)
        state = (tl.cast(sequence, tl.int64) * channels + d) * pairs + n
        hr = tl.zeros([WIDTH], tl.float32)  # of the outputs, 2 c = 1
        hi = tl.zeros([WIDTH], tl.float32)
        mr = tl.zeros([WIDTH], tl.float32)  # its derivative by log a
        mi = tl.zeros([WIDTH], tl.float32)
        pr = tl.zeros([WIDTH], tl.float32)  # of the final state
        pi = tl.zeros([WIDTH], tl.float32)
        if HAS_D_FINAL:
            pr = tl.load(d_final + state * 2, mask=n < pairs, other=0.0)
            pi = tl.load(d_final + state * 2 + 1, mask=n < pairs, other=0.0)
            place = place_of_row(last - 1, d, block, channels, blocks, ROWS, WIDTH) + column
            xr, xi = times(tl.load(finals + place), tl.load(finals + place + IM), pr, pi)
            end_r += xr
            end_i += xi
        for row0 in range(0, last - first, AHEAD):
            local_r = ()
            local_i = ()
            slope_r = ()
            slope_i = ()
            for k in tl.static_range(AHEAD):
                row = last - 1 - row0 - k
                there = (column < WIDTH) & (row >= first)
                # What leaves the first row is none of this walk's: its beginning is ragged.
                passed = (column < WIDTH) & (row > first)
                place = place_of_row(row, d, block, channels, blocks, ROWS, WIDTH) + column
                local_r = local_r + (tl.load(ends + place, mask=passed, other=0.0),)
                local_i = local_i + (tl.load(ends + place + IM, mask=passed, other=0.0),)
                slope_r = slope_r + (tl.load(slopes + place, mask=there, other=0.0),)
                slope_i = slope_i + (tl.load(slopes + place + IM, mask=there, other=0.0),)
            for k in tl.static_range(AHEAD):
                row = last - 1 - row0 - k
                there = (column < WIDTH) & (row >= first)
                passed = (column < WIDTH) & (row > first)
                place = place_of_row(row, d, block, channels, blocks, ROWS, WIDTH) + column
                xr, xi = times(hr, hi, 2 * cr, 2 * ci)
                xr += pr
                xi += pi
                tl.store(entering + place, xr, mask=there)
                tl.store(entering + place + IM, xi, mask=there)
                xr, xi = times(xr, xi, slope_r[k], slope_i[k])
                sum_r += xr
                sum_i += xi
                if EDGES:
                    moment_r = tl.load(moments + place, mask=passed, other=0.0)
                    moment_i = tl.load(moments + place + IM, mask=passed, other=0.0)
                    xr, xi = times(mr + segment * hr, mi + segment * hi, ar, ai)
                    mr = tl.where(passed, xr + moment_r, mr)
                    mi = tl.where(passed, xi + moment_i, mi)
                xr, xi = times(hr, hi, ar, ai)
                hr = tl.where(passed, xr + local_r[k], hr)
                hi = tl.where(passed, xi + local_i[k], hi)
                xr, xi = times(pr, pi, ar, ai)
                pr = tl.where(passed, xr, pr)
                pi = tl.where(passed, xi, pi)
        if EDGES:
            tl.store(edges + state * 6, hr, mask=n < pairs)
            tl.store(edges + state * 6 + 1, hi, mask=n < pairs)
            tl.store(edges + state * 6 + 2, mr, mask=n < pairs)
            tl.store(edges + state * 6 + 3, mi, mask=n < pairs)
            tl.store(edges + state * 6 + 4, pr, mask=n < pairs)
            tl.store(edges + state * 6 + 5, pi, mask=n < pairs)
    out = sums + ((tl.program_id(1).to(tl.int64) * channels + d) * blocks + block) * (4 * WIDTH) + column
    tl.store(out, sum_r)
    tl.store(out + WIDTH, sum_i)
    tl.store(out + 2 * WIDTH, end_r)
    tl.store(out + 3 * WIDTH, end_i)
