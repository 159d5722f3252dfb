"""BED files: intervals with a label and a strand. Coordinates are 0-based and half-open, as BED has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssmbio.data.nearest import instead_of, shorten
from ssmbio.data.records import Label
from ssmbio.data.text_files import read_lines
from ssmbio.errors import UserError

_STRANDS = {"+": "+", "-": "-", ".": "+"}


class Interval(NamedTuple):
    """A place in a genome with its label; `line` is where the file names it, or None."""

    contig: str
    start: int
    end: int
    strand: str = "+"
    label: Label = None
    line: int | None = None


def read_bed(path: str | Path, label_column: int | str | None, separator: str | None = None) -> Iterator[Interval]:
    """The intervals of a BED file, plain or gzip, in constant memory; they are not yet compared with a genome.

    Args:
        label_column: the number of a column, counted from 1 (the name is 4), or its name where the file has a header
            line (the second column of which is "start" or "chromStart"); None reads no labels.
        separator: what parts several labels in one cell.

    Raises:
        UserError: too few columns, a start or end that is no whole number, a strand that is none of + - . (column 6, or
            the column "strand" of a header), an empty label, no intervals at all.
    """
    header: list[str] | None = None
    label_at: int | None = None
    strand_at: int | None = 5
    empty = True
    for line, text in enumerate(read_lines(path), 1):
        text = text.rstrip("\r\n")
        fields = _fields(text)
        if not text.strip() or fields[0].split(" ")[0] in ("track", "browser"):
            continue
        where = f"{path}, line {line}"
        if empty and (names := _header(text)):
            header = names
            continue
        if text.startswith("#"):
            continue
        if empty:
            label_at = _label_at(label_column, header, path)
            if header is not None:
                strand_at = header.index("strand") if "strand" in header else None
        empty = False
        if len(fields) < 3:
            raise UserError(
                f"{len(fields)} columns", where=where, mend="BED needs contig, start and end, parted by tabs"
            )
        strand = fields[strand_at] if strand_at is not None and strand_at < len(fields) else "."
        if strand not in _STRANDS:
            raise UserError(f"'{shorten(strand)}' as strand", where=where, mend="column 6 of BED holds + - or .")
        label = None if label_at is None else _label(fields, label_at, separator, where)
        yield Interval(
            fields[0], _whole(fields[1], "start", where), _whole(fields[2], "end", where), _STRANDS[strand], label, line
        )
    if empty:
        raise UserError("there are no intervals", where=path, mend="check how it was made")


def _fields(text: str) -> list[str]:
    return text.split("\t") if "\t" in text else text.split()


def _header(text: str) -> list[str] | None:
    """The names of the columns, if this is a header line: the second is "start" or, as at UCSC, "chromStart"."""
    names = _fields(text.lstrip("# "))
    return names if len(names) > 2 and "start" in names[1].lower() else None


def _label_at(column: int | str | None, header: list[str] | None, path: str | Path) -> int | None:
    if column is None:
        return None
    if isinstance(column, int):
        if column < 1:
            raise UserError(f"label column {column}", mend="columns count from 1; the name is column 4")
        return column - 1
    if header is None:
        raise UserError(
            f"no header line names the column '{column}'",
            where=path,
            mend="add a line such as '#chrom start end name', parted by tabs, or give the column's number",
        )
    if column not in header:
        raise UserError(f"there is no column '{column}'", where=path, mend=instead_of(column, header))
    return header.index(column)


def _label(fields: list[str], column: int, separator: str | None, where: str) -> Label:
    if column >= len(fields):
        raise UserError(
            f"{len(fields)} columns, but the label is column {column + 1}", where=where, mend="set the label column"
        )
    if separator is not None:
        return tuple(sorted({part.strip() for part in fields[column].split(separator)} - {""}))
    label = fields[column].strip()
    if not label:
        raise UserError(f"no label in column {column + 1}", where=where, mend="give every interval a label")
    return label


def _whole(text: str, name: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"the {name} '{shorten(text)}' is not a whole number", where=where, mend="give bases") from None
