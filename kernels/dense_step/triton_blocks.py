"""What the kernels of fused decoding steps are put together from.

A vector of one position is a tuple of chunks (ROWS, BLOCK), a matrix a tuple of tiles (1, OUTPUTS, BLOCK), so a product
is a sum over the last axis. For the results of a row not to depend on the batch, its sums have to run in one order,
whatever the number of rows a program has. The axes stand so that the tiles alone decide which thread sums what: ROWS
comes first, where no thread is ever dealt out. And no multiplication is fused with an addition (EXACT), for the
compiler would choose which.
"""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def load_vector(p, lane, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """(SIZE,) → chunks (1, BLOCK), float32, zero past the end."""
    chunks = ()
    for k in tl.static_range((SIZE + BLOCK - 1) // BLOCK):
        i = k * BLOCK + lane[None, :]
        if SIZE % BLOCK == 0:
            chunks = chunks + (tl.load(p + i).to(tl.float32),)
        else:
            chunks = chunks + (tl.load(p + i, mask=i < SIZE, other=0.0).to(tl.float32),)
    return chunks


@triton.jit
def load_rows(p, row, stride, lane, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Rows (…, SIZE) → chunks (ROWS, BLOCK), float32, zero past the end."""
    chunks = ()
    for k in tl.static_range((SIZE + BLOCK - 1) // BLOCK):
        i = k * BLOCK + lane[None, :]
        place = p + row[:, None] * stride + i
        if SIZE % BLOCK == 0:
            chunks = chunks + (tl.load(place).to(tl.float32),)
        else:
            chunks = chunks + (tl.load(place, mask=i < SIZE, other=0.0).to(tl.float32),)
    return chunks


@triton.jit
def load_tiles(weight, output, lane, OUT: tl.constexpr, IN: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows `output` of a matrix (OUT, IN) → tiles (1, OUTPUTS, BLOCK) as stored, zero past either end."""
    tiles = ()
    for k in tl.static_range((IN + BLOCK - 1) // BLOCK):
        i = k * BLOCK + lane[None, None, :]
        place = weight + output[None, :, None] * IN + i
        if OUT % OUTPUTS == 0 and IN % BLOCK == 0:
            tiles = tiles + (tl.load(place),)
        else:
            tiles = tiles + (tl.load(place, mask=(output < OUT)[None, :, None] & (i < IN), other=0.0),)
    return tiles


@triton.jit
def product(v, tiles, FIRST: tl.constexpr, CHUNKS: tl.constexpr):
    """v, CHUNKS chunks (ROWS, BLOCK), and as many tiles from FIRST on → (ROWS, OUTPUTS)."""
    products = tiles[FIRST].to(tl.float32) * v[0][:, None, :]
    for k in tl.static_range(1, CHUNKS):
        products += tiles[FIRST + k].to(tl.float32) * v[k][:, None, :]
    return tl.sum(products, axis=2)


@triton.jit
def moments(v, lane, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and 1 / standard deviation of rows of SIZE, (ROWS, 1) each, in two passes over the registers."""
    CHUNKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    total = v[0]
    for k in tl.static_range(1, CHUNKS):
        total += v[k]
    mean = (tl.sum(total, axis=1) * (1.0 / SIZE))[:, None]
    squares = tl.zeros_like(v[0])
    for k in tl.static_range(CHUNKS):
        centred = v[k] - mean
        if SIZE % BLOCK != 0:
            centred = tl.where(k * BLOCK + lane[None, :] < SIZE, centred, 0.0)
        squares += centred * centred
    return mean, tl.rsqrt(tl.sum(squares, axis=1) * (1.0 / SIZE) + eps)[:, None]


@triton.jit
def layer_norm(v, weight, bias, lane, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Zero past the end, as weight and bias are there."""
    mean, scale = moments(v, lane, eps, SIZE, BLOCK)
    normed = ()
    for k in tl.static_range((SIZE + BLOCK - 1) // BLOCK):
        normed = normed + ((v[k] - mean) * scale * weight[k] + bias[k],)
    return normed


@triton.jit
def parts(z):
    """Real and imaginary part of complex64 numbers read as 64 bits."""
    return z.to(tl.uint32).to(tl.float32, bitcast=True), (z >> 32).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def joined(real, imaginary):
    high = imaginary.to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    return (high | real.to(tl.uint32, bitcast=True).to(tl.uint64)).to(tl.int64, bitcast=True)


@triton.jit
def advance(h, u, a, b, c):
    """h ← a h + b u, complex, and 2 Re Σ c h: h (ROWS, channels, N), u (ROWS, channels), the rest (1, channels, N)."""
    h_re, h_im = parts(h)
    a_re, a_im = parts(a)
    b_re, b_im = parts(b)
    c_re, c_im = parts(c)
    new_re = a_re * h_re - a_im * h_im + b_re * u[:, :, None]
    new_im = a_re * h_im + a_im * h_re + b_im * u[:, :, None]
    return joined(new_re, new_im), 2.0 * tl.sum(c_re * new_re - c_im * new_im, axis=2)
