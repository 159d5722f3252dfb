"""Triton backend of `mamba_step`.

At a small batch, three kernels, each a product of a matrix and a vector with what follows it:

1. `mamba_step_in_kernel`: in_proj, the convolution's step and SiLU; and of x_proj, the share of the program's channels.
2. `mamba_step_scan_kernel`: adds up those shares to [low, B, C]; dt_proj, the scan's step, skip and gate.
3. `mamba_step_out_kernel`: out_proj.

At a large batch torch's products read every weight once, which the first and third would do once a row; the
convolution's own step and the second kernel do the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ssmbio.kernels.causal_conv1d import causal_conv1d_step
from ssmbio.kernels.causal_conv1d.triton_common import load_taps, sigmoid, weighted
from ssmbio.kernels.causal_conv1d.triton_step import load_past, store_past
from ssmbio.kernels.dispatch import on_its_device
from ssmbio.kernels.selective_scan.triton_exponentials import LOG2E, softplus
from ssmbio.kernels.selective_scan.triton_step import TILE, advance

LARGEST_BATCH = 8  # of the three kernels
LARGEST_SHARE = 64  # R and N of the three kernels, for every program of the second reads all shares
LARGEST_WIDTH = 2048  # D of the three kernels
SHARES = 64  # as many programs of the first, each with a share of x_proj, or fewer


@on_its_device
def step(
    x: Tensor,
    in_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, M) and the new states, from the arguments of `mamba_step`."""
    scan = (dt_weight, dt_bias, A_log, D, ssm_state)
    (channels, states), rank = A_log.shape, dt_weight.shape[1]
    if x.shape[0] <= LARGEST_BATCH and channels <= LARGEST_WIDTH and max(states, rank) <= LARGEST_SHARE:
        u, z, shares, conv_state = _into_scan(x, in_weight, conv_weight, conv_bias, x_weight, conv_state)
        y, ssm_state = _scan(u, z, shares, *scan)
        return _out(y, out_weight, _dtype_of_result(x)), conv_state, ssm_state
    u, z = F.linear(x, in_weight).chunk(2, dim=-1)
    u, conv_state = causal_conv1d_step(u, conv_weight, conv_bias, "silu", conv_state, backend="triton")
    y, ssm_state = _scan(u, z, F.linear(u, x_weight).unsqueeze(1), *scan)
    return F.linear(y, out_weight), conv_state, ssm_state


