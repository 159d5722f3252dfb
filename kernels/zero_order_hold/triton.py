"""Triton backend of `zero_order_hold`: every element from its parameters, in one kernel each way.

Exponentials are computed here and not by the device's fast instruction, which loses a rounding for every unit of the
exponent and all digits of exp(x) - 1 near 0. Sines and cosines are the device library's, with its exact reduction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 128  # elements of a program: the whole is a few thousand, and what counts is that all of them start at once
LOG2E = tl.constexpr(1.4426950408889634)
# ln 2 as a number of ten bits, whose small multiples are exact, and the rest.
LN2_HIGH, LN2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.12194440054690583e-4)
TERMS = tl.constexpr(11)  # of the series of φ', as in `formulas.py`


def forward(log_decay: Tensor, frequency: Tensor, B: Tensor, log_dt: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """log_a and b, each (D, N)."""
    (channels,), pairs = log_dt.shape, log_decay.shape[1]
    log_a, b = (log_decay.new_empty(channels, pairs, dtype=torch.complex64) for _ in range(2))
    sizes = _sizes(log_decay, channels)
    zero_order_hold_fwd_kernel[(triton.cdiv(channels, sizes["ROWS"]), triton.cdiv(pairs, sizes["PAIRS"]))](
        log_decay, frequency, B, log_dt, torch.view_as_real(log_a), torch.view_as_real(b), rate, channels, pairs,
        **sizes,
    )  # fmt: skip
    return log_a, b


def backward(
    d_log_a: Tensor, d_b: Tensor, log_decay: Tensor, frequency: Tensor, B: Tensor, log_dt: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of log_decay and frequency (D, N) and of B (D, N, 2), a channel each, and that of log_dt (D,)."""
    channels, pairs = d_b.shape
    d_log_decay, d_frequency = (log_decay.new_empty(channels, pairs) for _ in range(2))
    dB, d_log_dt = log_decay.new_empty(channels, pairs, 2), torch.empty_like(log_dt)
    sizes = _sizes(log_decay, channels)
    zero_order_hold_bwd_kernel[(triton.cdiv(channels, sizes["ROWS"]),)](
        torch.view_as_real(d_log_a), torch.view_as_real(d_b), log_decay, frequency, B, log_dt,
        d_log_decay, d_frequency, dB, d_log_dt, rate, channels, pairs,
        **sizes, TURNS=triton.cdiv(pairs, sizes["PAIRS"]),
    )  # fmt: skip
    return d_log_decay, d_frequency, dB, d_log_dt


