"""Where records come from: a table, FASTA files, intervals of a genome, GenBank files, images, ListOps.

Each is built by Hydra from plain values, reads when `splits()` is called, and gives its splits as record sets. Without
`val` the datamodule draws one from train. Every fault is a `UserError` that names the file and the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ssmbio.data.bed import read_bed
from ssmbio.data.fasta import load_fasta, read_label_table
from ssmbio.data.genbank import load_features, load_whole
from ssmbio.data.genome import Genome
from ssmbio.data.genome_windows import GenomeWindowsSource as GenomeWindowsSource
from ssmbio.data.image_sources import Cifar10Source as Cifar10Source
from ssmbio.data.image_sources import ImageFolderSource as ImageFolderSource
from ssmbio.data.image_sources import MnistSource as MnistSource
from ssmbio.data.intervals import IntervalRecords, check_window
from ssmbio.data.listops_source import ListopsSource as ListopsSource
from ssmbio.data.listops_source import ListopsTokenizer as ListopsTokenizer
from ssmbio.data.made_images import PathfinderSource as PathfinderSource
from ssmbio.data.made_images import ShapesSource as ShapesSource
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS, RecordSet
from ssmbio.data.splits import Part, split_intervals
from ssmbio.data.tables import Columns, load_table
from ssmbio.data.text_files import bare_suffix
from ssmbio.errors import UserError


class TableSource:
    """A table a split: csv, tsv, txt or parquet, each also .gz.

    Args:
        train, val, test: paths; None leaves the split out.
        sequence_column: the column with the letters.
        label_column: the column with the class; or several columns, one a label, holding 1 or 0; or None.
        label_separator: what parts several labels in one cell, such as ";"; None for one label a cell.
        name_column: the column with names; None names records row1, row2, …
    """

    def __init__(
        self,
        *,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        sequence_column: str = "sequence",
        label_column: str | Sequence[str] | None = "label",
        label_separator: str | None = None,
        name_column: str | None = None,
    ) -> None:
        self.paths = _given({"train": train, "val": val, "test": test})
        self.columns = Columns(sequence_column, _one_or_several(label_column), label_separator, name_column)

    def splits(self) -> dict[str, RecordSet]:
        """Read the tables."""
        return {split: load_table(path, self.columns) for split, path in self.paths.items()}


class FastaSource:
    """FASTA files, plain or gzip, with a table of labels, or with one file a class.

    Args:
        train, val, test: a path; or files by class, as ``{promoter: p.fa, other: o.fa}`` or as a list, where a file's
            class is its name without the suffix. None leaves the split out.
        labels: a table of names and labels for all splits, or one a split. Needed where a split is one path, unless the
            records have no labels.
        name_column, label_column, label_separator: of that table, as in `TableSource`.
    """

    def __init__(
        self,
        *,
        train: str | Sequence[str] | Mapping[str, str] | None = None,
        val: str | Sequence[str] | Mapping[str, str] | None = None,
        test: str | Sequence[str] | Mapping[str, str] | None = None,
        labels: str | Mapping[str, str] | None = None,
        name_column: str = "name",
        label_column: str | Sequence[str] = "label",
        label_separator: str | None = None,
    ) -> None:
        self.files = {
            split: _files_by_class(files) for split, files in _given({"train": train, "val": val, "test": test}).items()
        }
        by_class = [split for split, files in self.files.items() if None not in {label for _, label in files}]
        if by_class and labels is not None:
            raise UserError(
                f"'{by_class[0]}' has a file a class, and labels has them too", mend="give one or the other"
            )
        self.labels = labels if isinstance(labels, Mapping) else dict.fromkeys(self.files, labels)
        self._table = (name_column, _one_or_several(label_column) or "label", label_separator)

    def splits(self) -> dict[str, RecordSet]:
        """Read the files."""
        tables = {path: read_label_table(path, *self._table) for path in dict.fromkeys(self.labels.values()) if path}
        return {
            split: load_fasta(files, tables.get(self.labels.get(split) or "")) for split, files in self.files.items()
        }


class IntervalSource:
    """Intervals of a genome, read from it window by window.

    Args:
        fasta: the genome, plain or bgzip.
        intervals: a BED file that `split` divides, or one a split.
        label_column: the number of the BED column with the class, counted from 1, or its name in a header; or None.
        label_separator: as in `TableSource`.
        length: the window around the centre of each interval, up to 2^20 bases; None for the intervals themselves.
            What hangs over the end of a contig is N.
        split: contigs for val and test, as ``{val: [chr8], test: [chr9]}``, or a fraction for each. The rest is train.
        seed: of the split by fractions.
    """

    def __init__(
        self,
        *,
        fasta: str,
        intervals: str | Mapping[str, str],
        label_column: int | str | None = 4,
        label_separator: str | None = None,
        length: int | None = None,
        split: Mapping[str, Part] | None = None,
        seed: int = 0,
    ) -> None:
        check_window(length)
        self.fasta, self.intervals, self.length = fasta, intervals, length
        self.label_column, self.label_separator = label_column, label_separator
        self.split = {name: part for name, part in (split or {}).items() if part is not None}
        self.seed = seed
        if self.split and not isinstance(intervals, str):
            raise UserError(
                "intervals are given split by split, and split divides them too",
                mend="set data.split=null, or give one BED",
            )

    def splits(self) -> dict[str, RecordSet]:
        """Read the intervals, compare each with the genome, and split them."""
        genome = Genome(self.fasta)
        if not isinstance(self.intervals, str):
            paths = _given(self.intervals)
            return {split: self._records(genome, path) for split, path in paths.items()}
        records = self._records(genome, self.intervals)
        return (
            split_intervals(records, self.split, self.seed, list(genome.lengths)) if self.split else {"train": records}
        )

    def _records(self, genome: Genome, path: str) -> IntervalRecords:
        return IntervalRecords(genome, read_bed(path, self.label_column, self.label_separator), self.length, path)


class GenbankSource:
    """GenBank files, plain or gzip.

    Args:
        train, val, test: a path or several; None leaves the split out.
        features: types of features to cut out, such as [CDS, tRNA]; None takes whole records.
        label: for features "type" or a qualifier (gene, product, …); for whole records an annotation or a qualifier of
            their source feature (organism, mol_type, …); or None.
        length: the window around each feature, as in `IntervalSource`.
    """

    def __init__(
        self,
        *,
        train: str | Sequence[str] | None = None,
        val: str | Sequence[str] | None = None,
        test: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        label: str | None = "type",
        length: int | None = None,
    ) -> None:
        check_window(length)
        if features is None and (length is not None or label == "type"):
            raise UserError(
                f"whole GenBank records have no {'length' if length is not None else 'type'}",
                mend="give features, or label=organism and no length",
            )
        given = _given({"train": train, "val": val, "test": test})
        self.files = {split: [files] if isinstance(files, str) else list(files) for split, files in given.items()}
        self.features, self.label, self.length = features, label, length

    def splits(self) -> dict[str, RecordSet]:
        """Read the files."""
        return {split: self._read(files) for split, files in self.files.items()}

    def _read(self, files: list[str]) -> RecordSet:
        if self.features is None:
            return load_whole(files, self.label)
        return load_features(files, list(self.features), self.label, self.length)


def _given(splits: Mapping[str, Any]) -> dict[str, Any]:
    """The splits that were given something."""
    for split in splits:
        if split not in SPLITS:
            raise UserError(f"split '{split}'", mend=instead_of(split, SPLITS))
    given = {split: value for split, value in splits.items() if value is not None}
    if not given:
        raise UserError("no data is given", mend="set data.train, data.val or data.test to a file")
    return given


def _one_or_several(column: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    return column if isinstance(column, str) or column is None else tuple(column)


def _files_by_class(files: str | Sequence[str] | Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Each file with its class; None for a file of several classes. Classes are sorted."""
    if isinstance(files, str):
        return [(files, None)]
    if isinstance(files, Mapping):
        return [(files[label], str(label)) for label in sorted(files, key=str)]
    return [(path, _class_of(path)) for path in sorted(files, key=_class_of)]


def _class_of(path: str) -> str:
    name = PurePath(path).name
    suffix = bare_suffix(path)
    return name[: name.lower().rindex(suffix)] if suffix else name
