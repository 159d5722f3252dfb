"""Σ dy_t u_s over all turns; for float32 a kernel of its own: beside the moments its operands would not fit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.lti_scan.triton_plan import ROWS, Plan
from ssmbio.kernels.lti_scan.triton_products import add_rounded, data_terms, product

STAGES = 3  # turns loaded ahead, less one


def lag_sums(dy: Tensor, u: Tensor, plan: Plan) -> Tensor:
    """(row blocks, D, steps, steps) float32, with dy_t u_s at [t, t - s]; the part t < s is not written."""
    steps = u.shape[-1]
    lags = torch.empty(plan.row_blocks, plan.channels, steps, steps, dtype=torch.float32, device=u.device)
    lti_scan_lags_kernel[(plan.channels * plan.row_blocks,)](
        dy, u, lags, plan.segment // steps,
        WIDE=u.dtype == torch.float32, EMULATED=u.device.type == "cpu", ROWS=ROWS, STEPS=steps,
        num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    return lags


@triton.jit
def lti_scan_lags_kernel(
    dy, u, lags, turns,
    WIDE: tl.constexpr, EMULATED: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    u += pid * turns * (ROWS * STEPS)
    dy += pid * turns * (ROWS * STEPS)
    place = tl.arange(0, ROWS)[:, None] * STEPS + tl.arange(0, STEPS)[None, :]
    lag = tl.zeros([STEPS, STEPS], tl.float32)
    for turn in range(0, turns):
        g = tl.load(dy + turn * (ROWS * STEPS) + place)
        x = tl.load(u + turn * (ROWS * STEPS) + place)
        lag = lag_product(g, x, lag, WIDE, EMULATED)
    store_lags(lags + pid * (STEPS * STEPS), lag, STEPS)


@triton.jit
def lag_product(g, x, lag, WIDE: tl.constexpr, EMULATED: tl.constexpr):
    """lag + gᵀ x, both data; `lag` grows over all turns, and is no accumulator of the tensor cores."""
    total = tl.zeros(lag.shape, tl.float32)
    g, g_low = data_terms(g, WIDE)
    x, x_low = data_terms(x, WIDE)
    if WIDE:
        total = product(tl.trans(g), x_low, total, WIDE, EMULATED)
        total = product(tl.trans(g_low), x, total, WIDE, EMULATED)
    return add_rounded(lag, product(tl.trans(g), x, total, WIDE, EMULATED))


@triton.jit
def store_lags(pointer, lag, STEPS: tl.constexpr):
    t = tl.arange(0, STEPS)[:, None]
    s = tl.arange(0, STEPS)[None, :]
    tl.store(pointer + t * STEPS + t - s, lag, mask=t >= s)
