"""What the kernels need of each channel: powers of a = exp(log_a), and the first taps of the convolution."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import Plan


def make_tables(
    log_a: Tensor, b: Tensor, c: Tensor, D: Tensor | None, plan: Plan, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """taps (D, steps); powers a^0 to a^steps (D, blocks, 2, steps + 1, width); decays a^segment (D, blocks, 2, width).

    float32, computed in float64: a power as exp(k log_a) in float32 would lose digits of its phase. D is in tap 0.
    """
    taps = _buffer(log_a, plan.channels, steps)
    powers = _buffer(log_a, plan.channels, plan.blocks, 2, steps + 1, plan.width)
    decays = _buffer(log_a, plan.channels, plan.blocks, 2, plan.width)
    lti_scan_tables_kernel[(plan.channels,)](
        *(torch.view_as_real(x) for x in (log_a, b, c)), D, taps, powers, decays,
        plan.pairs, plan.segment, plan.blocks,
        HAS_D=D is not None, STEPS=steps, BITS=steps.bit_length() - 1, WIDTH=plan.width, num_warps=4,
    )  # fmt: skip
    return taps, powers, decays


def _buffer(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


@triton.jit
def pick(x, row, WHICH: tl.constexpr):
    """One row of a small tile (rows, WIDTH)."""
    return tl.sum(tl.where(row == WHICH, x, 0.0), axis=0)[None, :]


@triton.jit
def lti_scan_tables_kernel(
    log_a, b, c, D, taps, powers, decays,
    pairs, segment, blocks,
    HAS_D: tl.constexpr, STEPS: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    d = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, STEPS)[:, None]
    row = tl.arange(0, 4)[:, None]
    sums = tl.zeros([STEPS], tl.float64)
    for block in range(0, blocks):
        n = block * WIDTH + tl.arange(0, WIDTH)[None, :]
        known = n < pairs
        place = (d * pairs + n) * 2
        rate = tl.load(log_a + place, mask=known, other=0.0).to(tl.float64)
        angle = tl.load(log_a + place + 1, mask=known, other=0.0).to(tl.float64)
        # a, a^steps and a^segment as the rows of one tile, so that exp, cos and sin are compiled in once
        exponent = tl.where(row == 0, 1, tl.where(row == 1, STEPS, tl.where(row == 2, segment, 0))).to(tl.float64)
        size = tl.where(known, tl.exp(exponent * rate), 0.0)
        re = size * tl.cos(exponent * angle)
        im = size * tl.sin(exponent * angle)

        # a^k by squaring; zero for pairs that are none
        pr = tl.where(known & (k >= 0), 1.0, 0.0).to(tl.float64)
        pi = tl.zeros([STEPS, WIDTH], tl.float64)
        sr = pick(re, row, 0)
        si = pick(im, row, 0)
        for bit in tl.static_range(BITS):
            chosen = (k >> bit) % 2 == 1
            qr = pr * sr - pi * si
            qi = pr * si + pi * sr
            pr = tl.where(chosen, qr, pr)
            pi = tl.where(chosen, qi, pi)
            square = sr * sr - si * si
            si = 2 * sr * si
            sr = square
        column = tl.arange(0, WIDTH)[None, :]
        out = powers + (d * blocks + block) * (2 * (STEPS + 1) * WIDTH) + column
        tl.store(out + k * WIDTH, pr.to(tl.float32))
        tl.store(out + (STEPS + 1 + k) * WIDTH, pi.to(tl.float32))
        tl.store(out + STEPS * WIDTH, pick(re, row, 1).to(tl.float32))
        tl.store(out + (STEPS + 1 + STEPS) * WIDTH, pick(im, row, 1).to(tl.float32))
        out = decays + (d * blocks + block) * (2 * WIDTH) + column
        tl.store(out, pick(re, row, 2).to(tl.float32))
        tl.store(out + WIDTH, pick(im, row, 2).to(tl.float32))

        br = tl.load(b + place, mask=known, other=0.0).to(tl.float64)
        bi = tl.load(b + place + 1, mask=known, other=0.0).to(tl.float64)
        cr = tl.load(c + place, mask=known, other=0.0).to(tl.float64)
        ci = tl.load(c + place + 1, mask=known, other=0.0).to(tl.float64)
        sums += tl.sum(2 * ((br * cr - bi * ci) * pr - (br * ci + bi * cr) * pi), axis=1)
    tap = tl.arange(0, STEPS)
    if HAS_D:
        sums += tl.where(tap == 0, tl.load(D + d).to(tl.float64), 0.0)
    tl.store(taps + d * STEPS + tap, sums.to(tl.float32))
