"""How the rows or packed sequences of a call are cut into chunks of T steps.

All chunks of all sequences lie side by side, (D, M, T), each sequence in chunks of its own, whose last is filled up
with zeros. Positions are counted in the order of the scan, sequences and channels as they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssmbio.kernels.lti_scan.torch_walk import groups_of

STEPS = 64  # the longest chunk


@dataclass(frozen=True)
class Layout:
    """The cut of one call."""

    rows: int  # B
    length: int
    reverse: bool
    steps: int  # T
    used: int  # chunks with positions; the walk goes over M, which is G groups of J
    groups: tuple[int, int]  # G, J
    firsts: Tensor  # (S,): the first chunk of each sequence
    lasts: Tensor  # (S,): the last
    rests: Tensor  # (S,): the positions in the last, 1 to T
    tail_from: Tensor  # those positions among the M · T
    tail_to: Tensor  # and in (S, T) windows, which they fill from the right
    slots: Tensor | None  # (L,): the places of a packed row's positions among the M · T
    cuts: Tensor | None  # (G, J) bool, on the CPU: the next chunk is another sequence's; None: there is but one

    @classmethod
    def of(cls, u: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Layout:
        rows, length, _ = u.shape
        lengths = torch.full((rows,), length) if cu_seqlens is None else cu_seqlens.cpu().long().diff()
        steps = _steps(lengths)
        counts = (lengths + steps - 1) // steps
        lasts = counts.cumsum(0) - 1
        firsts, used = lasts + 1 - counts, int(lasts[-1]) + 1
        groups = groups_of(used)
        rests = lengths - (counts - 1) * steps
        within, windows = torch.arange(steps), torch.arange(len(lengths)) * steps
        filled = within < rests.unsqueeze(1)  # (S, T)
        tail_from = ((lasts * steps).unsqueeze(1) + within)[filled]
        tail_to = ((windows + steps - rests).unsqueeze(1) + within)[filled]
        slots = cuts = None
        if cu_seqlens is not None:
            ends = lengths.cumsum(0)
            own = torch.arange(len(lengths)).repeat_interleave(lengths)
            l = torch.arange(length)
            slots = (firsts[own] * steps + (ends[own] - 1 - l if reverse else l - (ends - lengths)[own])).to(u.device)
        if len(lengths) > 1:
            cuts = torch.zeros(groups[0] * groups[1], dtype=torch.bool).index_fill_(0, lasts, True).view(groups)
        firsts, lasts, rests = firsts.to(u.device), lasts.to(u.device), rests.to(u.device)
        tail_from, tail_to = tail_from.to(u.device), tail_to.to(u.device)
        return cls(rows, length, reverse, steps, used, groups, firsts, lasts, rests, tail_from, tail_to, slots, cuts)

    def load(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, L, D) to (D, 1 + M, T): an empty chunk, then all of them."""
        chunks = self.groups[0] * self.groups[1]
        places = rows.new_empty((1 + chunks) * self.steps, rows.shape[2], dtype=dtype)
        before, inside, after = places.tensor_split((self.steps, (1 + self.used) * self.steps))
        before.zero_()
        after.zero_()
        if self.slots is None:
            inside = inside.unflatten(0, (self.rows, -1))
            inside[:, : self.length] = rows.flip(1) if self.reverse else rows
            inside[:, self.length :] = 0
        else:
            inside.zero_()
            inside[self.slots] = rows[0].to(dtype)
        return places.t().contiguous().unflatten(1, (-1, self.steps))

    def store(self, values: Tensor, rows: Tensor) -> None:
        """(D, M, T) to (B, L, D)."""
        places = values[:, : self.used].flatten(1).t()
        if self.slots is None:
            found = places.unflatten(0, (self.rows, -1))[:, : self.length]
            rows.copy_(found.flip(1) if self.reverse else found)
        else:
            rows[0] = places[self.slots].to(rows.dtype)

    def tails(self, values: Tensor) -> Tensor:
        """(D, M, T) to (D, S, T): the last chunk of each sequence, moved right until its last position is the last."""
        windows = values.new_zeros(values.shape[0], len(self.rests) * self.steps)
        windows[:, self.tail_to] = values.flatten(1)[:, self.tail_from]
        return windows.unflatten(1, (-1, self.steps))

    def add_tails(self, windows: Tensor, values: Tensor) -> None:
        """The transpose of `tails`: (D, S, T) added to (D, 1 + M, T), whose first chunk is empty."""
        places = values.view(values.shape[0], -1)
        places[:, self.tail_from + self.steps] += windows.flatten(1)[:, self.tail_to]


def _steps(lengths: Tensor) -> int:
    """As even as can be for equal sequences, and not much longer than most sequences."""
    typical = int(lengths.max()) if lengths.min() == lengths.max() else max(8, int(lengths.double().mean()))
    return -(-typical // -(-typical // STEPS))
