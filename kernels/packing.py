"""Packed rows: several sequences laid end to end in one row, delimited by `cu_seqlens` (int32, S + 1 offsets)."""

from __future__ import annotations

from itertools import pairwise

import torch


def sequence_bounds(length: int, cu_seqlens: torch.Tensor | None) -> list[tuple[int, int]]:
    """`[(start, end), …]` of the sequences in a row of `length` positions; without `cu_seqlens`, the row itself."""
    if cu_seqlens is None:
        return [(0, length)]
    return list(pairwise(cu_seqlens.tolist()))


def check_offsets(cu_seqlens: torch.Tensor | None, total: int) -> None:
    """Raises ValueError unless the offsets go from 0 to `total` and every sequence has a position.

    Only offsets on the CPU are looked at: reading them from a GPU would stall it at every call.
    """
    if cu_seqlens is None or cu_seqlens.device.type != "cpu":
        return
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != total:
        raise ValueError(
            f"cu_seqlens must start at 0 and end at the row's length {total}; "
            f"got {int(cu_seqlens[0])} and {int(cu_seqlens[-1])}"
        )
    lengths = cu_seqlens.diff()
    if int(lengths.min()) < 1:
        place = int(lengths.argmin())
        raise ValueError(
            f"cu_seqlens must increase, so that every sequence has a position; "
            f"sequence {place} has length {int(lengths[place])}"
        )
