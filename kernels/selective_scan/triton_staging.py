"""B and C in the kernels' own layout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.launches import Launch
from ssmbio.kernels.selective_scan.triton_plan import Plan


def stage_rows(launch: Launch, B: Tensor, C: Tensor, plan: Plan, reverse: bool) -> Tensor:
    """B and C (B, L, G, N) as float32 (B, G, padded length, 2, padded N) in the order of the scan, zeros elsewhere."""
    shape = (plan.batch, plan.groups, plan.padded_length, 2, plan.padded_states)
    out = torch.empty(shape, dtype=torch.float32, device=B.device)
    block = 64
    grid = (plan.batch * plan.groups * triton.cdiv(plan.padded_length, block),)
    launch(
        selective_scan_stage_kernel, grid,
        B, C, out,
        plan.length, plan.padded_length, plan.groups, plan.states,
        B.stride(0), B.stride(1), B.stride(2), C.stride(0), C.stride(1), C.stride(2),
        REVERSE=reverse, NP=plan.padded_states, BLOCK=block,
    )  # fmt: skip
    return out


@triton.jit
def selective_scan_stage_kernel(
    B, C, out,
    length, padded_length, groups, states,
    stride_bb, stride_bl, stride_bg, stride_cb, stride_cl, stride_cg,
    REVERSE: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(padded_length, BLOCK)
    pid = tl.program_id(0)
    bg = (pid // blocks).to(tl.int64)
    s = (pid % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    n = tl.arange(0, NP)[None, :]
    t = length - 1 - s if REVERSE else s
    known = (s < length) & (n < states)
    b = tl.load(B + (bg // groups) * stride_bb + (bg % groups) * stride_bg + t * stride_bl + n, mask=known, other=0.0)
    c = tl.load(C + (bg // groups) * stride_cb + (bg % groups) * stride_cg + t * stride_cl + n, mask=known, other=0.0)
    place = out + (bg * padded_length + s) * (2 * NP) + n
    tl.store(place, b.to(tl.float32), mask=s < padded_length)
    tl.store(place + NP, c.to(tl.float32), mask=s < padded_length)
