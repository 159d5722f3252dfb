"""Sums over the channels of a program, for the gradients of B and C, on the tensor cores."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def addends(x, TERMS: tl.constexpr):
    """What `sum_over_channels` takes: bfloat16 at once where one term is enough, which halves the registers."""
    if TERMS == 1:
        x = x.to(tl.bfloat16)
    return x


@triton.jit
def sum_over_channels(total, x, tile, LANES: tl.constexpr, NV: tl.constexpr, TERMS: tl.constexpr):
    """Puts the sums over channels of four tiles (LANES, 1, 4, NV) into rows 2 * tile and 2 * tile + 1 of `total`.

    `total` is (16, 8 NV) float32: rows are 2 * tile + step % 2, columns 2 * (NV * j + nv) + step // 2. A sum over
    lanes by shuffles would cost ten instructions an element; products on the tensor cores cost a fraction of one. The
    right side has rows (lane % 16, step % 2), because Triton stores an operand through wide accesses only if a thread
    has neighbours along both axes, and columns (lane // 16, the rest); the left side picks even or odd rows. The sum
    over lane // 16 stays in a thread. TERMS bfloat16 terms hold an addend: one is as good as a bfloat16 result, three
    are float32. 0 is for the interpreter, which has no product of bfloat16.
    """
    GROUPS: tl.constexpr = LANES // 16
    odd = tl.arange(0, 2)[None, :, None, None, None] == 1
    x = tl.where(odd, tl.join(x[1], x[3]), tl.join(x[0], x[2]))
    x = tl.permute(tl.reshape(x, [GROUPS, 16, 2, 8 * NV]), [1, 2, 0, 3])
    x = tl.reshape(x, [32, GROUPS * 8 * NV])
    rows = tl.arange(0, 16)[:, None]
    pick = rows % 2 == tl.arange(0, 32)[None, :] % 2
    sums = tl.zeros([16, GROUPS * 8 * NV], tl.float32)
    if TERMS == 0:
        sums = tl.dot(pick.to(tl.float32), x, sums, input_precision="ieee")
    for term in tl.static_range(TERMS):
        head = x.to(tl.bfloat16)
        sums = tl.dot(pick.to(tl.bfloat16), head, sums)
        if term + 1 < TERMS:
            x = x - head.to(tl.float32)
    sums = tl.sum(tl.reshape(sums, [16, GROUPS, 8 * NV]), axis=1)
    return tl.where(rows // 2 == tile, sums, total)


@triton.jit
def store_over_channels(pointer, total, NV: tl.constexpr):
    """What `sum_over_channels` made, 32 positions of 4 * NV states, at `pointer`."""
    r = tl.arange(0, 16)[:, None]
    q = tl.arange(0, 8 * NV)[None, :]
    s = 4 * (r // 2) + 2 * (q % 2) + r % 2
    n = ((q // 2) % NV) * 4 + (q // 2) // NV
    tl.store(pointer + s * (4 * NV) + n, total)
