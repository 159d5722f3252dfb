"""Outputs of all rows from the states that enter them; the gradient of u is the same kernel run from the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import ROWS, Plan
from ssmbio.kernels.lti_scan.triton_products import (
    advance,
    data_product,
    data_terms,
    load_complex,
    operand_order,
    power_table,
    split,
    state_product,
    times,
)

STAGES = 3  # turns loaded ahead, less one


def scan_tiles(
    x: Tensor, entering: Tensor, taps: Tensor, powers: Tensor, b: Tensor, c: Tensor, plan: Plan, backwards: bool
) -> Tensor:
    """Tiles of the outputs; they take the place of `x` where one program holds all pairs, and are float32 otherwise."""
    steps = x.shape[-1]
    y = x if plan.blocks == 1 else torch.empty_like(x, dtype=torch.float32)
    for block in range(plan.blocks):
        lti_scan_tiles_kernel[(plan.channels * plan.row_blocks,)](
            x, y, taps, powers, torch.view_as_real(b), torch.view_as_real(c), entering,
            plan.channels, plan.pairs, plan.blocks, block, plan.segment // steps,
            BACKWARDS=backwards, FIRST=block == 0, WIDE=x.dtype == torch.float32, EMULATED=x.device.type == "cpu",
            ROWS=ROWS, STEPS=steps, WIDTH=plan.width, num_warps=4, num_stages=STAGES,
        )  # fmt: skip
    return y


@triton.jit(do_not_specialize=["block"])
def lti_scan_tiles_kernel(
    x, y, taps, powers, b, c, entering,
    channels, pairs, blocks, block, turns,
    BACKWARDS: tl.constexpr, FIRST: tl.constexpr, WIDE: tl.constexpr, EMULATED: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """With h the state that enters a turn, of positions i = 0 … T - 1, and K the taps, forward

        y_i = Σ_j K_(i-j) u_j + Re Σ_n 2c a^(i+1) h,   h ← a^T h + Σ_j b a^(T-1-j) u_j,

    and backward, from dy with h the adjoint of the state that leaves the turn,

        du_j = Σ_i K_(i-j) dy_i + Re Σ_n b a^(T-1-j) h,   h ← a^T h + Σ_i 2c a^(i+1) dy_i.
    """
    pid = tl.program_id(0).to(tl.int64)
    d = pid % channels
    x += pid * turns * (ROWS * STEPS)
    y += pid * turns * (ROWS * STEPS)
    place = tl.arange(0, ROWS)[:, None] * STEPS + tl.arange(0, STEPS)[None, :]

    down = tl.arange(0, STEPS)[:, None]
    across = tl.arange(0, STEPS)[None, :]
    lag = down - across if BACKWARDS else across - down
    toeplitz, toeplitz_low = split(tl.load(taps + d * STEPS + lag, mask=lag >= 0, other=0.0), WIDE)

    column = tl.arange(0, WIDTH)
    sr, si = load_complex(c if BACKWARDS else b, d, block * WIDTH + column, pairs)
    sr *= 2 if BACKWARDS else 1
    si *= 2 if BACKWARDS else 1
    re, im = power_table(powers, down + 1 if BACKWARDS else STEPS - 1 - down, column[None, :], d, block, blocks,
                         STEPS, WIDTH)  # fmt: skip
    re, im = times(re, im, sr[None, :], si[None, :])
    into_re, into_re_low = split(re, WIDE)
    into_im, into_im_low = split(im, WIDE)
    order = operand_order(column, WIDE)
    sr, si = load_complex(b if BACKWARDS else c, d, block * WIDTH + order, pairs)
    sr *= 1 if BACKWARDS else 2
    si *= 1 if BACKWARDS else 2
    re, im = power_table(powers, STEPS - 1 - across if BACKWARDS else across + 1, order[:, None], d, block, blocks,
                         STEPS, WIDTH)  # fmt: skip
    re, im = times(re, im, sr[:, None], si[:, None])
    out_re, out_re_low = split(re, WIDE)
    out_im, out_im_low = split(-im, WIDE)
    ar, ai = power_table(powers, STEPS, column[None, :], d, block, blocks, STEPS, WIDTH)

    state = entering + (pid * blocks + block) * (2 * ROWS * WIDTH)
    state += tl.arange(0, ROWS)[:, None] * WIDTH + column[None, :]
    hr = tl.load(state)
    hi = tl.load(state + ROWS * WIDTH)
    for turn in range(0, turns):
        tile = (turns - 1 - turn if BACKWARDS else turn) * (ROWS * STEPS)
        data, data_low = data_terms(tl.load(x + tile + place), WIDE)
        if FIRST:
            out = tl.zeros([ROWS, STEPS], tl.float32)
            out = data_product(data, data_low, toeplitz, toeplitz_low, out, WIDE, EMULATED)
        else:
            out = tl.load(y + tile + place)
        out = state_product(hr, out_re, out_re_low, out, WIDE, EMULATED)
        out = state_product(hi, out_im, out_im_low, out, WIDE, EMULATED)
        zero = tl.zeros([ROWS, WIDTH], tl.float32)
        pr = data_product(data, data_low, into_re, into_re_low, zero, WIDE, EMULATED)
        pi = data_product(data, data_low, into_im, into_im_low, zero, WIDE, EMULATED)
        hr, hi = advance(hr, hi, ar, ai, pr, pi)
        tl.store(y + tile + place, out.to(y.dtype.element_ty))
