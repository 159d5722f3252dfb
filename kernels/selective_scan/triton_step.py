"""One position of the selective scan in one kernel: bias, softplus, state, skip and gate."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.dispatch import on_its_device
from ssmbio.kernels.selective_scan.triton_exponentials import LOG2E, exp_parts, sigmoid, softplus

TILE = 512  # states of a program: few, for at batch 1 it is the number of programs that hides latency


@on_its_device
def step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, D) and the new state (B, D, N), from the arguments of `selective_scan_step` with B and C (B, G, N)."""
    batch, channels = u.shape
    _, groups, states = B.shape
    u, delta, B, C = (_rows(tensor) for tensor in (u, delta, B, C))
    z = None if z is None else _rows(z)
    D, delta_bias = (None if vector is None else vector.contiguous() for vector in (D, delta_bias))
    state = state.to(torch.float32).contiguous()
    y, new_state = torch.empty((batch, channels), dtype=u.dtype, device=u.device), torch.empty_like(state)
    padded = triton.next_power_of_2(states)
    width = channels // groups
    block = min(triton.next_power_of_2(width), max(1, TILE // padded))
    selective_scan_step_kernel[(triton.cdiv(width, block) * groups * batch,)](
        u, delta, A.contiguous(), B, C, D, z, delta_bias, state, y, new_state,
        u.stride(0), delta.stride(0), 0 if z is None else z.stride(0),
        B.stride(0), B.stride(1), C.stride(0), C.stride(1),
        CHANNELS=channels, GROUPS=groups, N=states,
        SOFTPLUS=delta_softplus, HAS_BIAS=delta_bias is not None, HAS_D=D is not None, HAS_Z=z is not None,
        EXACT=u.dtype == torch.float32, BLOCK=block, NP=padded, num_warps=4,
    )  # fmt: skip
    return y, new_state


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@triton.jit
def advance(h, dt, x, rates, b, c, EXACT: tl.constexpr = False):
    """h ← exp(Δ A) h + Δ x b over (BLOCK, NP), and Σ_n h c; `rates` is A, without EXACT A log2(e)."""
    if EXACT:
        q, s = exp_parts(dt[:, None] * rates)
        h = h * s
        h = q * h + h
    else:
        h = tl.exp2(dt[:, None] * rates) * h
    h = h + (dt * x)[:, None] * b[None, :]
    return h, tl.sum(h * c[None, :], axis=1)


@triton.jit
def selective_scan_step_kernel(
    u, delta, A, B, C, D, z, bias, state, y, new_state,
    stride_u, stride_d, stride_z, stride_bb, stride_bg, stride_cb, stride_cg,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, N: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    EXACT: tl.constexpr, BLOCK: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    WIDTH: tl.constexpr = CHANNELS // GROUPS
    BLOCKS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    batch = (tl.program_id(0) // (BLOCKS * GROUPS)).to(tl.int64)
    group = (tl.program_id(0) // BLOCKS) % GROUPS
    channel = group * WIDTH + (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    known = channel < (group + 1) * WIDTH
    n = tl.arange(0, NP)
    place = channel[:, None] * N + n[None, :]
    inside = known[:, None] & (n < N)[None, :]

    h = tl.load(state + batch * (CHANNELS * N) + place, mask=inside, other=0.0)
    rates = tl.load(A + place, mask=inside, other=0.0).to(tl.float32)
    if not EXACT:
        rates *= LOG2E
    b = tl.load(B + batch * stride_bb + group * stride_bg + n, mask=n < N, other=0.0).to(tl.float32)
    c = tl.load(C + batch * stride_cb + group * stride_cg + n, mask=n < N, other=0.0).to(tl.float32)
    x = tl.load(u + batch * stride_u + channel, mask=known, other=0.0).to(tl.float32)
    dt = tl.load(delta + batch * stride_d + channel, mask=known, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    if SOFTPLUS:
        dt = softplus(dt, EXACT)

    h, out = advance(h, dt, x, rates, b, c, EXACT)
    tl.store(new_state + batch * (CHANNELS * N) + place, h, mask=inside)
    if HAS_D:
        out += x * tl.load(D + channel, mask=known, other=0.0).to(tl.float32)
    if HAS_Z:
        gate = tl.load(z + batch * stride_z + channel, mask=known, other=0.0).to(tl.float32)
        out *= gate * sigmoid(gate, EXACT)
    tl.store(y + batch * CHANNELS + channel, out.to(y.dtype.element_ty), mask=known)
