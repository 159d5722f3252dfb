"""Files in folders that are named for their label, and how such a folder is divided into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssmbio.data.labelled import check_seed
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS
from ssmbio.errors import UserError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What folders, and the cells of a table, may call a split."""


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits that lie in `root`, the first of its names for each; empty if there are none."""
    found = {split: [root / name for name in names if (root / name).is_dir()] for split, names in SPLIT_NAMES.items()}
    return {split: folders[0] for split, folders in found.items() if folders}


def checked_fractions(split: Mapping[str, float | None] | None) -> dict[str, float]:
    """The fractions for val and test that are given.

    Raises:
        UserError: another split, a number that is no fraction, more than 1 in all.
    """
    given = {name: value for name, value in (split or {}).items() if value is not None}
    for name, value in given.items():
        if name not in ("val", "test"):
            raise UserError(f"split '{name}'", mend=instead_of(name, ("val", "test")))
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"split.{name} {value}", mend=f"set data.split.{name} to a fraction from 0 to 1")
    if sum(given.values()) > 1 + 1e-9:
        raise UserError("the fractions of data.split add up to more than 1", mend="leave something for train")
    return given


def divided_at_random(
    labels: Sequence[object], fractions: Mapping[str, float], seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """The rows of each split, in order. Each label is cut alike: its first rows, in a random order, are test, then val.

    Args:
        labels: (n,), what rows are told apart by.
        fractions: for val and test; the rest is train.

    Raises:
        UserError: a seed that is none.
    """
    check_seed("data.split_seed", seed)
    names = np.array(["" if label is None else str(label) for label in labels])
    order = np.random.default_rng(seed).permutation(len(names))
    parts: dict[str, list[npt.NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for name in np.unique(names):
        own = order[names[order] == name]
        test = round(fractions.get("test", 0) * len(own))
        val = min(round(fractions.get("val", 0) * len(own)), len(own) - test)
        for split, part in zip(("test", "val", "train"), np.split(own, [test, test + val]), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(pieces)) for split, pieces in parts.items()}
