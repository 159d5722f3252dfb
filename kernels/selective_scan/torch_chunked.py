"""The selective scan in plain torch, in chunks worked on side by side: what runs where there is no GPU.

Each block (see `torch_blocks.py`) goes through three short loops, none over the positions of the sequence:

1. the steps of a chunk from a zero state, for all chunks at once: what each chunk adds to the state;
2. the chunks one after another: the state at the start of each, the decay of a whole chunk being exp(A Σ Δ);
3. the steps again, now from the right state.

The backward pass keeps only the states at the starts of chunks, recomputes the others, and runs the same three loops
from the end for the adjoint g_t = C_t dy_t + a_{t+1} g_{t+1}. Decays are exponentials of Δ A ≤ 0, never divided by.
Where a packed sequence begins the decay is 0 and its own initial state is added instead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbio.kernels.selective_scan.torch_blocks import (
    NO_CUTS,
    Block,
    Cuts,
    Marks,
    Packing,
    Plan,
    Segment,
    Workspace,
    chunk_count,
    log_decay_gradient,
    over_channels,
    over_states,
    rescan,
    rescan_adjoint,
    walk_chunks,
    zero_state_adjoints,
    zero_state_ends,
)

# exp(-60) is 1e-26: what has decayed so far adds nothing to a sum, in float64 either. Smaller decays would underflow,
# on the way here or in products, and arithmetic on underflowing numbers is a hundred times slower.
_FORGOTTEN = -60.0


def checkpoints_shape(batch: int, length: int, d: int, n: int, sequences: int) -> tuple[int, ...]:
    """The states at the starts of chunks."""
    return batch, chunk_count(length), n, d


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, L, D), the final state (B or S, D, N), and the checkpoints: none without `keep`."""
    scan = _Scan(u, delta, A, B, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, buffers=2)
    (batch, length, channels), states = u.shape, A.shape[1]
    y = u.new_empty(u.shape)
    checkpoints = A.new_empty(checkpoints_shape(batch, length if keep else 0, channels, states, 0))
    final = A.new_empty(batch if cu_seqlens is None else cu_seqlens.shape[0] - 1, states, channels)
    for rows in scan.plan.row_blocks():
        carry = scan.entering(rows, scan.given)
        for segment in scan.plan.segments(rows):
            at = scan.load(segment)
            out = at.x.new_empty(at.x.shape)
            for group in range(scan.plan.groups):
                B_t, C_t = (segment.load(M[:, :, group], scan.dtype) for M in (B, C))
                for ch in scan.plan.channel_blocks(group):
                    decay, h = scan.space.blocks(at.dt[..., ch])
                    through, _ = scan.fill(at, B_t, ch, decay, h)
                    ends = zero_state_ends(decay, h, at.cuts)
                    enter, carry[..., ch] = walk_chunks(ends, through, carry[..., ch], reverse, at.cuts)
                    rescan(decay, h, enter, at.cuts)
                    out[..., ch] = over_states(C_t, h)
                    if keep:
                        checkpoints[rows, segment.span, :, ch] = enter
                    if at.ends is not None:
                        final[at.ends.sequences, :, ch] = at.ends.of(h)
            if D is not None:
                out.addcmul_(at.x, D)
            if z is not None:
                out.mul_(F.silu(segment.load(z, scan.dtype)))
            segment.store(out, y)
        if cu_seqlens is None:
            final[rows] = carry
    return y, final.transpose(1, 2).contiguous(), checkpoints


