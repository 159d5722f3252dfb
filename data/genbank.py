"""GenBank files, plain or gzip, through Biopython: whole records, or their features as intervals of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from Bio import BiopythonWarning, SeqIO
from Bio.Seq import UndefinedSequenceError
from Bio.SeqFeature import SeqFeature
from Bio.SeqRecord import SeqRecord

from ssmbio.data.bed import Interval
from ssmbio.data.genome import MemoryGenome
from ssmbio.data.intervals import IntervalRecords
from ssmbio.data.nearest import instead_of, shorten
from ssmbio.data.records import Label, PackedRecords, RecordSet
from ssmbio.data.text_files import file_faults, open_bytes
from ssmbio.errors import UserError

GENBANK_SUFFIXES = (".gb", ".gbk", ".gbff", ".genbank")


def read_genbank(path: str | Path) -> Iterator[tuple[SeqRecord, bytes]]:
    """Each record with its letters, one record in memory at a time.

    Raises:
        UserError: not GenBank, cut short, or a record without its sequence.
    """
    empty = True
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8") as text, file_faults(path):
        records = SeqIO.parse(text, "genbank")
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", BiopythonWarning)  # odd spacing and the like
                    # Biopython gives what there is of a record that is cut short; we do not.
                    warnings.filterwarnings("error", message="Premature end", category=BiopythonWarning)
                    record = next(records, None)
            except (ValueError, BiopythonWarning) as error:
                if isinstance(error, UnicodeError):
                    raise
                raise UserError(
                    f"not a GenBank file that can be read ({shorten(str(error), 80)})", where=path, mend="get it anew"
                ) from None
            if record is None:
                break
            empty = False
            yield record, _letters(record, path)
    if empty:
        raise UserError("there are no GenBank records", where=path, mend="a record starts with LOCUS and ends with //")


def _letters(record: SeqRecord, path: str | Path) -> bytes:
    try:
        letters = bytes(record.seq or b"")
    except UndefinedSequenceError:
        letters = b""
    if not letters:
        raise UserError(
            "there is no sequence", where=f"{path}, record '{record.id}'", mend="get the full file, with ORIGIN"
        )
    return letters


def load_whole(files: Iterable[str], label: str | None) -> RecordSet:
    """Whole records, labelled by an annotation (organism, division, …) or a qualifier of the `source` feature.

    Raises:
        UserError: what `read_genbank` raises, a record without that annotation, letters outside IUPAC.
    """
    names: list[bytes] = []
    sequences: list[bytes] = []
    labels: list[Label] = []
    starts: list[tuple[str, int]] = []
    for path in files:
        starts.append((path, len(names)))
        for record, letters in read_genbank(path):
            names.append(str(record.id).encode())
            sequences.append(letters)
            labels.append(None if label is None else _annotation(record, label, path))
    return PackedRecords(names=names, sequences=sequences, labels=labels, files=starts)


def _annotation(record: SeqRecord, key: str, path: str) -> str:
    known = {name: value for name, value in record.annotations.items() if isinstance(value, str)}
    for feature in record.features:
        if feature.type == "source":
            known |= {name: values[0] for name, values in feature.qualifiers.items() if values}
    if key not in known:
        raise UserError(
            f"there is no annotation '{key}'",
            where=f"{path}, record '{record.id}'",
            mend=instead_of(key, sorted(known)),
        )
    return known[key]


def load_features(
    files: Iterable[str], types: Collection[str], label: str | None, length: int | None
) -> IntervalRecords:
    """Features as intervals on their strand, from their first base to their last.

    Features without the qualifier and those that cross the origin of a circular record are left out.

    Args:
        types: the features to take (CDS, tRNA, …).
        label: "type", a qualifier (gene, product, …), or None.
        length: the window around each; None for its own bases.

    Raises:
        UserError: what `read_genbank` raises, two records of one name, no feature of those types with that label.
    """
    contigs: dict[str, tuple[bytes, str]] = {}
    intervals: list[Interval] = []
    there: dict[str, None] = {}
    files = list(files)
    for path in files:
        for record, letters in read_genbank(path):
            name = str(record.id)
            if name in contigs:
                raise UserError(f"a second record is named '{name}'", where=path, mend="give each its own name")
            contigs[name] = (letters, path)
            for feature in record.features:
                there[feature.type] = None
                interval = _interval(name, feature, label) if feature.type in types else None
                if interval is not None:
                    intervals.append(interval)
    for wanted in types:
        if wanted not in there:
            raise UserError(f"there is no feature '{wanted}'", where=", ".join(files), mend=instead_of(wanted, there))
    if not intervals:
        raise UserError(f"no feature has the qualifier '{label}'", where=", ".join(files), mend="name another label")
    return IntervalRecords(MemoryGenome(contigs), intervals, length, ", ".join(files))


def _interval(contig: str, feature: SeqFeature, label: str | None) -> Interval | None:
    location = feature.location
    if location is None:
        return None
    parts = location.parts if location.strand != -1 else location.parts[::-1]
    if any(left.start > right.start for left, right in pairwise(parts)):
        return None  # joined over the origin
    values = [feature.type] if label in ("type", None) else feature.qualifiers.get(label, [])
    if not values:
        return None
    strand = "-" if location.strand == -1 else "+"
    return Interval(contig, int(location.start), int(location.end), strand, None if label is None else values[0])
