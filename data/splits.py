"""Splitting the intervals of a genome into train, val and test: by contig, or at random by fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from ssmbio.data.intervals import IntervalRecords
from ssmbio.data.labelled import check_seed
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS, RecordSet, RecordSubset
from ssmbio.errors import UserError

Part: TypeAlias = str | Sequence[str] | float
"""What a split takes: one contig, several, or a fraction of all intervals."""


def split_intervals(
    records: IntervalRecords, parts: Mapping[str, Part], seed: int, contigs: Sequence[str]
) -> dict[str, RecordSet]:
    """Give each split its part; what no part takes goes to train. File order is kept inside each.

    Args:
        parts: "val" and "test", perhaps "train", each with contigs or each with a fraction.
        seed: for fractions. Intervals that overlap may then fall into different splits; contigs keep them apart.
        contigs: the names that the genome has.

    Raises:
        UserError: an unknown split or contig, a contig in two splits, fractions beyond 1, a split that stays empty,
            a seed that is none.
    """
    for split in parts:
        if split not in SPLITS:
            raise UserError(f"split '{split}'", mend=instead_of(split, SPLITS))
    fractions = {split: part for split, part in parts.items() if isinstance(part, (int, float))}
    if fractions and len(fractions) < len(parts):
        raise UserError("the split mixes fractions and contigs", mend="give one or the other")
    chosen = _by_fraction(len(records), fractions, seed) if fractions else _by_contig(records, _lists(parts), contigs)
    for split, indices in chosen.items():
        if not len(indices):
            raise UserError(f"no interval falls into the split '{split}'", mend="change the split")
    return {split: RecordSubset(records, chosen[split]) for split in SPLITS if split in chosen}


def _lists(parts: Mapping[str, Part]) -> dict[str, list[str]]:
    return {
        split: [part] if isinstance(part, str) else [str(name) for name in part]
        for split, part in parts.items()
        if not isinstance(part, (int, float))
    }


def _by_contig(records: IntervalRecords, parts: dict[str, list[str]], contigs: Sequence[str]) -> dict[str, list[int]]:
    split_of: dict[str, str] = {}
    for split, names in parts.items():
        for name in names:
            if name not in contigs:
                raise UserError(f"the genome has no contig '{name}' for '{split}'", mend=instead_of(name, contigs))
            if split_of.setdefault(name, split) != split:
                raise UserError(f"contig '{name}' is in '{split_of[name]}' and in '{split}'", mend="put it in one")
    chosen: dict[str, list[int]] = {split: [] for split in ("train", *parts)}
    # Where train names its contigs, the others are left out.
    rest: str | None = None if "train" in parts else "train"
    for index in range(len(records)):
        found = split_of.get(records.contig_of(index), rest)
        if found is not None:
            chosen[found].append(index)
    return chosen


def _by_fraction(count: int, fractions: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    if min(fractions.values()) <= 0 or sum(fractions.values()) > 1 + 1e-9:
        raise UserError(f"fractions {dict(fractions)}", mend="give each more than 0, and 1 or less in all")
    check_seed("data.split_seed", seed)
    order = np.random.default_rng(seed).permutation(count)
    chosen: dict[str, np.ndarray] = {}
    taken = 0
    for split, fraction in fractions.items():
        size = min(round(count * fraction), count - taken)
        chosen[split] = np.sort(order[taken : taken + size])
        taken += size
    if "train" not in fractions:
        chosen["train"] = np.sort(order[taken:])
    return chosen
