"""FASTA files, plain or gzip, read record by record in blocks: line lengths are free, lower case is kept.

A record's name is the first word of its header line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ssmbio.data.nearest import instead_of
from ssmbio.data.records import Label, PackedRecords
from ssmbio.data.tables import Columns, read_rows
from ssmbio.data.text_files import read_blocks
from ssmbio.errors import UserError

FASTA_SUFFIXES = (".fa", ".fasta", ".fna", ".ffn", ".frn", ".fas")

_BLANKS = b" \t\r\n\v\f"


def read_fasta(path: str | Path, remembered_names: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and sequence of each record. Memory holds one record and a number for each name; letters are not checked.

    Args:
        remembered_names: how many names, from the first, a later one is compared with to find duplicates; None is all.
            A million take about 70 MB.

    Raises:
        UserError: text before the first header, a record without a name or without letters, a name used twice.
    """
    seen: set[int] = set()
    name: str | None = None
    pieces: list[bytes] = []
    header: bytes | None = None  # the part that was read of a header line
    line_start = True
    lines_before = 0  # of this block
    for block in read_blocks(path):
        here = 0
        while here < len(block):
            if header is not None:
                end = block.find(b"\n", here)
                header += block[here:end] if end >= 0 else block[here:]
                if end < 0:
                    break
                name, fault = _name(header, seen, remembered_names)
                if fault:
                    line = lines_before + block.count(b"\n", 0, end) + 1
                    raise UserError(fault, where=f"{path}, line {line}", mend="give each record a name of its own")
                header, line_start, here = None, True, end + 1
            elif line_start and block[here : here + 1] == b">":
                if name is not None:
                    yield name, _sequence(name, pieces, path)
                pieces, header, here = [], b"", here + 1
            else:
                end = block.find(b"\n>", here) + 1 or len(block)
                piece = block[here:end].translate(None, _BLANKS)
                if piece and name is None:
                    line = lines_before + block.count(b"\n", 0, block.index(piece[:1], here)) + 1
                    raise UserError(
                        "text before the first header",
                        where=f"{path}, line {line}",
                        mend="a FASTA record starts with a line '>name'",
                    )
                pieces.append(piece)
                line_start, here = block[end - 1 : end] == b"\n", end
        lines_before += block.count(b"\n")
    if header is not None:
        name, _ = _name(header, seen, remembered_names)
    if name is None:
        raise UserError("there are no records", where=path, mend="a FASTA record starts with a line '>name'")
    yield name, _sequence(name, pieces, path)


def _name(header: bytes, seen: set[int], limit: int | None) -> tuple[str, str | None]:
    """The name in a header, and what is wrong with it."""
    words = header.split(maxsplit=1)
    if not words:
        return "", "a header without a name"
    name = words[0].decode(errors="replace")
    # The number that Python makes of the name stands for it; two names share one in 2^64.
    key = hash(name)
    if key in seen:
        return name, f"a second record is named '{name}'"
    if limit is None or len(seen) < limit:
        seen.add(key)
    return name, None


def _sequence(name: str, pieces: list[bytes], path: str | Path) -> bytes:
    sequence = b"".join(pieces)
    if not sequence:
        raise UserError(
            "the sequence is empty", where=f"{path}, record '{name}'", mend="remove the record or give it a sequence"
        )
    return sequence


def load_fasta(files: Iterable[tuple[str, Label]], label_of: Mapping[str, Label] | None = None) -> PackedRecords:
    """Read FASTA files into memory as one set.

    Args:
        files: each file with the label of all its records.
        label_of: the label of each name, in place of the files' labels.

    Raises:
        UserError: what `read_fasta` raises, a name that `label_of` lacks, letters outside IUPAC.
    """
    names: list[bytes] = []
    sequences: list[bytes] = []
    labels: list[Label] = []
    starts: list[tuple[str, int]] = []
    for path, label in files:
        starts.append((path, len(names)))
        for name, sequence in read_fasta(path):
            if label_of is not None and name not in label_of:
                raise UserError(
                    f"record '{name}' is not in the table of labels", where=path, mend=instead_of(name, label_of, 3)
                )
            names.append(name.encode())
            sequences.append(sequence)
            labels.append(label if label_of is None else label_of[name])
    return PackedRecords(names=names, sequences=sequences, labels=labels, files=starts)


def read_label_table(
    path: str | Path, name_column: str, label_column: str | tuple[str, ...], separator: str | None
) -> dict[str, Label]:
    """The label of each name, from a table of names and labels.

    Raises:
        UserError: what `read_rows` raises, or a name with two labels.
    """
    labels: dict[str, Label] = {}
    # The names take the place of the sequences.
    for row in read_rows(path, Columns(sequence=name_column, label=label_column, separator=separator)):
        name = row.sequence.decode()
        if labels.setdefault(name, row.label) != row.label:
            raise UserError(
                f"'{name}' has another label above", where=f"{path}, line {row.place}", mend="keep one line a name"
            )
    return labels
