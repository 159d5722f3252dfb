"""Gradients of the parameters: sums over all pairs of positions s <= t, taken turn by turn.

With dy the gradient of the outputs, all three gradients follow from two numbers a channel and pair,

    X = Σ_(s<=t) a^(t-s) dy_t u_s,   Y = Σ_(s<=t) (t - s) a^(t-s) dy_t u_s.

Pairs in one turn of T positions: g_k = Σ dy_t u_(t-k), k < T, is the sum of a diagonal of dyᵀ u, one (T, T) product
summed over all turns and rows, and gives Σ_k g_k a^k and Σ_k k g_k a^k. (g_0 is the gradient of D.) Pairs over turns:
with h the state that enters a turn, for b = 1, and h' its derivative by log a,

    q = Σ_i a^(i+1) dy_i,  q' = Σ_i (i+1) a^(i+1) dy_i,   X += q h,   Y += q h' + q' h,
    h' ← a^T (h' + T h) + Σ_j (T-1-j) a^(T-1-j) u_j,   h ← a^T h + Σ_j a^(T-1-j) u_j:

products with matrices shared by all turns, and sums of elementwise products that stay in registers. A program knows
the h that enters its rows but begins with h' = 0, so of a lag over rows it counts only what lies in the row of t. The
rest, for every end of a row between s and t, is h' there times the adjoint there, which `triton_carry.py` sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_lags import lag_product, lag_sums, store_lags
from ssmbio.kernels.lti_scan.triton_plan import ROWS, Plan
from ssmbio.kernels.lti_scan.triton_products import (
    advance,
    data_product,
    data_terms,
    load_complex,
    power_table,
    split,
    times,
)

STAGES = 2  # turns loaded ahead, less one: with three, one program would fill the shared memory


def moments(
    dy: Tensor, u: Tensor, bare: Tensor, powers: Tensor, plan: Plan, with_finals: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(sums (row blocks, D, blocks, 4, width), lags (row blocks, D, steps, steps), h' and h at the ends of rows).

    `lags` as `lag_sums` has them.
    """
    steps = u.shape[-1]
    sums = powers.new_empty(plan.row_blocks, plan.channels, plan.blocks, 4, plan.width)
    wide = u.dtype == torch.float32
    lags = lag_sums(dy, u, plan) if wide else powers.new_empty(plan.row_blocks, plan.channels, steps, steps)
    slopes = powers.new_empty(plan.state_shape())
    finals = powers.new_empty(plan.state_shape()) if with_finals else None
    for block in range(plan.blocks):
        lti_scan_moments_kernel[(plan.channels * plan.row_blocks,)](
            dy, u, bare, powers, sums, lags, slopes, finals,
            plan.channels, plan.blocks, block, plan.segment // steps,
            LAGS=block == 0 and not wide, FINALS=with_finals, WIDE=wide, EMULATED=u.device.type == "cpu",
            ROWS=ROWS, STEPS=steps, WIDTH=plan.width, num_warps=4, num_stages=STAGES,
        )  # fmt: skip
    return sums, lags, slopes, finals