def _dtype_of_result(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _into_scan(
    x: Tensor, in_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_weight: Tensor, conv_state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u and z (B, D), the shares of x_proj (B, shares, R + 2N), all float32, and the convolution's new state."""
    (batch, model), (channels, taps), selected = x.shape, conv_weight.shape, x_weight.shape[0]
    rows = max(8, triton.next_power_of_2(triton.cdiv(channels, SHARES)))
    shares = triton.cdiv(channels, rows)
    conv_state = conv_state.to(torch.float32).contiguous()
    u, z = (torch.empty((batch, channels), dtype=torch.float32, device=x.device) for _ in range(2))
    parts = torch.empty((batch, shares, selected), dtype=torch.float32, device=x.device)
    new_state = torch.empty_like(conv_state)
    mamba_step_in_kernel[(batch, shares)](
        x.contiguous(), in_weight.contiguous(), conv_weight.contiguous(), conv_bias, x_weight.contiguous(), conv_state,
        u, z, parts, new_state,
        MODEL=model, CHANNELS=channels, K=taps, SELECTED=selected,
        ROWS=rows, COLUMNS=min(256, triton.next_power_of_2(model)), OUTPUTS=triton.next_power_of_2(selected),
        num_warps=4 if rows <= 16 else 8,
    )  # fmt: skip
    return u, z, parts, new_state


def _scan(
    u: Tensor, z: Tensor, shares: Tensor, dt_weight: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y (B, D) in the dtype of `u`, and the scan's new state."""
    (batch, channels), (_, states), rank = u.shape, A_log.shape, dt_weight.shape[1]
    state = state.to(torch.float32).contiguous()
    y, new_state = torch.empty((batch, channels), dtype=u.dtype, device=u.device), torch.empty_like(state)
    padded = triton.next_power_of_2(states)
    block = max(1, TILE // padded)
    mamba_step_scan_kernel[(triton.cdiv(channels, block) * batch,)](
        u, z, shares, dt_weight.contiguous(), dt_bias, A_log.contiguous(), D, state, y, new_state,
        u.stride(0), z.stride(0),
        CHANNELS=channels, R=rank, N=states, SHARES=shares.shape[1],
        BLOCK=block, RP=triton.next_power_of_2(rank), NP=padded, SP=triton.next_power_of_2(shares.shape[1]),
        num_warps=4,
    )  # fmt: skip
    return y, new_state


def _out(y: Tensor, out_weight: Tensor, dtype: torch.dtype) -> Tensor:
    (batch, channels), model, rows = y.shape, out_weight.shape[0], 4
    out = torch.empty((batch, model), dtype=dtype, device=y.device)
    mamba_step_out_kernel[(batch, triton.cdiv(model, rows))](
        y, out_weight.contiguous(), out,
        MODEL=model, CHANNELS=channels, ROWS=rows, COLUMNS=min(512, triton.next_power_of_2(channels)), num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def load_row_of(vector, column, LENGTH: tl.constexpr):
    return tl.load(vector + column, mask=column < LENGTH, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_rows_of(weight, row, column, known, LENGTH: tl.constexpr):
    """(ROWS, COLUMNS) of a matrix (…, LENGTH), float32."""
    inside = known[:, None] & (column < LENGTH)[None, :]
    return tl.load(weight + row[:, None] * LENGTH + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def mamba_step_in_kernel(
    x, in_weight, conv_weight, conv_bias, x_weight, state, u, z, shares, new_state,
    MODEL: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, SELECTED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    known = channel < CHANNELS
    x += batch * MODEL
    # All loads before what makes threads wait for each other (sums, and spreading a row over them): behind it they
    # would wait as well.
    taps = load_taps(conv_weight, channel, known, K)
    bias = tl.load(conv_bias + channel, mask=known, other=0.0).to(tl.float32)
    place = batch * ((K - 1) * CHANNELS)
    past = load_past(state + place, channel, known, CHANNELS, K)
    inner = tl.zeros([ROWS, COLUMNS], tl.float32)
    gates = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, MODEL, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        to_inner = load_rows_of(in_weight, channel, column, known, MODEL)
        to_gate = load_rows_of(in_weight, CHANNELS + channel, column, known, MODEL)
        row = load_row_of(x, column, MODEL)
        inner += to_inner * row
        gates += to_gate * row
    output = tl.arange(0, OUTPUTS)
    selecting = load_rows_of(x_weight, output, channel, output < SELECTED, CHANNELS)

    now = tl.sum(inner, axis=1)
    store_past(new_state + place, past, now, channel, known, CHANNELS, K)
    out = weighted(taps, past, now, bias, K)
    out *= sigmoid(out)
    tl.store(u + batch * CHANNELS + channel, out, mask=known)
    tl.store(z + batch * CHANNELS + channel, tl.sum(gates, axis=1), mask=known)
    place = (batch * tl.num_programs(1) + tl.program_id(1)) * SELECTED
    tl.store(shares + place + output, tl.sum(selecting * out[None, :], axis=1), mask=output < SELECTED)


@triton.jit
def load_shares(shares, first, SIZE: tl.constexpr, SHARES: tl.constexpr, SELECTED: tl.constexpr, SP: tl.constexpr,
                PADDED: tl.constexpr):  # fmt: skip
    """(SP, PADDED): what every program of `mamba_step_in_kernel` gives to outputs `first` and on of x_proj."""
    share = tl.arange(0, SP)[:, None]
    output = tl.arange(0, PADDED)[None, :]
    inside = (share < SHARES) & (output < SIZE)
    return tl.load(shares + share * SELECTED + first + output, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def mamba_step_scan_kernel(
    u, z, shares, dt_weight, dt_bias, A_log, D, state, y, new_state,
    stride_u, stride_z,
    CHANNELS: tl.constexpr, R: tl.constexpr, N: tl.constexpr, SHARES: tl.constexpr,
    BLOCK: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr, SP: tl.constexpr,
):  # fmt: skip
    BLOCKS: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    SELECTED: tl.constexpr = R + 2 * N
    batch = (tl.program_id(0) // BLOCKS).to(tl.int64)
    channel = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    known = channel < CHANNELS
    n = tl.arange(0, NP)
    shares += batch * (SHARES * SELECTED)
    state += batch * (CHANNELS * N)
    new_state += batch * (CHANNELS * N)
    low = load_shares(shares, 0, R, SHARES, SELECTED, SP, RP)
    b = load_shares(shares, R, N, SHARES, SELECTED, SP, NP)
    c = load_shares(shares, R + N, N, SHARES, SELECTED, SP, NP)
    h = load_rows_of(state, channel, n, known, N)
    A2 = -tl.exp2(load_rows_of(A_log, channel, n, known, N) * LOG2E) * LOG2E
    w = load_rows_of(dt_weight, channel, tl.arange(0, RP), known, R)
    bias = tl.load(dt_bias + channel, mask=known, other=0.0).to(tl.float32)
    skip = tl.load(D + channel, mask=known, other=0.0).to(tl.float32)
    x = tl.load(u + batch * stride_u + channel, mask=known, other=0.0).to(tl.float32)
    gate = tl.load(z + batch * stride_z + channel, mask=known, other=0.0).to(tl.float32)

    dt = softplus(tl.sum(w * tl.sum(low, axis=0)[None, :], axis=1) + bias)
    h, out = advance(h, dt, x, A2, tl.sum(b, axis=0), tl.sum(c, axis=0))
    tl.store(new_state + channel[:, None] * N + n[None, :], h, mask=known[:, None] & (n < N)[None, :])
    out = (out + skip * x) * gate * sigmoid(gate)
    tl.store(y + batch * CHANNELS + channel, out.to(y.dtype.element_ty), mask=known)


@triton.jit
def mamba_step_out_kernel(
    y, weight, out,
    MODEL: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    known = row < MODEL
    y += batch * CHANNELS
    products = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, CHANNELS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        products += load_rows_of(weight, row, column, known, CHANNELS) * load_row_of(y, column, CHANNELS)
    tl.store(out + batch * MODEL + row, tl.sum(products, axis=1).to(out.dtype.element_ty), mask=known)
