"""Triton backend of `dense_step`: a program holds the weights of some outputs in registers and takes row by row."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.dense_step.triton_blocks import EXACT, gelu, layer_norm, load_rows, load_tiles, load_vector, product
from ssmbio.kernels.dispatch import on_its_device

# `rows_of` alone may look at the batch: a row's sums depend on the others.
TILE = 4096  # weights a program
WIDEST_BLOCK = 128
WARPS = 4


def rows_of(batch: int) -> int:
    """Rows a program, which share its weights: more of them where there are programs enough."""
    return 1 if batch <= 8 else 4 if batch <= 64 else 8


@on_its_device
def step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    eps: float,
    out: Tensor,
) -> None:
    """Writes `out`, from the arguments of `dense_step`."""
    (batch, channels), outputs, gated = x.shape, out.shape[1], activation == "glu"
    block = min(WIDEST_BLOCK, max(16, triton.next_power_of_2(channels)))
    width = triton.cdiv(channels, block) * block * (2 if gated else 1)
    tile = min(triton.next_power_of_2(outputs), max(4, 1 << (TILE // width).bit_length() >> 1))
    rows = rows_of(batch)
    dense_step_fwd_kernel[(triton.cdiv(batch, rows), triton.cdiv(outputs, tile))](
        x, weight.contiguous(), bias, norm_weight, norm_bias, residual, out,
        batch, x.stride(0), 0 if residual is None else residual.stride(0), out.stride(0), eps,
        IN=channels, OUT=outputs, GATED=gated, GELU=activation == "gelu",
        ROWS=rows, OUTPUTS=tile, BLOCK=block, num_warps=WARPS, **EXACT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def dense_step_fwd_kernel(
    x, weight, bias, norm_weight, norm_bias, residual, y,
    batch: tl.int64, stride_x, stride_residual, stride_y, eps,
    IN: tl.constexpr, OUT: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    CHUNKS: tl.constexpr = (IN + BLOCK - 1) // BLOCK
    lane = tl.arange(0, BLOCK)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = (output < OUT)[None, :]
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, 1)
    # All loads before anything that threads wait for each other at.
    tiles = load_tiles(weight, output, lane, OUT, IN, OUTPUTS, BLOCK)
    if GATED:
        gates = load_tiles(weight + OUT * IN, output, lane, OUT, IN, OUTPUTS, BLOCK)
    inputs = ()
    for r in tl.static_range(ROWS):
        row = tl.minimum(first + r, batch - 1)
        inputs = inputs + (load_rows(x, row, stride_x, lane, IN, BLOCK),)
    if norm_weight is not None:
        gain = load_vector(norm_weight, lane, IN, BLOCK)
        shift = load_vector(norm_bias, lane, IN, BLOCK)
    for r in tl.static_range(ROWS):
        v = inputs[r]
        if norm_weight is not None:
            v = layer_norm(v, gain, shift, lane, eps, IN, BLOCK)
        out = product(v, tiles, 0, CHUNKS)
        if bias is not None:
            out += tl.load(bias + output[None, :], mask=known, other=0.0).to(tl.float32)
        if GATED:
            gate = product(v, gates, 0, CHUNKS)
            if bias is not None:
                gate += tl.load(bias + OUT + output[None, :], mask=known, other=0.0).to(tl.float32)
            out = out / (1.0 + tl.exp(-gate))
        if GELU:
            out = gelu(out)
        row = (first + r)[:, None]
        mask = known & (row < batch)
        if residual is not None:
            out += tl.load(residual + row * stride_residual + output[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(y + row * stride_y + output[None, :], out.to(y.dtype.element_ty), mask=mask)
