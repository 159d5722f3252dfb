"""What an initial state does in the first row of its sequence, where it enters behind zeros (`triton_plan.py`).

Kernels of plain sums, one program a sequence and channel; they run only where there is an initial state.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_carry import rows_of_sequence
from ssmbio.kernels.lti_scan.triton_plan import ROWS, Places, Plan
from ssmbio.kernels.lti_scan.triton_products import load_complex, power_table, times


def add_initial_outputs(
    y: Tensor, initial: Tensor, sizes: Tensor, powers: Tensor, c: Tensor, plan: Plan, places: Places
) -> None:
    """Adds 2 Re Σ_n c a^(p+1) h_0 to positions p < `sizes` of each sequence, in its first row of the tiles y."""
    steps = y.shape[-1]
    for block in range(plan.blocks):
        lti_scan_head_kernel[(plan.channels * plan.sequences,)](
            y, torch.view_as_real(initial), sizes, powers, torch.view_as_real(c), places.first_rows,
            plan.channels, plan.pairs, plan.blocks, block, plan.rows_of_each, plan.segment,
            PACKED=plan.packed, ROWS=ROWS, STEPS=steps, WIDTH=plan.width, num_warps=4,
        )  # fmt: skip


def first_row_moments(dy: Tensor, sizes: Tensor, powers: Tensor, plan: Plan, places: Places) -> tuple[Tensor, Tensor]:
    """Σ_p a^(p+1) dy_p and Σ_p (p+1) a^(p+1) dy_p over the first row of each sequence, (S, D, N) complex."""
    out = torch.empty(
        plan.sequences, plan.channels, plan.pairs, 2, dtype=torch.complex64, device=dy.device
    )  # fmt: skip
    lti_scan_head_back_kernel[(plan.channels * plan.sequences, plan.blocks)](
        dy, sizes, powers, places.first_rows, torch.view_as_real(out),
        plan.channels, plan.pairs, plan.blocks, plan.rows_of_each, plan.segment,
        PACKED=plan.packed, ROWS=ROWS, STEPS=dy.shape[-1], WIDTH=plan.width, num_warps=4,
    )  # fmt: skip
    return out[..., 0], out[..., 1]


@triton.jit
def place_in_tiles(row, q, d, channels, segment, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Offset of position q of a row."""
    tile = (tl.cast(row // ROWS, tl.int64) * channels + d) * (segment // STEPS) + q // STEPS
    return tile * (ROWS * STEPS) + (row % ROWS) * STEPS + q % STEPS


@triton.jit
def lti_scan_head_kernel(
    y, initial, sizes, powers, c, first_rows,
    channels, pairs, blocks, block, rows_of_each, segment,
    PACKED: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    d = (tl.program_id(0) % channels).to(tl.int64)
    sequence = tl.program_id(0) // channels
    row, _ = rows_of_sequence(sequence, first_rows, rows_of_each, PACKED)
    size = tl.load(sizes + sequence).to(tl.int32)
    column = tl.arange(0, WIDTH)
    n = block * WIDTH + column
    i = tl.arange(0, STEPS)
    hr, hi = load_complex(initial, tl.cast(sequence, tl.int64) * channels + d, n, pairs)
    cr, ci = load_complex(c, d, n, pairs)
    hr, hi = times(hr, hi, 2 * cr, 2 * ci)
    re, im = power_table(powers, i[:, None] + 1, column[None, :], d, block, blocks, STEPS, WIDTH)
    ar, ai = power_table(powers, STEPS, column, d, block, blocks, STEPS, WIDTH)
    for p0 in range(0, size, STEPS):
        q = segment - size + p0 + i
        place = y + place_in_tiles(row, q, d, channels, segment, ROWS, STEPS)
        there = p0 + i < size
        out = tl.sum(re * hr[None, :] - im * hi[None, :], axis=1)
        out += tl.load(place, mask=there, other=0.0).to(tl.float32)
        tl.store(place, out.to(y.dtype.element_ty), mask=there)
        hr, hi = times(hr, hi, ar, ai)


@triton.jit
def lti_scan_head_back_kernel(
    dy, sizes, powers, first_rows, out,
    channels, pairs, blocks, rows_of_each, segment,
    PACKED: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    d = (tl.program_id(0) % channels).to(tl.int64)
    sequence = tl.program_id(0) // channels
    block = tl.program_id(1)
    row, _ = rows_of_sequence(sequence, first_rows, rows_of_each, PACKED)
    size = tl.load(sizes + sequence).to(tl.int32)
    column = tl.arange(0, WIDTH)
    n = block * WIDTH + column
    i = tl.arange(0, STEPS)
    re, im = power_table(powers, i[:, None] + 1, column[None, :], d, block, blocks, STEPS, WIDTH)
    ar, ai = power_table(powers, STEPS, column, d, block, blocks, STEPS, WIDTH)
    pr = tl.full([WIDTH], 1.0, tl.float32)  # a^p0
    pi = tl.zeros([WIDTH], tl.float32)
    sum_r = tl.zeros([WIDTH], tl.float32)
    sum_i = tl.zeros([WIDTH], tl.float32)
    moment_r = tl.zeros([WIDTH], tl.float32)
    moment_i = tl.zeros([WIDTH], tl.float32)
    for p0 in range(0, size, STEPS):
        q = segment - size + p0 + i
        place = dy + place_in_tiles(row, q, d, channels, segment, ROWS, STEPS)
        g = tl.expand_dims(tl.load(place, mask=p0 + i < size, other=0.0).to(tl.float32), 1)
        xr, xi = times(tl.sum(g * re, axis=0), tl.sum(g * im, axis=0), pr, pi)
        sum_r += xr
        sum_i += xi
        g *= (p0 + 1 + i)[:, None]
        xr, xi = times(tl.sum(g * re, axis=0), tl.sum(g * im, axis=0), pr, pi)
        moment_r += xr
        moment_i += xi
        pr, pi = times(pr, pi, ar, ai)
    place = out + ((tl.cast(sequence, tl.int64) * channels + d) * pairs + n) * 4
    tl.store(place, sum_r, mask=n < pairs)
    tl.store(place + 1, sum_i, mask=n < pairs)
    tl.store(place + 2, moment_r, mask=n < pairs)
    tl.store(place + 3, moment_i, mask=n < pairs)
