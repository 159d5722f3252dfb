"""One position of the causal convolution in one kernel: taps, bias, SiLU and the shifted state."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment,var-annotated"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.causal_conv1d.triton_common import load_taps, sigmoid, weighted
from ssmbio.kernels.dispatch import on_its_device


@on_its_device
def step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y (B, D) and the new state (B, K - 1, D), from the arguments of `causal_conv1d_step`."""
    batch, channels = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    state = state.to(torch.float32).contiguous()
    y, new_state = torch.empty((batch, channels), dtype=x.dtype, device=x.device), torch.empty_like(state)
    block = 128
    causal_conv1d_step_kernel[(triton.cdiv(channels, block) * batch,)](
        x, weight.contiguous(), None if bias is None else bias.contiguous(), state, y, new_state,
        x.stride(0),
        CHANNELS=channels, K=weight.shape[1], HAS_BIAS=bias is not None, SILU=activation == "silu",
        BLOCK=block, num_warps=4,
    )  # fmt: skip
    return y, new_state


@triton.jit
def load_past(state, channel, known, CHANNELS: tl.constexpr, K: tl.constexpr):
    """The K - 1 last inputs of a batch row, oldest first."""
    past = ()
    for j in tl.static_range(K - 1):
        past = past + (tl.load(state + j * CHANNELS + channel, mask=known, other=0.0),)
    return past


@triton.jit
def store_past(state, past, now, channel, known, CHANNELS: tl.constexpr, K: tl.constexpr):
    """`past` without its oldest input and with the present one."""
    for j in tl.static_range(1, K - 1):
        tl.store(state + (j - 1) * CHANNELS + channel, past[j], mask=known)
    tl.store(state + (K - 2) * CHANNELS + channel, now, mask=known)


@triton.jit
def causal_conv1d_step_kernel(
    x, weight, bias, state, y, new_state,
    stride_x,
    CHANNELS: tl.constexpr, K: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    batch = (tl.program_id(0) // BLOCKS).to(tl.int64)
    channel = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    place = batch * ((K - 1) * CHANNELS)
    taps = load_taps(weight, channel, known, K)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    now = tl.load(x + batch * stride_x + channel, mask=known, other=0.0).to(tl.float32)
    past = load_past(state + place, channel, known, CHANNELS, K)
    store_past(new_state + place, past, now, channel, known, CHANNELS, K)
    out = weighted(taps, past, now, shift, K)
    if SILU:
        out *= sigmoid(out)
    tl.store(y + batch * CHANNELS + channel, out.to(y.dtype.element_ty), mask=known)
