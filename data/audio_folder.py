"""A folder of audio files as a source: splits and labels from a splits.csv, or from the names of its sub-folders."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_files import AUDIO_SUFFIXES
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.labelled_folders import SPLIT_NAMES, checked_fractions, divided_at_random, split_folders
from ssmbio.data.nearest import instead_of, shorten
from ssmbio.data.records import SPLITS
from ssmbio.data.tables import read_cells
from ssmbio.data.text_files import read_lines
from ssmbio.errors import UserError

SPLIT_TABLE = "splits.csv"
COLUMNS = ("path", "label", "split")

_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


class Entry(NamedTuple):
    """A file, its label, and the place that a message about either should name."""

    path: Path
    label: str | None
    where: str


class AudioFolderSource:
    """Audio files below a folder; hidden ones and files of other kinds are left out.

    The layout is the first of these that is there:

    - ``<root>/splits.csv`` with the columns path (relative to it), label (may be empty, then in all rows) and split;
    - ``<root>/train/…``, perhaps with ``val`` and ``test``: in each, sub-folders are labels, or there are none;
    - ``<root>/<label>/…``, divided by `split`;
    - ``<root>/…`` without sub-folders: no labels, divided by `split`.

    Args:
        root: the folder.
        sample_rate: in Hz, of what is read.
        resample: allow files of another rate.
        split: fractions for val and test; the rest is train. Not used where the layout has splits.
        split_by: random, with the same shares of each label; or order, which cuts the list of all files, in natural
            order (2 before 10), into train, val and test. SaShiMi's YouTubeMix and Beethoven are cut so, 88/6/6.
        seed: of a random split.

    Raises:
        UserError: settings that cannot be.
    """

    def __init__(
        self,
        *,
        root: str,
        sample_rate: int,
        resample: bool = True,
        split: Mapping[str, float] | None = None,
        split_by: str = "random",
        seed: int = 0,
    ) -> None:
        if type(sample_rate) is not int or sample_rate < 1:
            raise UserError(f"sample_rate {sample_rate}", mend="set data.sample_rate to samples a second: 16000")
        if split_by not in ("random", "order"):
            raise UserError(f"split_by '{split_by}'", mend="set data.split_by to random or order")
        self.root, self.sample_rate, self.resample = Path(root).expanduser(), sample_rate, resample
        self.split, self.split_by, self.seed = checked_fractions(split), split_by, seed

    def splits(self) -> dict[str, AudioSet]:
        """Find the files and read the header of each.

        Raises:
            UserError: no such folder, no audio in it, files with labels beside files without, a table that is wrong,
                too few files for a split, what `audio_info` and `check_audio` raise.
        """
        if not self.root.is_dir():
            what = "this is a file" if self.root.exists() else "there is no such folder"
            raise UserError(what, where=self.root, mend="set data.root to a folder of audio files")
        entries = self._entries()
        _check_labels([entry for own in entries.values() for entry in own])
        return {split: self._read(entries[split]) for split in SPLITS if split in entries}

    def _entries(self) -> dict[str, list[Entry]]:
        if (self.root / SPLIT_TABLE).is_file():
            return read_split_table(self.root)
        if folders := split_folders(self.root):
            return {split: _in_folder(folder) for split, folder in folders.items()}
        return self._divided(_in_folder(self.root))

    def _read(self, entries: Sequence[Entry]) -> AudioSet:
        return AudioSet.of_files(
            [entry.path for entry in entries],
            [entry.label for entry in entries],
            sample_rate=self.sample_rate,
            resample=self.resample,
            root=self.root,
        )

    def _divided(self, entries: list[Entry]) -> dict[str, list[Entry]]:
        if self.split_by == "order":
            rows = self._in_order(len(entries))
        else:
            rows = divided_at_random([entry.label for entry in entries], self.split, self.seed)
        asked = {**self.split, "train": 1 - sum(self.split.values())}
        for split in SPLITS:
            if asked.get(split, 0) > 1e-9 and not len(rows[split]):
                count = "1 file is" if len(entries) == 1 else f"{len(entries)} files are"
                raise UserError(
                    f"{count} too few to leave one for {split}",
                    where=self.root,
                    mend=f"change data.split, cut files into several, or say in {SPLIT_TABLE} which go where",
                )
        return {split: [entries[row] for row in rows[split]] for split in SPLITS if len(rows[split])}

    def _in_order(self, files: int) -> dict[str, npt.NDArray[np.int64]]:
        test = self.split.get("test", 0)
        # Rounded first: 1 − 0.06 − 0.06 is a little less than 0.88.
        cuts = [math.floor(round(share * files, 6)) for share in (1 - self.split.get("val", 0) - test, 1 - test)]
        return dict(zip(SPLITS, np.split(np.arange(files), cuts), strict=True))


def audio_files(folder: Path) -> list[Path]:
    """The audio files in a folder and below it, in natural order; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name) for name in files if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found, key=_natural)


def read_split_table(root: Path) -> dict[str, list[Entry]]:
    """What stands in ``<root>/splits.csv``, in its order.

    Raises:
        UserError: a column that is missing, a ragged row, a split that is none, a file that is not there or is named
            twice, no row for train.
    """
    table = root / SPLIT_TABLE
    header = [cell.strip() for cell in next(csv.reader(read_lines(table)), [])]
    for column in COLUMNS:
        if column not in header:
            mend = f"the header is {','.join(COLUMNS)}"
            raise UserError(f"there is no column '{column}'", where=f"{table}, line 1", mend=mend)
    entries: dict[str, list[Entry]] = {}
    line_of: dict[str, int] = {}
    for line, cells in read_cells(table, COLUMNS):
        name, label, split_name = (cell.strip() for cell in cells)
        where, path = f"{table}, line {line}", root / name
        split = _SPLIT_OF.get(split_name.lower())
        if split is None:
            raise UserError(f"split '{shorten(split_name)}'", where=where, mend=instead_of(split_name, SPLITS))
        if not path.is_file():
            raise UserError(f"there is no file '{shorten(name, 80)}'", where=where, mend=f"paths start at {root}")
        first = line_of.setdefault(os.path.normpath(path), line)
        if first != line:
            raise UserError(f"'{shorten(name, 80)}' stands in line {first} too", where=where, mend="remove one of them")
        entries.setdefault(split, []).append(Entry(path, label or None, where))
    if "train" not in entries:
        raise UserError("no row has the split train", where=table, mend="name the files to train on")
    return entries


def _in_folder(folder: Path) -> list[Entry]:
    """The labels are the folders at the top; files may lie deeper."""
    entries = []
    for path in audio_files(folder):
        parts = path.relative_to(folder).parts
        entries.append(Entry(path, parts[0] if len(parts) > 1 else None, str(path)))
    if not entries:
        raise UserError("no audio files in it", where=folder, mend=f"the suffixes known are {' '.join(AUDIO_SUFFIXES)}")
    return entries


def _check_labels(entries: Sequence[Entry]) -> None:
    without = next((entry for entry in entries if entry.label is None), None)
    labelled = next((entry for entry in entries if entry.label is not None), None)
    if without is not None and labelled is not None:
        raise UserError(
            f"there is no label, but '{labelled.label}' in {labelled.where}",
            where=without.where,
            mend="give every file a label, by its folder or in the table, or none",
        )


def _natural(path: Path) -> Any:
    """A key that has runs of digits by their value: 2 before 10."""
    parts = (re.split(r"(\d+)", part) for part in path.parts)
    return [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts], path.parts
