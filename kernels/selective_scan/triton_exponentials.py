"""Exponentials of the selective scan's Triton kernels: the hardware's, or, with EXACT, as exact as float32 holds them.

The hardware's 2^x is off by two units in the last place at most. Of a decay near 1 that is 1e-7 whatever its distance
from 1; but this distance is the inverse of the memory's length, which is then wrong by 1e-7 times itself. Rounding to
nearest only halves that, and at equal steps it is the same at every position. So EXACT, which is for float32 inputs,
has e^x - 1 in place of e^x: of a decay near 1 it is small and keeps its own 24 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# What 2^x of the hardware lacks on average: 0.5e-8 to 3e-8 where x is in [-1, 0]. What is random of its error averages
# out over the positions of a memory, this adds up. Beside the product in x the sum costs nothing; it leaves 2^0 as 1.
NUDGE = tl.constexpr(2e-8)


@triton.jit
def exp_parts(x):
    """(q, s) with e^x = (1 + q) s, s a power of two; q, in [-0.3, 0.42], is e^x - 1 where |x| < 0.34.

    x = k log(2) + r with an integer k, of which log(2) takes two terms (Cody and Waite), k times the first being exact.
    e^r - 1 = r + r² p(r), p by a minimax fit on |r| < 0.3468, relative error 1.4e-8. What is below e^-87.7 is 0, also
    of x = -inf; what is above e^88.3 is no larger than that.
    """
    x = tl.clamp(x, -88.0, 88.3, tl.PropagateNan.ALL)
    shifted = x * LOG2E + 12583039.0  # 1.5 · 2^23 + 127: the lowest bits are the exponent of s, k + 127
    k = shifted - 12583039.0
    r = x - k * 0.693145751953125
    r = r - k * 1.428606765330187e-06
    p = 0.0013946514809504151 * r + 0.008366621099412441
    p = p * r + 0.04166628047823906
    p = p * r + 0.16666541993618011
    p = p * r + 0.5
    q = r * r * p + r
    s = (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return q, s


@triton.jit
def exp_exact(x):
    """e^x within one unit in the last place, 0.32 in the mean square; to nearest would be 0.29."""
    q, s = exp_parts(x)
    return q * s + s


@triton.jit
def softplus(x, EXACT: tl.constexpr = False):
    """log(1 + e^x) as max(x, 0) + log1p(e^-|x|).

    The latter is a polynomial (fit on [0, 1], relative error 2e-7, or 5e-9), so small steps keep their digits.
    """
    if EXACT:
        e = exp_exact(-tl.abs(x))
        p = -0.003318473929539323 * e + 0.020204592496156693
        p = p * e - 0.05766445770859718
        p = p * e + 0.10680557042360306
        p = p * e - 0.15355397760868073
        p = p * e + 0.19695401191711426
        p = p * e - 0.24958588182926178
        p = p * e + 0.33330512046813965
        p = p * e - 0.4999993145465851
        y = tl.maximum(x, 0.0) + (e * e * p + e)
    else:
        e = tl.exp2(-tl.abs(x) * LOG2E)
        p = 0.0051058256067335606 * e - 0.028991956263780594
        p = p * e + 0.07738073915243149
        p = p * e - 0.13590599596500397
        p = p * e + 0.1907130926847458
        p = p * e - 0.2483394593000412
        p = p * e + 0.3331793546676636
        p = p * e - 0.4999943673610687
        p = p * e + 0.9999999403953552
        y = tl.maximum(x, 0.0) + p * e
    return y


@triton.jit
def softplus_slope(x, y, EXACT: tl.constexpr):
    """The sigmoid of x, from y = softplus(x)."""
    if EXACT:
        slope = sigmoid(x, EXACT)
    else:
        slope = tl.exp2((x - y) * LOG2E)
    return slope


@triton.jit
def sigmoid(x, EXACT: tl.constexpr):
    if EXACT:
        d = 1.0 + exp_exact(-x)
        s = 1.0 / d  # within two units in the last place; what is left of them takes no division
        s = s * (1.0 - d * s) + s
    else:
        s = 1.0 / (1.0 + tl.exp2(-x * LOG2E))
    return s