def _sizes(log_decay: Tensor, channels: int) -> dict[str, int | bool]:
    pairs = min(triton.next_power_of_2(log_decay.shape[1]), _TILE)
    return {"SHARED": log_decay.shape[0] < channels, "ROWS": _TILE // pairs, "PAIRS": pairs, "num_warps": 4}


@triton.jit
def _exponential(x):
    """exp(x) - 1 and exp(x): exp(x) = 2^n exp(r), |r| <= ln(2)/2, and exp(r) - 1 by its series."""
    bounded = tl.where(x < -87.0, -87.0, tl.where(x > 88.0, 88.0, x))  # 2^n stays a normal number, and NaN shows
    n = tl.floor(bounded * LOG2E + 0.5)
    r = (bounded - n * LN2_HIGH) - n * LN2_LOW
    rest = r * (1.0 / 40320.0) + 1.0 / 5040.0
    rest = rest * r + 1.0 / 720.0
    rest = rest * r + 1.0 / 120.0
    rest = rest * r + 1.0 / 24.0
    rest = rest * r + 1.0 / 6.0
    rest = rest * r + 0.5
    rest = rest * r * r + r
    scale = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return scale * rest + (scale - 1.0), tl.where(x < -87.0, 0.0, scale * rest + scale)


@triton.jit
def _product(a_re, a_im, b_re, b_im):
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def _quotient(a_re, a_im, b_re, b_im):
    """a / b, whatever the size of b: |b|² would leave the range of float32 before b does."""
    size = tl.maximum(tl.abs(b_re), tl.abs(b_im))
    b_re, b_im = b_re / size, b_im / size
    re, im = _product(a_re, a_im, b_re, -b_im)
    square = b_re * b_re + b_im * b_im
    return re / square / size, im / square / size


@triton.jit
def _exponential_of_complex(x, y):
    """exp(z) - 1 and exp(z) of z = x + iy: four numbers. See `expm1` of `formulas.py`."""
    less_one, size = _exponential(x)
    half_sine = tl.sin(y * 0.5)
    cosine, sine = tl.cos(y), tl.sin(y)
    return less_one * cosine - 2.0 * half_sine * half_sine, size * sine, size * cosine, size * sine


@triton.jit
def _phi_slope(x, y, less_one_re, less_one_im, exp_re, exp_im):
    """φ'(z) of z = x + iy, exp(z) - 1 and exp(z). See `phi_slope` of `formulas.py`."""
    small = x * x + y * y < 1.0
    near_re, near_im = tl.where(small, x, 0.0), tl.where(small, y, 0.0)
    series_re, series_im = tl.zeros_like(x), tl.zeros_like(y)
    # Σ_k c_k z^k is ½ (1 + q_0 z (1 + q_1 z (1 + …))) with q_k = c_(k+1) / c_k = (k + 2) / ((k + 1) (k + 3)).
    for back in tl.static_range(1, TERMS):
        k = TERMS - 1 - back
        ratio = (k + 2) / ((k + 1) * (k + 3))
        series_re, series_im = _product(near_re * ratio, near_im * ratio, 1.0 + series_re, series_im)
    far_re, far_im = tl.where(small, 1.0, x), tl.where(small, 0.0, y)
    phi_re, phi_im = _quotient(less_one_re, less_one_im, far_re, far_im)
    re, im = _quotient(exp_re - phi_re, exp_im - phi_im, far_re, far_im)
    return tl.where(small, 0.5 + 0.5 * series_re, re), tl.where(small, 0.5 * series_im, im)


@triton.jit
def _load_pair(base, place, known):
    return tl.load(base + 2 * place, mask=known, other=0.0), tl.load(base + 2 * place + 1, mask=known, other=0.0)


@triton.jit
def _store_pair(base, place, known, re, im):
    tl.store(base + 2 * place, re, mask=known)
    tl.store(base + 2 * place + 1, im, mask=known)


@triton.jit
def zero_order_hold_fwd_kernel(
    log_decay, frequency, B, log_dt, log_a, b,
    rate, channels, pairs,
    SHARED: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    n = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)[None, :]
    known = (row < channels) & (n < pairs)
    place = row * pairs + n
    source = place - row * pairs if SHARED else place
    step = _exponential(tl.load(log_dt + row, mask=row < channels, other=0.0))[1] * rate
    A_re = -_exponential(tl.load(log_decay + source, mask=known, other=0.0))[1]
    A_im = tl.load(frequency + source, mask=known, other=0.0)
    B_re, B_im = _load_pair(B, source, known)
    x, y = step * A_re, step * A_im
    less_one_re, less_one_im, _, _ = _exponential_of_complex(x, y)
    held_re, held_im = _quotient(less_one_re, less_one_im, A_re, A_im)
    b_re, b_im = _product(held_re, held_im, B_re, B_im)
    _store_pair(log_a, place, known, x, y)
    _store_pair(b, place, known, b_re, b_im)


@triton.jit
def zero_order_hold_bwd_kernel(
    d_log_a, d_b, log_decay, frequency, B, log_dt, d_log_decay, d_frequency, dB, d_log_dt,
    rate, channels, pairs,
    SHARED: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, TURNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    step = _exponential(tl.load(log_dt + row, mask=row < channels, other=0.0))[1] * rate
    along = tl.zeros((ROWS, PAIRS), tl.float32)
    for turn in range(0, TURNS):
        n = turn * PAIRS + tl.arange(0, PAIRS)[None, :]
        known = (row < channels) & (n < pairs)
        place = row * pairs + n
        source = place - row * pairs if SHARED else place
        A_re = -_exponential(tl.load(log_decay + source, mask=known, other=0.0))[1]
        A_im = tl.load(frequency + source, mask=known, other=0.0)
        B_re, B_im = _load_pair(B, source, known)
        da_re, da_im = _load_pair(d_log_a, place, known)
        db_re, db_im = _load_pair(d_b, place, known)
        x, y = step * A_re, step * A_im
        less_one_re, less_one_im, exp_re, exp_im = _exponential_of_complex(x, y)
        held_re, held_im = _quotient(less_one_re, less_one_im, A_re, A_im)
        dB_re, dB_im = _product(held_re, -held_im, db_re, db_im)
        _store_pair(dB, place, known, dB_re, dB_im)
        # ΔB̄* b̄, which both the slope along ΔA and that along Δ are made of.
        input_re, input_im = _product(step * B_re, -step * B_im, db_re, db_im)
        phi_re, phi_im = _phi_slope(x, y, less_one_re, less_one_im, exp_re, exp_im)
        slope_re, slope_im = _product(phi_re, -phi_im, input_re, input_im)
        tl.store(d_log_decay + place, x * (da_re + slope_re), mask=known)
        tl.store(d_frequency + place, step * (da_im + slope_im), mask=known)
        along += (x * da_re + y * da_im) + (exp_re * input_re + exp_im * input_im)
    tl.store(d_log_dt + row, tl.sum(along, 1)[:, None], mask=row < channels)
