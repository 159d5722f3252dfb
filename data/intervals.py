"""Intervals of a genome: the windows around them, and records that are cut from the genome only when asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ssmbio.data.alphabet import check_letters, reverse_complement
from ssmbio.data.bed import Interval
from ssmbio.data.genome import Contigs
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import Label, PackedLabels, Record, RecordSet, checked_index
from ssmbio.errors import UserError

MAX_WINDOW = 2**20
"""The longest window, in bases."""


def check_window(length: int | None) -> None:
    """Raise `UserError` for a window that no interval can have."""
    if length is not None and not 1 <= length <= MAX_WINDOW:
        raise UserError(f"length {length}", mend=f"give 1 to {MAX_WINDOW:,} bases, or none to keep the intervals' own")


def window(start: int, end: int, strand: str, length: int | None) -> tuple[int, int]:
    """The interval of `length` bases on the centre of start..end; the interval itself where `length` is None.

    Where the centre falls between two bases the choice is made along the strand, so that an interval and its mirror
    image on the other strand get mirrored windows.
    """
    if length is None:
        return start, end
    if strand == "-":
        mirrored = (-end - start) // 2 - length // 2
        return -mirrored - length, -mirrored
    first = (start + end) // 2 - length // 2
    return first, first + length


def cut(genome: Contigs, interval: Interval, length: int | None, where: str) -> Record:
    """Read the window of an interval, on its strand; what hangs over the contig's ends is N.

    Raises:
        UserError: letters outside IUPAC, naming the contig.
    """
    contig, strand = interval.contig, interval.strand
    start, end = window(interval.start, interval.end, strand, length)
    size = genome.lengths[contig]
    left, right = max(start, 0), min(end, size)
    sequence = genome.fetch(contig, left, right)
    check_letters(sequence, f"{genome.file_of(contig)}, {contig}:{left + 1}-{right} ({where})")
    sequence = b"N" * (left - start) + sequence + b"N" * (end - right)
    if strand == "-":
        sequence = reverse_complement(sequence)
    return Record(contig, sequence, interval.label, start, end, strand)


def check_place(genome: Contigs, interval: Interval, where: str) -> None:
    """Raise `UserError` where an interval is empty, unknown to the genome, or hangs over its contig."""
    contig, start, end = interval.contig, interval.start, interval.end
    if start < 0:
        raise UserError(f"the start {start} is negative", where=where, mend="BED counts from 0")
    if start >= end:
        raise UserError(f"the start {start} is not before the end {end}", where=where, mend="give start < end")
    if contig not in genome.lengths:
        raise UserError(f"the genome has no contig '{contig}'", where=where, mend=instead_of(contig, genome.lengths))
    if end > genome.lengths[contig]:
        raise UserError(
            f"the end {end} is beyond {contig}, which has {genome.lengths[contig]} bases",
            where=where,
            mend="check that the intervals were made for this genome",
        )


class IntervalRecords(RecordSet):
    """Intervals of a genome as records, each cut when it is asked for.

    Args:
        genome: the contigs.
        intervals: the places; each is compared with the genome here.
        length: the window to cut, see `window`; None for the interval itself.
        file: the file of the intervals, for messages.
    """

    def __init__(self, genome: Contigs, intervals: Iterable[Interval], length: int | None, file: str) -> None:
        check_window(length)
        self._genome, self._length, self._file = genome, length, file
        rows = list(intervals)
        for row in rows:
            check_place(genome, row, _where(row, file))
        self._contigs = PackedLabels(row.contig for row in rows)
        self._places = np.array([(row.start, row.end) for row in rows], np.int64).reshape(-1, 2)
        self._minus = np.array([row.strand == "-" for row in rows], np.bool_)
        self._labels = PackedLabels(row.label for row in rows)
        self._lines = np.array([row.line or 0 for row in rows], np.int64)

    def interval(self, index: int) -> Interval:
        """The interval before it is widened."""
        index = checked_index(index, len(self))
        start, end = self._places[index].tolist()
        strand = "-" if self._minus[index] else "+"
        line = int(self._lines[index]) or None
        return Interval(str(self._contigs[index]), start, end, strand, self._labels[index], line)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        return cut(self._genome, self.interval(index), self._length, self.where(index))

    def label_of(self, index: int) -> Label:
        return self._labels[checked_index(index, len(self))]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        if self._length is not None:
            return np.full(len(self), self._length, np.int64)
        return self._places[:, 1] - self._places[:, 0]

    def contig_of(self, index: int) -> str:
        """The contig, without reading it."""
        return str(self._contigs[checked_index(index, len(self))])

    def where(self, index: int) -> str:
        return _where(self.interval(index), self._file)


def _where(interval: Interval, file: str) -> str:
    if interval.line is not None:
        return f"{file}, line {interval.line}"
    return f"{file}, {interval.contig}:{interval.start + 1}-{interval.end}"
