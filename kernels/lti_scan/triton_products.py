"""Products on the tensor cores in several terms, and the pieces that all kernels over tiles share.

bfloat16 data are exact in one term; the matrices, float32, are the sum of two bfloat16 terms, and so are states, so the
product of a state with a matrix is three products (that of the low terms, 2^-16 of the whole, is left out). float32
data are two terms of TF32 each, three products: TF32x3, whose error is that of float32 within a small factor.

That holds for one turn. The tensor cores cut off, toward zero, whenever they add to their float32 accumulator, once for
8 TF32 or 16 bfloat16 terms: errors of one sign, which over turns would be a drift of sums and an extra decay of states
(2e-5 at 2^18 positions, more at more). So the products of a turn start from zero, the small terms first, and what is
kept over turns is added to them in plain float32, rounded to nearest.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(x, WIDE: tl.constexpr):
    """float32 as a high and a low term: TF32 where WIDE, the low 13 bits of which the hardware does not read."""
    if WIDE:
        high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        return high, x - high
    else:  # the high term cut off, not rounded, costs one instruction; the low term makes up for it
        high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
        return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def product(x, y, total, WIDE: tl.constexpr, EMULATED: tl.constexpr):
    """total + x @ y. The interpreter has no bfloat16 product; float32 is exact there, as sums of products are here."""
    if EMULATED:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    elif WIDE:
        return tl.dot(x, y, total, input_precision="tf32")
    else:
        return tl.dot(x, y, total)


@triton.jit
def data_product(x, x_low, y, y_low, total, WIDE: tl.constexpr, EMULATED: tl.constexpr):
    """total + x @ y of data (one term unless WIDE) with a matrix of two terms."""
    total = product(x, y_low, total, WIDE, EMULATED)
    if WIDE:
        total = product(x_low, y, total, WIDE, EMULATED)
    return product(x, y, total, WIDE, EMULATED)


@triton.jit
def state_product(x, y, y_low, total, WIDE: tl.constexpr, EMULATED: tl.constexpr):
    """total + x @ y of a float32 state with a matrix of two terms, whose rows are in the order of `operand_order`.

    A thread holds columns 2 q and 2 q + 1 of each 8 of a result, but of a TF32 operand columns q and q + 4. With the
    columns of x and the rows of y so exchanged, a state is an operand as it is, without passing between threads.
    """
    if WIDE:
        x = tl.reshape(x, [x.shape[0], x.shape[1] // 8, 4, 2])
        x = tl.reshape(tl.permute(x, [0, 1, 3, 2]), [x.shape[0], x.shape[1] * 8])
    high, low = split(x, WIDE)
    total = product(high, y_low, total, WIDE, EMULATED)
    total = product(low, y, total, WIDE, EMULATED)
    return product(high, y, total, WIDE, EMULATED)


@triton.jit
def operand_order(k, WIDE: tl.constexpr):
    """Which pair stands in row k of a matrix that states are multiplied with."""
    return k // 8 * 8 + k % 4 * 2 + k // 4 % 2 if WIDE else k


@triton.jit
def data_terms(x, WIDE: tl.constexpr):
    """The terms of loaded data: itself where it is bfloat16, and then the second is not used."""
    if WIDE:
        return split(x, WIDE)
    else:
        return x, x


@triton.jit
def power_table(powers, exponent, column, d, block, blocks, STEPS: tl.constexpr, WIDTH: tl.constexpr):
    """a^exponent, two tiles of the shape of exponent and column together."""
    place = powers + (d * blocks + block) * (2 * (STEPS + 1) * WIDTH) + exponent * WIDTH + column
    return tl.load(place), tl.load(place + (STEPS + 1) * WIDTH)


@triton.jit
def load_complex(pointer, d, n, pairs):
    """Parameters (D, N, 2) of one channel."""
    place = pointer + (d * pairs + n) * 2
    return tl.load(place, mask=n < pairs, other=0.0), tl.load(place + 1, mask=n < pairs, other=0.0)


@triton.jit
def add_rounded(total, x):
    """total + x, where x is a product from zero: the compiler turns `+` of the two into a product from `total`."""
    return tl.fma(x, 1.0, total)


@triton.jit
def advance(hr, hi, ar, ai, xr, xi):
    """x + h a, of complex numbers: the products x of a turn onto the state before it, as fused multiply-adds."""
    return xr + hr * ar - hi * ai, xi + hr * ai + hi * ar


@triton.jit
def times(ar, ai, br, bi):
    """The complex product."""
    return ar * br - ai * bi, ar * bi + ai * br
