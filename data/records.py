"""What every source of data gives: records, in sets that are read at random and only when asked.

A `Source` names its splits, and each split is a `LabelledSet`; of sequences it is a `RecordSet`, which gives a `Record`
for an index (for images see `images.py`). Sets travel to DataLoader workers, so they pickle, and they hold their
sequences in one block of bytes or not at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ssmbio.data.alphabet import bad_letter_error, first_bad_letter
from ssmbio.errors import UserError

Label: TypeAlias = str | tuple[str, ...] | None
"""One class, several at once (multi-label; may be empty), or none given."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence with its label and the place it comes from.

    Attributes:
        name: of the record or, for an interval of a genome, of its contig.
        sequence: ASCII letters, already on `strand`; lower case is soft-masked.
        label: see `Label`.
        start, end: 0-based half-open place of `sequence` in the contig or the record, always on its forward strand,
            with ``end - start == len(sequence)``; −1 for `end` stands for that. A window that was padded hangs over its
            contig, so its `start` may be negative.
        strand: "+" or "-".
    """

    name: str
    sequence: bytes
    label: Label = None
    start: int = 0
    end: int = -1
    strand: str = "+"

    def __post_init__(self) -> None:
        if self.end == -1:
            object.__setattr__(self, "end", self.start + len(self.sequence))

    def first(self, letters: int) -> Record:
        """Its first letters, with their place; the record itself where it has no more."""
        if len(self.sequence) <= letters:
            return self
        # On the reverse strand it runs backwards along its contig.
        start = self.start if self.strand == "+" else self.end - letters
        return replace(self, sequence=self.sequence[:letters], start=start, end=start + letters)


class LabelledSet(ABC):
    """Things with labels by index, in the order of the file: what splits, labels and messages need to know of them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def label_of(self, index: int) -> Label:
        """The label, without reading the rest."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The place a message should name: ``train.csv, line 7``."""

    @abstractmethod
    def subset(self, indices: npt.ArrayLike) -> LabelledSet:
        """Those at `indices`, in that order."""

    def labels(self) -> list[Label]:
        """The label of every record."""
        return [self.label_of(index) for index in range(len(self))]


class RecordSet(LabelledSet):
    """Sequences by index, in the order of the file."""

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Read one record. Raises IndexError beyond the end; negative indices count from it."""

    def in_epoch(self, epoch: int, index: int) -> Record:
        """The record as training sees it in an epoch: the same in all, but for sets that draw theirs anew."""
        return self[index]

    @property
    @abstractmethod
    def lengths(self) -> npt.NDArray[np.int64]:
        """The letters in each record, without reading them."""

    def subset(self, indices: npt.ArrayLike) -> RecordSubset:
        return RecordSubset(self, indices)


class Source(Protocol):
    """Something that has data: a table, a genome with intervals, a simulation."""

    def splits(self) -> Mapping[str, LabelledSet]:
        """The sets that the user gave, under "train", "val" or "test"."""


class PackedBytes:
    """An immutable list of byte strings kept as one blob, so that a million of them are two objects, not a million."""

    def __init__(self, items: Iterable[bytes]) -> None:
        pieces = items if isinstance(items, list) else list(items)
        self.offsets = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=self.offsets[1:])
        self.blob = b"".join(pieces)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.blob[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


class PackedLabels:
    """A list of labels kept as small integers beside the distinct labels."""

    def __init__(self, labels: Iterable[Label]) -> None:
        code_of: dict[Label, int] = {}
        self.codes = np.fromiter((code_of.setdefault(label, len(code_of)) for label in labels), np.int32)
        self.distinct = list(code_of)

    def __getitem__(self, index: int) -> Label:
        return self.distinct[self.codes[index]]


class PackedRecords(RecordSet):
    """Records held in memory, about as many bytes as they have letters.

    Args:
        names, sequences, labels: one each a record, as long as each other.
        files: each file that was read, with the index of its first record.
        lines: the place of each record in its file, counted from 1; without it `where` gives the record's name.
        line_word: what `lines` counts: lines of a text, rows of a parquet table.
        nucleotides: whether the letters must be those of IUPAC; False leaves them unchecked.

    Raises:
        UserError: an empty sequence, or letters outside IUPAC.
    """

    def __init__(
        self,
        *,
        names: Iterable[bytes],
        sequences: Iterable[bytes],
        labels: Iterable[Label],
        files: Sequence[tuple[str, int]],
        lines: Sequence[int] | None = None,
        line_word: str = "line",
        nucleotides: bool = True,
    ) -> None:
        self._names = PackedBytes(names)
        self._sequences = PackedBytes(sequences)
        self._labels = PackedLabels(labels)
        self._files = list(files)
        self._lines = None if lines is None else np.asarray(lines, np.int64)
        self._line_word = line_word
        self._check_sequences(nucleotides)

    def _check_sequences(self, nucleotides: bool) -> None:
        lengths = self._sequences.lengths
        if not lengths.all():
            raise empty_sequence_error(self.where(int(np.argmin(lengths))))
        position = first_bad_letter(self._sequences.blob) if nucleotides else None
        if position is not None:
            index = int(np.searchsorted(self._sequences.offsets, position, side="right")) - 1
            start = int(self._sequences.offsets[index])
            raise bad_letter_error(self._sequences.blob[position], position - start, self.where(index))

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> Record:
        index = checked_index(index, len(self))
        return Record(self._names[index].decode(), self._sequences[index], self._labels[index])

    def label_of(self, index: int) -> Label:
        return self._labels[checked_index(index, len(self))]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self._sequences.lengths

    def where(self, index: int) -> str:
        index = checked_index(index, len(self))
        file = next(name for name, first in reversed(self._files) if first <= index)
        if self._lines is None:
            return f"{file}, record '{self._names[index].decode()}'"
        return f"{file}, {self._line_word} {self._lines[index]}"


class RecordSubset(RecordSet):
    """Some records of another set, in a given order."""

    def __init__(self, records: RecordSet, indices: npt.ArrayLike) -> None:
        self._records = records
        self._indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._indices[index])]

    def in_epoch(self, epoch: int, index: int) -> Record:
        return self._records.in_epoch(epoch, int(self._indices[index]))

    def label_of(self, index: int) -> Label:
        return self._records.label_of(int(self._indices[index]))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self._records.lengths[self._indices]

    def where(self, index: int) -> str:
        return self._records.where(int(self._indices[index]))


def checked_index(index: int, length: int) -> int:
    """`index` with a negative one counted from the end; IndexError beyond either end."""
    if not -length <= index < length:
        raise IndexError(f"record {index} of {length}")
    return index % length


def empty_sequence_error(where: str | Path) -> UserError:
    """The error for a record without letters."""
    return UserError("the sequence is empty", where=where, mend="remove the record or give it a sequence")