def parameter_gradients(
    sums: Tensor, lags: Tensor, row_sums: Tensor, powers: Tensor, b: Tensor, c: Tensor, has_D: bool, plan: Plan
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(dlog_a, db, dc, dD) from the partial sums, in one fixed order."""
    grads = [torch.empty_like(b) for _ in range(3)]
    dD = powers.new_empty(plan.channels) if has_D else None
    lti_scan_gradients_kernel[(plan.channels * plan.blocks,)](
        sums, lags, row_sums, powers, torch.view_as_real(b), torch.view_as_real(c),
        *(torch.view_as_real(grad) for grad in grads), dD,
        plan.channels, plan.pairs, plan.blocks, plan.row_blocks, row_sums.shape[0],
        HAS_D=has_D, STEPS=lags.shape[-1], WIDTH=plan.width, num_warps=4,
    )  # fmt: skip
    return grads[0], grads[1], grads[2], dD


@triton.jit
def fold(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of rows 8 apart, which one thread holds: half the registers for what is summed over rows in the end."""
    return tl.sum(tl.reshape(x, [ROWS // 16, 2, 8, WIDTH]), axis=1)


@triton.jit(do_not_specialize=["block"])
def lti_scan_moments_kernel(
    dy, u, bare, powers, sums, lags, slopes, finals,
    channels, blocks, block, turns,
    LAGS: tl.constexpr, FINALS: tl.constexpr, WIDE: tl.constexpr, EMULATED: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    d = pid % channels
    u += pid * turns * (ROWS * STEPS)
    dy += pid * turns * (ROWS * STEPS)
    place = tl.arange(0, ROWS)[:, None] * STEPS + tl.arange(0, STEPS)[None, :]
    i = tl.arange(0, STEPS)[:, None]
    n = tl.arange(0, WIDTH)[None, :]
    re, im = power_table(powers, i + 1, n, d, block, blocks, STEPS, WIDTH)
    q_re, q_re_low = split(re, WIDE)
    q_im, q_im_low = split(im, WIDE)
    q1_re, q1_re_low = split(re * (i + 1), WIDE)
    q1_im, q1_im_low = split(im * (i + 1), WIDE)
    re, im = power_table(powers, STEPS - 1 - i, n, d, block, blocks, STEPS, WIDTH)
    s_re, s_re_low = split(re, WIDE)
    s_im, s_im_low = split(im, WIDE)
    s1_re, s1_re_low = split(re * (STEPS - 1 - i), WIDE)
    s1_im, s1_im_low = split(im * (STEPS - 1 - i), WIDE)
    ar, ai = power_table(powers, STEPS, n, d, block, blocks, STEPS, WIDTH)

    state = (pid * blocks + block) * (2 * ROWS * WIDTH) + tl.arange(0, ROWS)[:, None] * WIDTH + n
    hr = tl.load(bare + state)
    hi = tl.load(bare + state + ROWS * WIDTH)
    mr = tl.zeros([ROWS, WIDTH], tl.float32)  # h'
    mi = tl.zeros([ROWS, WIDTH], tl.float32)
    xr = tl.zeros([ROWS // 16, 8, WIDTH], tl.float32)
    xi = tl.zeros([ROWS // 16, 8, WIDTH], tl.float32)
    yr = tl.zeros([ROWS // 16, 8, WIDTH], tl.float32)
    yi = tl.zeros([ROWS // 16, 8, WIDTH], tl.float32)
    lag = tl.zeros([STEPS, STEPS], tl.float32)
    for turn in range(0, turns):
        g, g_low = data_terms(tl.load(dy + turn * (ROWS * STEPS) + place), WIDE)
        x, x_low = data_terms(tl.load(u + turn * (ROWS * STEPS) + place), WIDE)
        if LAGS:
            lag = lag_product(g, x, lag, WIDE, EMULATED)
        zero = tl.zeros([ROWS, WIDTH], tl.float32)
        # One real factor at a time: the registers of a thread are nearly all in use.
        q = data_product(g, g_low, q_re, q_re_low, zero, WIDE, EMULATED)
        xr += fold(q * hr, ROWS, WIDTH)
        xi += fold(q * hi, ROWS, WIDTH)
        yr += fold(q * mr, ROWS, WIDTH)
        yi += fold(q * mi, ROWS, WIDTH)
        q = data_product(g, g_low, q_im, q_im_low, zero, WIDE, EMULATED)
        xr -= fold(q * hi, ROWS, WIDTH)
        xi += fold(q * hr, ROWS, WIDTH)
        yr -= fold(q * mi, ROWS, WIDTH)
        yi += fold(q * mr, ROWS, WIDTH)
        q = data_product(g, g_low, q1_re, q1_re_low, zero, WIDE, EMULATED)
        yr += fold(q * hr, ROWS, WIDTH)
        yi += fold(q * hi, ROWS, WIDTH)
        q = data_product(g, g_low, q1_im, q1_im_low, zero, WIDE, EMULATED)
        yr -= fold(q * hi, ROWS, WIDTH)
        yi += fold(q * hr, ROWS, WIDTH)
        pr = data_product(x, x_low, s1_re, s1_re_low, zero, WIDE, EMULATED)
        pi = data_product(x, x_low, s1_im, s1_im_low, zero, WIDE, EMULATED)
        mr, mi = advance(mr + STEPS * hr, mi + STEPS * hi, ar, ai, pr, pi)
        pr = data_product(x, x_low, s_re, s_re_low, zero, WIDE, EMULATED)
        pi = data_product(x, x_low, s_im, s_im_low, zero, WIDE, EMULATED)
        hr, hi = advance(hr, hi, ar, ai, pr, pi)

    tl.store(slopes + state, mr)
    tl.store(slopes + state + ROWS * WIDTH, mi)
    if FINALS:
        tl.store(finals + state, hr)
        tl.store(finals + state + ROWS * WIDTH, hi)
    out = sums + (pid * blocks + block) * (4 * WIDTH) + tl.arange(0, WIDTH)
    tl.store(out, tl.sum(tl.sum(xr, axis=0), axis=0))
    tl.store(out + WIDTH, tl.sum(tl.sum(xi, axis=0), axis=0))
    tl.store(out + 2 * WIDTH, tl.sum(tl.sum(yr, axis=0), axis=0))
    tl.store(out + 3 * WIDTH, tl.sum(tl.sum(yi, axis=0), axis=0))
    if LAGS:
        store_lags(lags + pid * (STEPS * STEPS), lag, STEPS)


@triton.jit
def lti_scan_gradients_kernel(
    sums, lags, row_sums, powers, b, c,
    dlog_a, db, dc, dD,
    channels, pairs, blocks, row_blocks, groups,
    HAS_D: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    d = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    column = tl.arange(0, WIDTH)
    n = block * WIDTH + column

    t = tl.arange(0, STEPS)[:, None]
    k = tl.arange(0, STEPS)[None, :]
    diagonals = tl.zeros([STEPS, STEPS], tl.float32)
    xr = tl.zeros([WIDTH], tl.float32)
    xi = tl.zeros([WIDTH], tl.float32)
    yr = tl.zeros([WIDTH], tl.float32)
    yi = tl.zeros([WIDTH], tl.float32)
    for row_block in range(0, row_blocks):
        place = row_block * channels + d
        diagonals += tl.load(lags + place * (STEPS * STEPS) + t * STEPS + k, mask=k <= t, other=0.0)
        place = sums + (place * blocks + block) * (4 * WIDTH) + column
        xr += tl.load(place)
        xi += tl.load(place + WIDTH)
        yr += tl.load(place + 2 * WIDTH)
        yi += tl.load(place + 3 * WIDTH)
    slope_r = tl.zeros([WIDTH], tl.float32)
    slope_i = tl.zeros([WIDTH], tl.float32)
    end_r = tl.zeros([WIDTH], tl.float32)
    end_i = tl.zeros([WIDTH], tl.float32)
    for part in range(0, groups):
        place = row_sums + ((part * channels + d) * blocks + block) * (4 * WIDTH) + column
        slope_r += tl.load(place)
        slope_i += tl.load(place + WIDTH)
        end_r += tl.load(place + 2 * WIDTH)
        end_i += tl.load(place + 3 * WIDTH)

    g = tl.sum(diagonals, axis=0)
    if HAS_D:  # noqa: SIM102 (a constant, apart from the other)
        if block == 0:
            tl.store(dD + d + 0 * tl.arange(0, STEPS), g, mask=tl.arange(0, STEPS) == 0)
    weight = tl.expand_dims(g, 1)
    re, im = power_table(powers, t, column[None, :], d, block, blocks, STEPS, WIDTH)
    xr += tl.sum(weight * re, axis=0)
    xi += tl.sum(weight * im, axis=0)
    yr += tl.sum(weight * t * re, axis=0)
    yi += tl.sum(weight * t * im, axis=0)

    # ∂/∂Re + i ∂/∂Im, torch's gradient of a complex number, is the conjugate of what the products give.
    br, bi = load_complex(b, d, n, pairs)
    cr, ci = load_complex(c, d, n, pairs)
    place = (d * pairs + n) * 2
    wr, wi = times(2 * cr, 2 * ci, xr, xi)
    tl.store(db + place, wr + end_r, mask=n < pairs)
    tl.store(db + place + 1, -(wi + end_i), mask=n < pairs)
    wr, wi = times(2 * br, 2 * bi, xr, xi)
    tl.store(dc + place, wr, mask=n < pairs)
    tl.store(dc + place + 1, -wi, mask=n < pairs)
    wr, wi = times(2 * cr, 2 * ci, yr, yi)
    wr, wi = times(wr + slope_r, wi + slope_i, br, bi)
    tl.store(dlog_a + place, wr, mask=n < pairs)
    tl.store(dlog_a + place + 1, -wi, mask=n < pairs)
