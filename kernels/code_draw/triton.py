"""Triton backend of `draw_codes`: a warp a row, so that nothing has to meet anywhere else."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.code_draw.reference import UNITS
from ssmbio.kernels.dispatch import on_its_device


@on_its_device
def draw(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[Tensor, Tensor]:
    """Codes (B,) int64 and bits (B,) float64, from the arguments of `draw_codes`; top_k 1 to V."""
    batch, levels = logits.shape
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    uniforms = uniforms.double()
    codes = torch.empty(batch, dtype=torch.int64, device=logits.device)
    bits = torch.empty(batch, dtype=torch.float64, device=logits.device)
    # A kernel is given numbers as float32; these are part of it, and so are exact.
    code_draw_kernel[(batch,)](
        logits, uniforms, codes, bits,
        logits.stride(0), uniforms.stride(0),
        LEVELS=levels, BLOCK=max(32, triton.next_power_of_2(levels)), UNITS=UNITS,
        TEMPERATURE=temperature, TOP_K=top_k, LEFT_OUT=1 - top_p, LEAST=min_p * UNITS,
        num_warps=1,
    )  # fmt: skip
    return codes, bits


@triton.jit
def code_draw_kernel(
    logits, uniforms, codes, bits,
    stride_logits, stride_uniforms,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, UNITS: tl.constexpr,
    TEMPERATURE: tl.constexpr, TOP_K: tl.constexpr, LEFT_OUT: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    x = tl.load(logits + row * stride_logits + lane, mask=lane < LEVELS, other=-float("inf")).to(tl.float64)
    most = tl.max(x)
    total_probability = tl.sum(tl.exp(x - most))
    if TEMPERATURE == 0:
        code = tl.argmax(x, axis=0)
    else:
        temperature = tl.full((), TEMPERATURE, tl.float64)
        counts = tl.floor(tl.exp(x / temperature - most / temperature) * UNITS + 0.5).to(tl.int64)
        if TOP_K < LEVELS or LEFT_OUT > 0:
            rising = tl.sort(counts)
            kept = tl.where(rising < tl.sum(tl.where(lane == BLOCK - TOP_K, rising, 0)), 0, rising)
            left_out = tl.full((), LEFT_OUT, tl.float64) * tl.sum(kept).to(tl.float64)
            out = (tl.cumsum(kept).to(tl.float64) <= left_out) & (lane < BLOCK - 1)  # the likeliest always stays
            # Back in the order of codes: out goes what counts less than `edge`, and of what counts just that the first.
            edge = tl.max(tl.where(out, rising, -1))
            at_edge = tl.sum((out & (rising == edge)).to(tl.int32))
            place = tl.cumsum((counts == edge).to(tl.int32))
            counts = tl.where((counts < edge) | ((counts == edge) & (place <= at_edge)), 0, counts)
        counts = tl.where(counts.to(tl.float64) < tl.full((), LEAST, tl.float64), 0, counts)
        total = tl.sum(counts)
        at = tl.floor(tl.load(uniforms + row * stride_uniforms) * total.to(tl.float64)).to(tl.int64)
        code = tl.sum((tl.cumsum(counts) <= tl.minimum(at, total - 1)).to(tl.int32))
    code = tl.minimum(code, LEVELS - 1)
    drawn = tl.sum(tl.where(lane == code, x, 0.0))
    tl.store(codes + row, code.to(tl.int64))
    tl.store(bits + row, (tl.log(total_probability) - (drawn - most)) * 1.4426950408889634)
