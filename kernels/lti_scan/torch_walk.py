"""The walk of states over the chunks: M of them, as G groups of J.

Every group is walked as if nothing entered it, all of them at once; then the last places of the groups, one after
another; then what enters a group is added to its other places. So the loops have 2 J + G rounds, not M.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor


def groups_of(chunks: int) -> tuple[int, int]:
    """G and J that hold all chunks, with few rounds and few chunks in vain."""
    root = math.isqrt(chunks)
    size = min(range(root, 2 * root + 1), key=lambda size: -chunks % size)
    return -(-chunks // size), size


def walk(path: Tensor, decays: Tensor, cuts: Tensor | None, descending: bool = False) -> None:
    """path_m ← path_m + decay path_{m−1} from the first m on, in place; descending, path_m + decay path_{m+1}.

    Args:
        path: (D, M, N), contiguous.
        decays: (D, J, N), over 1, 2, … J chunks.
        cuts: (G, J), bool, on the CPU: between chunk (g, j) and the next nothing passes. None: no cuts.
        descending: walk from the last chunk to the first.
    """
    size = decays.shape[1]
    along = path.unflatten(1, (-1, size))
    groups = along.shape[1]
    places = along.unbind(2)  # J of (D, G, N)
    sources, targets = slice(0, -1), slice(1, None)  # neighbouring groups
    if descending:
        places, sources, targets = places[::-1], targets, sources
    within, entering = _masks(cuts, targets, descending, path.device)
    for i in range(1, size):
        places[i].addcmul_(_kept(places[i - 1], within, i - 1), decays[:, :1])
    lines = places[-1].unbind(1)
    order = range(groups)[::-1] if descending else range(groups)
    for before, after in pairwise(order):
        if entering is None or not entering[0][min(before, after), -1]:
            lines[after].addcmul_(lines[before], decays[:, -1])
    for i in range(size - 1):
        places[i][:, targets].addcmul_(_kept(places[-1][:, sources], entering, i), decays[:, i, None])


_Masks = tuple[Tensor, Tensor]  # (groups, places) bool, on the CPU and on the device of the states


def _masks(
    cuts: Tensor | None, targets: slice, descending: bool, device: torch.device
) -> tuple[_Masks | None, _Masks | None]:
    """Where nothing passes: from each place of the walk to the next, and from a group to each place of the next."""
    if cuts is None:
        return None, None
    within = cuts[:, :-1].flip(1) if descending else cuts[:, :-1]
    entering = torch.cat([cuts[:-1, -1:], within[targets]], dim=1).cumsum(1) > 0
    return (within, within.to(device)), (entering, entering.to(device))


def _kept(states: Tensor, masks: _Masks | None, place: int) -> Tensor:
    """(D, groups, N) without what a cut keeps back."""
    if masks is None or not masks[0][:, place].any():
        return states
    return states.masked_fill(masks[1][:, place, None], 0)
