"""The state at the end of every row from zero at its start; or the adjoint at its start from zero at its end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import ROWS, Plan
from ssmbio.kernels.lti_scan.triton_products import advance, data_product, data_terms, power_table, split

STAGES = 4  # turns loaded ahead, less one


def row_ends(tiles: Tensor, powers: Tensor, plan: Plan, backwards: bool, moment: bool = False) -> list[Tensor]:
    """Σ_q a^(segment-1-q) u_q of each row, or backwards Σ_q a^(q+1) dy_q, and with `moment` Σ_q (q+1) a^(q+1) dy_q."""
    ends = [powers.new_empty(plan.state_shape()) for _ in range(1 + moment)]
    steps = tiles.shape[-1]
    lti_scan_row_kernel[(plan.channels * plan.blocks * plan.row_blocks,)](
        tiles, powers, ends[0], ends[-1],
        plan.channels, plan.blocks, plan.segment // steps,
        BACKWARDS=backwards, MOMENT=moment, WIDE=tiles.dtype == torch.float32, EMULATED=tiles.device.type == "cpu",
        ROWS=ROWS, STEPS=steps, WIDTH=plan.width, num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    return ends


@triton.jit
def lti_scan_row_kernel(
    x, powers, ends, moments,
    channels, blocks, turns,
    BACKWARDS: tl.constexpr, MOMENT: tl.constexpr, WIDE: tl.constexpr, EMULATED: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    block = pid % blocks
    d = pid // blocks % channels
    x += pid // blocks * turns * (ROWS * STEPS)
    place = tl.arange(0, ROWS)[:, None] * STEPS + tl.arange(0, STEPS)[None, :]
    j = tl.arange(0, STEPS)[:, None]
    n = tl.arange(0, WIDTH)[None, :]
    exponent = j + 1 if BACKWARDS else STEPS - 1 - j
    re, im = power_table(powers, exponent, n, d, block, blocks, STEPS, WIDTH)
    re_high, re_low = split(re, WIDE)
    im_high, im_low = split(im, WIDE)
    if MOMENT:
        re1_high, re1_low = split(re * exponent, WIDE)
        im1_high, im1_low = split(im * exponent, WIDE)
    ar, ai = power_table(powers, STEPS, n, d, block, blocks, STEPS, WIDTH)
    hr = tl.zeros([ROWS, WIDTH], tl.float32)
    hi = tl.zeros([ROWS, WIDTH], tl.float32)
    mr = tl.zeros([ROWS, WIDTH], tl.float32)
    mi = tl.zeros([ROWS, WIDTH], tl.float32)
    for turn in range(0, turns):
        tile = turns - 1 - turn if BACKWARDS else turn
        data, data_low = data_terms(tl.load(x + tile * (ROWS * STEPS) + place), WIDE)
        zero = tl.zeros([ROWS, WIDTH], tl.float32)
        if MOMENT:
            pr = data_product(data, data_low, re1_high, re1_low, zero, WIDE, EMULATED)
            pi = data_product(data, data_low, im1_high, im1_low, zero, WIDE, EMULATED)
            mr, mi = advance(mr + STEPS * hr, mi + STEPS * hi, ar, ai, pr, pi)
        pr = data_product(data, data_low, re_high, re_low, zero, WIDE, EMULATED)
        pi = data_product(data, data_low, im_high, im_low, zero, WIDE, EMULATED)
        hr, hi = advance(hr, hi, ar, ai, pr, pi)
    out = pid * (2 * ROWS * WIDTH) + tl.arange(0, ROWS)[:, None] * WIDTH + n
    tl.store(ends + out, hr)
    tl.store(ends + out + ROWS * WIDTH, hi)
    if MOMENT:
        tl.store(moments + out, mr)
        tl.store(moments + out + ROWS * WIDTH, mi)
