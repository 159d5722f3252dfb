"""Packed sequences as rows of one length, for convolutions by FFT, which know no `cu_seqlens`."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbio.kernels.checks import check_packing
from ssmbio.kernels.packing import check_offsets
from ssmbio.packing import pack, unpack


class SequenceRows:
    """The sequences of x (B, L, D), or of a packed row (1, total, D), as rows (R, M, D) in the order of a scan.

    Args:
        x: gives the shape and the device.
        cu_seqlens: (S + 1,) int32 offsets of packed sequences; None: each row is one sequence.
        reverse: rows run from the end of each sequence to its start.

    Raises:
        ValueError, TypeError: cu_seqlens does not fit x. On a GPU too: the longest sequence has to be read anyway.

    Attributes:
        lengths: (R,), of each sequence. longest: M.
    """

    def __init__(self, x: Tensor, cu_seqlens: Tensor | None = None, reverse: bool = False) -> None:
        self.packed, self.reverse = cu_seqlens is not None, reverse
        if cu_seqlens is None:
            self.longest = x.shape[1]
            self.lengths = torch.full((x.shape[0],), self.longest, device=x.device)
        else:
            check_packing("x", x, cu_seqlens)
            self.lengths = cu_seqlens.diff().long()
            offsets = cu_seqlens.cpu()
            check_offsets(offsets, x.shape[1])
            self.longest = int(offsets.diff().max())

    def split(self, x: Tensor, ends_meet: bool = True) -> Tensor:
        """x → rows, zero where a row is longer than its sequence: at its start if `ends_meet`, else at its end."""
        if self.packed:
            x = unpack(x, self._valid(ends_meet))
        return x.flip(1) if self.reverse else x

    def join(self, rows: Tensor, ends_meet: bool = True) -> Tensor:
        """The inverse of `split`."""
        rows = rows.flip(1) if self.reverse else rows
        return pack(rows, self._valid(ends_meet)) if self.packed else rows

    def _valid(self, ends_meet: bool) -> Tensor:
        position = torch.arange(self.longest, device=self.lengths.device)
        if ends_meet != self.reverse:
            position = self.longest - 1 - position
        return position < self.lengths[:, None]
