"""Reading sequences for prediction: one record after the other from any file we know, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssmbio.data.alphabet import check_letters
from ssmbio.data.bed import read_bed
from ssmbio.data.fasta import FASTA_SUFFIXES, read_fasta
from ssmbio.data.genbank import GENBANK_SUFFIXES, read_genbank
from ssmbio.data.genome import Genome
from ssmbio.data.intervals import check_place, check_window, cut
from ssmbio.data.records import Record, empty_sequence_error
from ssmbio.data.tables import TABLE_SUFFIXES, Columns, line_word, read_rows
from ssmbio.data.text_files import bare_suffix
from ssmbio.errors import UserError

REMEMBERED_NAMES = 2**20
"""A FASTA's later records are compared with this many of its first for names used twice, so that memory has a bound."""

# What is set where nothing else is asked for.
_NOT_GIVEN = {"fasta": None, "sequence_column": "sequence", "name_column": None}


def iter_records(
    path: str | Path,
    *,
    fasta: str | Path | None = None,
    length: int | None = None,
    sequence_column: str = "sequence",
    name_column: str | None = None,
) -> Iterator[Record]:
    """The records of a file, without labels, in its order; the suffix tells the format and .gz may follow it.

    Args:
        path: FASTA, a table (csv, tsv, txt, parquet), BED, or GenBank.
        fasta: the genome of a BED file.
        length: the window around each interval of a BED file, as in `IntervalSource`. Models bring theirs, so other
            formats leave it unused.
        sequence_column, name_column: of a table, as in `TableSource`.

    Raises:
        UserError: an unknown suffix, or a setting that has no meaning for it, before the first record; a fault of the
            file, when the reading comes to it.
    """
    suffix = bare_suffix(path)
    given = {"fasta": fasta, "sequence_column": sequence_column, "name_column": name_column}
    if suffix == ".bed":
        _refuse(given, ("sequence_column", "name_column"), "BED files")
        check_window(length)
        if fasta is None:
            raise UserError("intervals need their genome", where=path, mend="set fasta to it, plain or bgzip")
        return _from_bed(path, fasta, length)
    if suffix in FASTA_SUFFIXES:
        _refuse(given, tuple(given), "FASTA files")
        return _from_fasta(path)
    if suffix in TABLE_SUFFIXES:
        _refuse(given, ("fasta",), "tables")
        return _from_table(path, Columns(sequence_column, None, None, name_column))
    if suffix in GENBANK_SUFFIXES:
        _refuse(given, tuple(given), "GenBank files")
        return _from_genbank(path)
    known = " ".join((*FASTA_SUFFIXES, *TABLE_SUFFIXES, ".bed", *GENBANK_SUFFIXES))
    raise UserError(f"the suffix '{suffix}' tells no format", where=path, mend=f"use one of {known}, also with .gz")


def _refuse(given: Mapping[str, object], names: Sequence[str], inputs: str) -> None:
    for name in names:
        if given[name] != _NOT_GIVEN[name]:
            raise UserError(f"{name}={given[name]} has no meaning for {inputs}", mend=f"leave {name} out")


def _from_fasta(path: str | Path) -> Iterator[Record]:
    for name, sequence in read_fasta(path, REMEMBERED_NAMES):
        check_letters(sequence, f"{path}, record '{name}'")
        yield Record(name, sequence)


def _from_table(path: str | Path, columns: Columns) -> Iterator[Record]:
    word = line_word(path)
    for row in read_rows(path, columns):
        where = f"{path}, {word} {row.place}"
        if not row.sequence:
            raise empty_sequence_error(where)
        check_letters(row.sequence, where)
        yield Record(row.name, row.sequence)


def _from_bed(path: str | Path, fasta: str | Path, length: int | None) -> Iterator[Record]:
    genome = Genome(fasta)
    for interval in read_bed(path, None):
        where = f"{path}, line {interval.line}"
        check_place(genome, interval, where)
        yield cut(genome, interval, length, where)


def _from_genbank(path: str | Path) -> Iterator[Record]:
    for record, letters in read_genbank(path):
        check_letters(letters, f"{path}, record '{record.id}'")
        yield Record(str(record.id), letters)
