"""Small device functions of the selective scan's Triton kernels: rows, tiles of states, decays."""

# Tuples grow in loops that Triton unrolls:
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl

from ssmbio.kernels.selective_scan.triton_exponentials import LOG2E, NUDGE, exp_parts, softplus


@triton.jit
def program_place(pid, chunks, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """(batch, chunk, group, block of channels, its first channel, end of the group's channels) of a program.

    Programs of one chunk lie side by side, for they share its rows of B and C.
    """
    WIDTH: tl.constexpr = CHANNELS // GROUPS
    BLOCKS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    block = pid % (BLOCKS * GROUPS)
    rest = pid // (BLOCKS * GROUPS)
    group = block // BLOCKS
    channel = group * WIDTH + (block % BLOCKS) * BLOCK
    batch = (rest // chunks).to(tl.int64)
    return batch, (rest % chunks).to(tl.int64), group, block, channel, (group + 1) * WIDTH


@triton.jit
def step_size(x, bias, live, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, MASK_L: tl.constexpr,
              EXACT: tl.constexpr):  # fmt: skip
    """Δ of one row (LANES, KD); zero past the end, where softplus would not be."""
    if HAS_BIAS:
        x += bias
    if SOFTPLUS:
        x = softplus(x, EXACT)
    if MASK_L:
        x = tl.where(live, x, 0.0)
    return x


@triton.jit
def load_row(pointer, mask, MASKED: tl.constexpr):
    """A row of (LANES, KD) pointers as float32."""
    if MASKED:
        x = tl.load(pointer, mask=mask, other=0.0)
    else:
        x = tl.load(pointer)
    return x.to(tl.float32)


@triton.jit
def store_row(pointer, x, mask, MASKED: tl.constexpr):
    """A float32 row to (LANES, KD) pointers. No kernel reads what it stores so: the cache keeps other things."""
    x = x.to(pointer.dtype.element_ty)
    if MASKED:
        tl.store(pointer, x, mask=mask, cache_modifier=".cs")
    else:
        tl.store(pointer, x, cache_modifier=".cs")


@triton.jit
def unjoin(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COUNT: tl.constexpr):
    """(ROWS, COLUMNS, COUNT) as a tuple of COUNT tiles (ROWS, COLUMNS); COUNT is a power of two."""
    parts = (x,)
    for level in tl.static_range(10):
        if COUNT >> level > 1:
            low = ()
            high = ()
            for i in tl.static_range(1 << level):
                a, b = tl.split(tl.reshape(parts[i], [ROWS, COLUMNS, COUNT >> (level + 1), 2]))
                low = low + (a,)
                high = high + (b,)
            parts = low + high
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (tl.reshape(parts[i], [ROWS, COLUMNS]),)
    return tiles


@triton.jit
def load_rows(pointer, stride, mask, LANES: tl.constexpr, KD: tl.constexpr, STEPS: tl.constexpr, MASKED: tl.constexpr):
    """STEPS rows `stride` apart as a tuple of float32 (LANES, KD); one wide load, which Triton can run ahead."""
    pointer = pointer + tl.arange(0, STEPS)[:, None] * stride + tl.arange(0, LANES * KD)[None, :]
    if MASKED:
        x = tl.load(pointer, mask=mask, other=0.0)
    else:
        x = tl.load(pointer)
    parts = unjoin(tl.reshape(tl.trans(x), [LANES, KD, STEPS]), LANES, KD, STEPS)
    rows = ()
    for i in tl.static_range(STEPS):
        rows = rows + (parts[i].to(tl.float32),)
    return rows


@triton.jit
def load_staged(pointer, NV: tl.constexpr):
    """The staged rows of B and C of a position as two (1, 1, 4, NV)."""
    pair = tl.load(pointer + tl.arange(0, 8 * NV))
    b, c = tl.split(tl.permute(tl.reshape(pair, [2, NV, 4]), [2, 1, 0]))
    return b[None, None, :, :], c[None, None, :, :]


@triton.jit
def load_staged_rows(pointer, NV: tl.constexpr, STEPS: tl.constexpr):
    """The staged rows of B and of C of STEPS positions, two tuples of (1, 1, 4, NV)."""
    x = tl.load(pointer + tl.arange(0, STEPS * 8 * NV))
    x = tl.reshape(tl.permute(tl.reshape(x, [STEPS, 2, NV, 4]), [3, 2, 1, 0]), [4 * NV, 2, STEPS])
    pairs = unjoin(x, 4 * NV, 2, STEPS)
    B_rows = ()
    C_rows = ()
    for i in tl.static_range(STEPS):
        b, c = tl.split(pairs[i])
        B_rows = B_rows + (tl.reshape(b, [1, 1, 4, NV]),)
        C_rows = C_rows + (tl.reshape(c, [1, 1, 4, NV]),)
    return B_rows, C_rows


@triton.jit
def join_tile(parts, LANES: tl.constexpr, NV: tl.constexpr, KD: tl.constexpr):
    """KD * NV parts (LANES, 4), those of one channel together, as one tile (LANES, KD, 4, NV)."""
    for level in tl.static_range(1, 10):
        joined = ()
        for i in tl.static_range((KD * NV) >> level):
            joined = joined + (tl.join(parts[i], parts[i + ((KD * NV) >> level)]),)
        if (KD * NV) >> level > 0:
            parts = joined
    return tl.permute(tl.reshape(parts[0], [LANES, 4, KD, NV]), [0, 2, 1, 3])


@triton.jit
def load_state(pointer, channel_stride, quad_stride, row, end, LIMIT: tl.constexpr, LANES: tl.constexpr,
               NV: tl.constexpr, KD: tl.constexpr):  # fmt: skip
    """The tile of states n < LIMIT of the program's channels; state 4 * nv + j of channel d lies at
    `pointer + d * channel_stride + nv * quad_stride + j`.

    One load of the whole tile would leave to Triton which axes are spread over lanes, and its versions differ; here
    each load is a vector of 4 a thread, and joining them keeps all states of a channel in one thread.
    """
    j = tl.arange(0, 4)[None, :]
    lane = tl.arange(0, LANES)[:, None]
    parts = ()
    for k in tl.static_range(KD):
        for v in tl.static_range(NV):
            channel = row + lane * KD + k
            x = tl.load(
                pointer + channel * channel_stride + v * quad_stride + j,
                mask=(channel < end) & (4 * v + j < LIMIT),
                other=0.0,
            )
            parts = parts + (x,)
    return join_tile(parts, LANES, NV, KD)


@triton.jit
def store_state(pointer, channel_stride, quad_stride, row, end, x, LIMIT: tl.constexpr, LANES: tl.constexpr,
                NV: tl.constexpr, KD: tl.constexpr):  # fmt: skip
    """Inverse of `load_state`; each thread stores what it holds."""
    parts = unjoin(tl.reshape(tl.permute(x, [0, 2, 1, 3]), [LANES, 4, KD * NV]), LANES, 4, KD * NV)
    j = tl.arange(0, 4)[None, :]
    lane = tl.arange(0, LANES)[:, None]
    for k in tl.static_range(KD):
        for v in tl.static_range(NV):
            channel = row + lane * KD + k
            tl.store(
                pointer + channel * channel_stride + v * quad_stride + j,
                parts[k * NV + v],
                mask=(channel < end) & (4 * v + j < LIMIT),
            )


@triton.jit
def state_at_start(h, mark, initial, row, end, CHANNELS: tl.constexpr, N: tl.constexpr, HAS_STATE: tl.constexpr,
                   LANES: tl.constexpr, NV: tl.constexpr, KD: tl.constexpr):  # fmt: skip
    """At a sequence's first position its initial state, from (S, D, N), elsewhere h."""
    if mark > 0:
        if HAS_STATE:
            place = (mark - 1).to(tl.int64) * (CHANNELS * N)
            h = load_state(initial + place, N, 4, row, end, N, LANES, NV, KD)
        else:
            h = tl.zeros_like(h)
    return h


@triton.jit
def over_states(x):
    """A value per channel (LANES, KD) beside the state (LANES, KD, 1, 1)."""
    return x[:, :, None, None]


@triton.jit
def chunk_place(c, chunks, length, PIECE: tl.constexpr):
    """The first position of chunk c and the number of its positions, which padding may be among.

    Chunks are made of pieces of PIECE positions, each of as many or of one more.
    """
    pieces = tl.cdiv(length, PIECE)
    first = c * pieces // chunks
    return first * PIECE, ((c + 1) * pieces // chunks - first) * PIECE


@triton.jit
def decays(dt, rates, EXACT: tl.constexpr):
    """exp(Δ A) of (LANES, KD) and (LANES, KD, 4, NV), as `decayed` takes it.

    Without EXACT Δ and not A is rounded with log₂e, anew each time: A would stay wrong.
    """
    if EXACT:
        a = exp_parts(over_states(dt) * rates)
    else:
        a = (tl.exp2(over_states(dt * LOG2E) * rates + NUDGE),)
    return a


@triton.jit
def decayed(a, h, EXACT: tl.constexpr):
    """exp(Δ A) h. EXACT is h + (exp(Δ A) - 1) h: only the sum is rounded, not a decay near 1."""
    if EXACT:
        h = h * a[1]
        h = a[0] * h + h
    else:
        h = a[0] * h
    return h


@triton.jit
def sum_states(x):
    """(LANES, KD, 4, NV) to (LANES, KD)."""
    return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1], x.shape[2] * x.shape[3]]), axis=2)


@triton.jit
def sum_states_soon(x):
    """`sum_states` in chains that are shorter, for a few instructions more: where few warps hide what one waits for."""
    if x.shape[3] == 4:
        x = tl.sum(tl.sum(x, axis=2), axis=2)
    else:  # two threads share the states: what they exchange comes last
        x = tl.sum(tl.sum(x, axis=3), axis=2)
    return x