def backward(
    dy: Tensor,
    d_final_state: Tensor | None,
    checkpoints: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, None for what is None."""
    scan = _Scan(u, delta, A, B, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse, buffers=3)
    du, ddelta, dB, dC = (t.new_empty(t.shape) for t in (u, delta, B, C))
    dz = None if z is None else z.new_empty(z.shape)
    dA, dD, dbias = torch.zeros_like(scan.A), A.new_zeros(u.shape[2]), A.new_zeros(u.shape[2])
    d_final = None if d_final_state is None else d_final_state.transpose(1, 2)
    d_given = A.new_empty(0) if scan.given is None else torch.empty_like(scan.given)
    for rows in scan.plan.row_blocks():
        carry = scan.entering(rows, d_final)
        for segment in reversed(scan.plan.segments(rows)):
            at = scan.load(segment)
            d_y = segment.load(dy, scan.dtype)
            gate = None if z is None else segment.load(z, scan.dtype)
            d_out = d_y if gate is None else d_y * F.silu(gate)  # the gradient of y before the gate
            out, d_dt, d_dtx = (at.x.new_empty(at.x.shape) for _ in range(3))
            for group in range(scan.plan.groups):
                B_t, C_t = (segment.load(M[:, :, group], scan.dtype) for M in (B, C))
                dB_t, dC_t = B_t.new_zeros(B_t.shape), C_t.new_zeros(C_t.shape)
                for ch in scan.plan.channel_blocks(group):
                    decay, h, g = scan.space.blocks(at.dt[..., ch])
                    through, first = scan.fill(at, B_t, ch, decay, h)
                    enter = checkpoints[rows, segment.span, :, ch]
                    rescan(decay, h, enter, at.cuts)
                    over_channels(d_out[..., ch], h, dC_t)
                    if gate is not None:
                        out[..., ch] = over_states(C_t, h)

                    # The adjoint, in g; `leave` is what each chunk receives from the one after it.
                    torch.mul(d_out[..., None, ch], C_t.unsqueeze(-1), out=g.whole)
                    if at.ends is not None and d_final is not None:
                        at.ends.add(g, d_final[at.ends.sequences][..., ch])
                    passed = zero_state_adjoints(decay, g, at.cuts)
                    leave, carry[..., ch] = walk_chunks(passed, through, carry[..., ch], not reverse, at.cuts)
                    rescan_adjoint(decay, g, leave, at.cuts)
                    over_channels(at.dtx[..., ch], g, dB_t)
                    d_dtx[..., ch] = over_states(B_t, g)

                    log_decay_gradient(decay, g, h, enter)
                    if at.begins is not None:
                        at.begins.put(decay, 0)
                    if first is not None:
                        pulled = first.marks.of(g)
                        d_given[first.marks.sequences, :, ch] = pulled * first.decay
                        first.marks.put(decay, pulled * first.given)
                    d_dt[..., ch] = torch.mul(decay.whole, scan.A[:, ch], out=h.whole).sum(3)
                    dA[:, ch] += decay.whole.mul_(at.dt[..., None, ch]).sum((0, 1, 2))
                segment.store(dB_t, dB[:, :, group])
                segment.store(dC_t, dC[:, :, group])

            d_x = d_dtx * at.dt
            d_dt.addcmul_(d_dtx, at.x)
            if D is not None:
                d_x.addcmul_(d_out, D)
                dD += (d_out * at.x).sum((0, 1, 2))
                out.addcmul_(at.x, D)
            if gate is not None and dz is not None:
                segment.store(torch.ops.aten.silu_backward(d_y * out, gate), dz)
            if delta_softplus:
                d_dt.mul_(torch.sigmoid(at.raw))
            segment.clear_padding(d_dt)
            dbias += d_dt.sum((0, 1, 2))
            segment.store(d_x, du)
            segment.store(d_dt, ddelta)
        if scan.given is not None and cu_seqlens is None:
            d_given[rows] = carry
    return (
        *(du, ddelta, dA.t().contiguous(), dB, dC, None if D is None else dD, dz),
        None if delta_bias is None else dbias,
        None if initial_state is None else d_given.transpose(1, 2).contiguous(),
    )


class _Inputs(NamedTuple):
    """A segment's inputs, (rows, chunks, steps, D), and the packed sequences that begin and end in it."""

    raw: Tensor  # delta + bias
    dt: Tensor  # Δ, zero past the end of the row
    x: Tensor
    dtx: Tensor
    total: Tensor  # (rows, chunks, D): Σ Δ of each chunk
    begins: Marks | None
    ends: Marks | None
    cuts: Cuts


class _First(NamedTuple):
    """The first positions of packed sequences that have initial states, in a block; (marks, N, channels)."""

    marks: Marks
    decay: Tensor
    given: Tensor  # decay · initial state


class _Scan:
    """What forward and backward share: the cut of the call, its inputs by segment, the decays and drives of a block."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        reverse: bool,
        buffers: int,
    ) -> None:
        self.plan = Plan(u.shape, B.shape[2], A.shape[1], reverse)
        self.packing = None if cu_seqlens is None else Packing(cu_seqlens, reverse)
        self.space = Workspace(self.plan, A.shape[1], buffers, like=A)
        self.dtype = A.dtype
        self.A = A.t().contiguous()  # (N, D), as all states here: channels last
        self.given = None if initial_state is None else initial_state.transpose(1, 2)
        self._u, self._delta, self._bias, self._softplus = u, delta, delta_bias, delta_softplus

    def entering(self, rows: slice, given: Tensor | None) -> Tensor:
        """What enters these rows, (rows, N, D): in a packed row nothing, for its sequences have their own."""
        if given is None or self.packing is not None:
            return self.A.new_zeros(rows.stop - rows.start, *self.A.shape)
        return given[rows].contiguous().clone()

    def load(self, segment: Segment) -> _Inputs:
        raw = segment.load(self._delta, self.dtype)
        if self._bias is not None:
            raw = raw + self._bias
        dt = F.softplus(raw) if self._softplus else raw.clone()
        segment.clear_padding(dt)
        x = segment.load(self._u, self.dtype)
        begins, ends = (None, None) if self.packing is None else self.packing.marks(segment)
        cuts = NO_CUTS if begins is None else begins.cuts(segment.steps, self.plan.reverse)
        return _Inputs(raw, dt, x, dt * x, dt.sum(2), begins, ends, cuts)

    def fill(self, at: _Inputs, B_t: Tensor, ch: slice, decay: Block, drive: Block) -> tuple[Tensor, _First | None]:
        """Writes exp(Δ A) and Δ B x of a block; returns the decay over each chunk, and what initial states need."""
        A = self.A[:, ch]
        torch.mul(at.dt[..., None, ch], A, out=decay.whole).clamp_min_(_FORGOTTEN).exp_()
        torch.mul(at.dtx[..., None, ch], B_t.unsqueeze(-1), out=drive.whole)
        through = torch.mul(at.total[..., None, ch], A).clamp_min_(_FORGOTTEN).exp_()
        if at.begins is None:
            return through, None
        first = None
        if self.given is not None:
            own = at.begins.of(decay)
            first = _First(at.begins, own, own * self.given[at.begins.sequences][..., ch])
            at.begins.add(drive, first.given)
        at.begins.put(decay, 0)
        return through, first
