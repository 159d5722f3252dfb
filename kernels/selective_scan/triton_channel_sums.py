"""Sums over the channels of a program, for the gradients of B and C, on the tensor cores."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def addends(x, TERMS: tl.constexpr):
    """(LANES, 1, 4, NV); bfloat16 at once where that is enough, which halves the registers."""
    if TERMS == 1:
        x = x.to(tl.bfloat16)
    return x


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def store_over_channels(pointer, x, LANES: tl.constexpr, NV: tl.constexpr, UNIT: tl.constexpr, TERMS: tl.constexpr):
    """Sums of four tiles of `addends` over 32 lanes each, parts of the sums over a program's channels, to `pointer`.

    They lie there as (LANES // 32, UNIT, 4 * NV), of which these are four rows; `store_unit_sums` adds the parts. What
    is of several warps is not added here: warps would wait for each other at every tile.

    A product with a matrix of zeros and ones adds what four neighbouring lanes hold. Its right side is laid out as the
    tensor cores take it from registers, so nothing passes through shared memory: of a bfloat16 operand a thread has
    rows 2 * (lane % 4) + {0, 1} and 8 more, in column lane // 4. Rows are therefore (4 nv, j // 2, lane % 4, j % 2)
    for n = 16 * (nv // 4) + 4 * (nv % 4) + j, columns (nv // 4, step, lane // 4); the ones pick rows of the same n.
    TERMS bfloat16 terms hold an addend: one is as good as a bfloat16 result, three are float32. 0 is for the
    interpreter, which has no product of bfloat16.
    """
    HIGH: tl.constexpr = NV // 4
    QUADS: tl.constexpr = LANES // 4
    PARTS: tl.constexpr = LANES // 32
    x = tl.join(tl.join(x[0], x[2]), tl.join(x[1], x[3]))
    # Drops the axis of one channel by a sum: for an operand that it sees joined, Triton 3.6 chooses another layout.
    if TERMS == 0:
        x = tl.sum(x, axis=1)
    else:
        x = tl.reduce(x, 1, plus)
    x = tl.reshape(x, [QUADS, 4, 2, 2, HIGH, 4, 4])
    x = tl.reshape(tl.permute(x, [5, 2, 1, 3, 4, 6, 0]), [64, HIGH * 4 * QUADS])
    k = tl.arange(0, 64)[None, :]
    m = tl.arange(0, 16)[:, None]
    pick = m == 4 * (k // 16) + 2 * (k // 8 % 2) + k % 2
    sums = tl.zeros([16, HIGH * 4 * QUADS], tl.float32)
    if TERMS == 0:
        sums = tl.dot(pick.to(tl.float32), x, sums, input_precision="ieee")
    for term in tl.static_range(TERMS):
        head = x.to(tl.bfloat16)
        sums = tl.dot(pick.to(tl.bfloat16), head, sums)
        if term + 1 < TERMS:
            x = x - head.to(tl.float32)
    sums = tl.sum(tl.reshape(sums, [16, HIGH * 4 * PARTS, 8]), axis=2)
    column = tl.arange(0, HIGH * 4 * PARTS)[None, :]
    row = column % PARTS * UNIT + column // PARTS % 4
    tl.store(pointer + row * (4 * NV) + 16 * (column // (4 * PARTS)) + m, sums)


@triton.jit
def store_unit_sums(pointer, parts, LANES: tl.constexpr, NV: tl.constexpr, UNIT: tl.constexpr):
    """Sums over a program's channels, UNIT rows of 4 * NV, to `pointer`, from the parts of `store_over_channels`."""
    i = tl.arange(0, UNIT * 4 * NV)
    sums = tl.load(parts + i)
    for part in tl.static_range(1, LANES // 32):
        sums += tl.load(parts + part * (UNIT * 4 * NV) + i)
    tl.store(pointer + i, sums)
