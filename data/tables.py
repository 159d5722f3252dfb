"""Tables of sequences: csv, tsv, txt and parquet, each also gzip, read row by row.

A text table starts with a header line. Sequences may be of any length, cells may be quoted, blank lines are skipped.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ssmbio.data.nearest import instead_of, shorten
from ssmbio.data.records import Label, PackedRecords
from ssmbio.data.text_files import bare_suffix, file_faults, open_bytes, read_lines
from ssmbio.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet")

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_YES, _NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
_PARQUET_ROWS = 1024

Cells: TypeAlias = tuple[Any, ...]
"""Cells of one row: text, or what parquet holds (None, numbers, lists)."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
        sequence: the letters.
        label: one column, or several that each hold 1 or 0 and are named for their label, or None for no labels.
        separator: what parts several labels in one cell; an empty cell then has none.
        name: None names the records row1, row2, …
    """

    sequence: str = "sequence"
    label: str | tuple[str, ...] | None = "label"
    separator: str | None = None
    name: str | None = None

    def wanted(self) -> list[str]:
        """All columns to read: the sequence, the name if any, the labels."""
        labels = [self.label] if isinstance(self.label, str) else list(self.label or ())
        return [self.sequence, *([self.name] if self.name else []), *labels]


class Row(NamedTuple):
    """One row; `place` is its line, or its number in a parquet table, from 1."""

    place: int
    name: str
    sequence: bytes
    label: Label


def line_word(path: str | Path) -> str:
    """What counts the places of a table: lines, or rows of parquet."""
    return "row" if bare_suffix(path) == ".parquet" else "line"


def load_table(path: str | Path, columns: Columns) -> PackedRecords:
    """Read a whole table into memory.

    Raises:
        UserError: what `read_rows` raises, an empty sequence, or letters outside IUPAC.
    """
    rows = list(read_rows(path, columns))
    return PackedRecords(
        names=[row.name.encode() for row in rows],
        sequences=[row.sequence for row in rows],
        labels=[row.label for row in rows],
        files=[(str(path), 0)],
        lines=[row.place for row in rows],
        line_word=line_word(path),
    )


def read_rows(path: str | Path, columns: Columns) -> Iterator[Row]:
    """The rows of a table, in constant memory; sequences are not checked yet.

    Raises:
        UserError: not a table, a column that is not there, a ragged row, a cell without a label, no rows at all.
    """
    labels: dict[Cells, Label] = {}
    first_label = 2 if columns.name else 1
    number = 0
    for number, (place, cells) in enumerate(read_cells(path, columns.wanted()), 1):
        label_cells = tuple(map(_text, cells[first_label:]))
        if label_cells not in labels:
            labels[label_cells] = _label(label_cells, columns, f"{path}, {line_word(path)} {place}")
        name = _text(cells[1]) if columns.name else f"row{number}"
        yield Row(place, name, _text(cells[0]).strip().encode(), labels[label_cells])
    if not number:
        raise UserError("the table has no rows", where=path, mend="check how it was made")


def read_cells(path: str | Path, wanted: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    """The place and the cells of the `wanted` columns, row by row."""
    suffix = bare_suffix(path)
    if suffix not in TABLE_SUFFIXES:
        raise UserError(
            f"'{suffix}' is not the suffix of a table",
            where=path,
            mend=f"use {' '.join(TABLE_SUFFIXES)}, also with .gz",
        )
    return _parquet_cells(path, wanted) if suffix == ".parquet" else _text_cells(path, wanted, _DELIMITERS.get(suffix))


def _text_cells(path: str | Path, wanted: Sequence[str], delimiter: str | None) -> Iterator[tuple[int, Cells]]:
    lines = read_lines(path)
    first = next(lines)
    if delimiter is None:
        delimiter = "\t" if "\t" in first else ","
    header = next(csv.reader([first], delimiter=delimiter))
    picks = [_column(path, header, name) for name in wanted]
    csv.field_size_limit(sys.maxsize)  # its default, 131,072 letters, is short for a sequence
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in rows:
            line += 1  # the first line of the row, should a quoted cell hold several
            if row and len(row) != len(header):
                raise UserError(
                    f"{len(row)} cells where the header has {len(header)}",
                    where=f"{path}, line {line}",
                    mend="give each row a cell for each column",
                )
            if row:
                yield line, tuple(row[pick] for pick in picks)
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(str(error), where=f"{path}, line {line + 1}", mend="close its quotes") from None


def _column(path: str | Path, header: list[str], name: str) -> int:
    names = [cell.strip() for cell in header]
    if names.count(name) == 1:
        return names.index(name)
    if name in names:
        raise UserError(f"two columns are named '{name}'", where=f"{path}, line 1", mend="rename one")
    mend = f"name the column to use; {instead_of(name, names)}"
    if any(re.fullmatch(r"[ACGTNUacgtnu]{8,}", cell) for cell in names):
        mend = f"add a header line; the first line holds {instead_of(name, names)[len('there are ') :]}"
    elif len(names) == 1 and re.search(r"[\t;,]", names[0]):
        mend += " (a tsv file has tabs, a csv file commas)"
    raise UserError(f"there is no column '{name}'", where=f"{path}, line 1", mend=mend)


def _parquet_cells(path: str | Path, wanted: Sequence[str]) -> Iterator[tuple[int, Cells]]:
    import pyarrow
    from pyarrow import parquet

    stream = open_bytes(path, text=False)
    with stream, file_faults(path):
        try:
            # A compressed one cannot be read at random, so it is read whole.
            whole = str(path).lower().endswith((".gz", ".bgz"))
            table = parquet.ParquetFile(pyarrow.BufferReader(stream.read()) if whole else stream)
            for name in wanted:
                _column(path, table.schema_arrow.names, name)
            place = 0
            for batch in table.iter_batches(_PARQUET_ROWS, columns=list(wanted)):
                # The batch has the file's order of columns.
                for cells in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                    place += 1
                    yield place, cells
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(
                f"not a parquet table ({shorten(str(error), 80)})", where=path, mend="write it again"
            ) from None


def _text(cell: Any) -> str:
    """A cell as text: whole floats lose their ".0", as pandas writes integers with gaps."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _label(cells: tuple[str, ...], columns: Columns, where: str) -> Label:
    if columns.label is None:
        return None
    if not isinstance(columns.label, str):
        return tuple(sorted(name for name, cell in zip(columns.label, cells, strict=True) if _flag(name, cell, where)))
    if columns.separator is not None:
        return tuple(sorted({part.strip() for part in cells[0].split(columns.separator)} - {""}))
    label = cells[0].strip()
    if not label:
        raise UserError(f"the cell in column '{columns.label}' is empty", where=where, mend="give every row a label")
    return label


def _flag(column: str, cell: str, where: str) -> bool:
    value = cell.strip().lower()
    if value not in _YES | _NO:
        raise UserError(
            f"'{shorten(cell)}' in column '{column}'", where=where, mend="a column for one label holds 1 or 0"
        )
    return value in _YES
