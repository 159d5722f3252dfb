"""Windows of whole genomes, the class of each the genome it comes from: which species is this?

The contigs of a file are joined in its order, with nothing between them: a draft assembly cannot then be told from a
complete one by gaps. Each joined genome is cut into three regions, train first, then val, then test, and a window lies
in one region, so no base that is tested was trained on. Training windows start anywhere in their region and are drawn
anew in every epoch; those of val and test lie on a grid.

A bacterial genome is no longer than a few windows of 2^20. So that long windows can be tested on small genomes too, a
region for val or test that is shorter than a window may be repeated until it fills one. Training regions never are: all
windows are then of one length and training ones of unrepeated sequence, so neither length nor repeats tell the class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.alphabet import check_letters
from ssmbio.data.augment import stream
from ssmbio.data.cache import cache_folder
from ssmbio.data.fasta import FASTA_SUFFIXES, read_fasta
from ssmbio.data.intervals import check_window
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS, Label, Record, RecordSet, checked_index
from ssmbio.data.text_files import bare_suffix, open_bytes
from ssmbio.errors import UserError
from ssmbio.files import whole_file

LABELS = ("species", "genus", "file")


class JoinedGenome:
    """The letters of a FASTA file, plain or gzip, end to end. They are written into the cache once and mapped from it,
    so a window is read without decompressing, and processes share one copy.

    Args:
        path: the FASTA.

    Raises:
        UserError: what `read_fasta` raises, letters outside IUPAC, or a cache that cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        open_bytes(path).close()  # missing, empty, binary
        status = os.stat(path)
        key = f"{os.path.realpath(path)} {status.st_mtime_ns} {status.st_size}"
        self._letters = cache_folder("genomes") / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.letters"
        if not self._letters.is_file():
            with whole_file(self._letters, "wb") as file:
                for name, sequence in read_fasta(path):
                    check_letters(sequence, f"{path}, record '{name}'")
                    file.write(sequence)
        self._map: npt.NDArray[np.uint8] | None = None
        self.length = self._letters.stat().st_size

    def fetch(self, start: int, end: int) -> bytes:
        """Letters of a 0-based half-open range."""
        if self._map is None:
            self._map = np.memmap(self._letters, np.uint8, "r")
        return self._map[start:end].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # each process maps the file itself


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a genome, 0-based and half-open, and its class."""

    genome: JoinedGenome
    name: str
    label: str
    start: int
    end: int

    def cut(self, start: int, length: int) -> Record:
        """The window of `length` bases from `start`, counted from the start of the genome. From a shorter region it is
        the region, repeated: its `end` then lies beyond the region's."""
        sequence = self.genome.fetch(start, min(start + length, self.end))
        if len(sequence) < length:
            sequence = (sequence * (length // len(sequence) + 1))[:length]
        return Record(self.name, sequence, self.label, start, start + length)


class WindowRecords(RecordSet):
    """Windows of regions, read when they are asked for.

    Args:
        regions: where the windows lie.
        length: of a window; a shorter region is repeated to fill one.
        windows: windows drawn at random from each region, anew in every epoch; no region may then be shorter than a
            window. None for a grid.
        stride: of the grid; its last window ends where the region ends.
        seed: of the draws.
    """

    def __init__(
        self, regions: Sequence[Region], length: int, *, windows: int | None = None, stride: int = 1, seed: int = 0
    ) -> None:
        self._regions, self._length, self._seed = list(regions), length, seed
        self._drawn = windows is not None
        places: list[tuple[int, int]] = []  # of a region, and where its window starts
        for number, region in enumerate(regions):
            last = max(region.end - length, region.start)
            starts = [0] * windows if windows is not None else [*range(region.start, last, stride), last]
            places.extend((number, start) for start in starts)
        self._places = np.array(places, np.int64).reshape(-1, 2)

    def _region(self, index: int) -> Region:
        return self._regions[self._places[checked_index(index, len(self)), 0]]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        return self.in_epoch(0, index)

    def in_epoch(self, epoch: int, index: int) -> Record:
        index = checked_index(index, len(self))
        region, start = self._region(index), int(self._places[index, 1])
        if self._drawn:
            start = int(stream(self._seed, epoch, index, use=1).integers(region.start, region.end - self._length + 1))
        return region.cut(start, self._length)

    def label_of(self, index: int) -> Label:
        return self._region(index).label

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.full(len(self), self._length, np.int64)

    def where(self, index: int) -> str:
        region = self._region(index)
        return f"{region.genome.path}, bases {region.start + 1}-{region.end}"


class GenomeWindowsSource:
    """Windows of genomes, split by region.

    Args:
        genomes: a folder of FASTA files, several files, or the file of each class by its name.
        length: of a window, up to 2^20 bases.
        windows: training windows that are drawn of each genome in an epoch.
        stride: between the windows of val and test; None is `length`.
        repeat: a region for val or test that is shorter than `length` is repeated to fill a window; else it is an
            error, as it always is for train.
        regions: the share of each genome for val and for test; the rest is train.
        label: "species" or "genus", the second and third words of the first header line or the second alone, or "file",
            the file's name. It is not looked at where `genomes` names the classes.
        seed: of the training windows.

    Raises:
        UserError: no genomes, a header without a species, shares that leave no train, a region shorter than a window.
    """

    def __init__(
        self,
        *,
        genomes: str | Sequence[str] | Mapping[str, str],
        length: int = 2**16,
        windows: int = 32,
        stride: int | None = None,
        repeat: bool = False,
        regions: Mapping[str, float] | None = None,
        label: str = "species",
        seed: int = 0,
    ) -> None:
        check_window(length)
        for name, value in (("windows", windows), ("stride", stride)):
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"{name} {value}", mend=f"set data.{name} to 1 or more")
        if label not in LABELS:
            raise UserError(f"label '{label}'", mend=instead_of(label, LABELS))
        self.genomes, self.length, self.windows, self.label, self.seed = genomes, length, windows, label, seed
        self.stride, self.repeat = stride or length, repeat
        self.shares = _checked_shares(regions or {})

    def splits(self) -> dict[str, RecordSet]:
        """Read the genomes into the cache unless they are there, and lay the windows."""
        regions: dict[str, list[Region]] = {}
        for path, label in genome_files(self.genomes, self.label):
            genome, name = JoinedGenome(path), _stem(path)
            start = 0
            for split, end in zip(SPLITS, _ends(genome.length, self.shares), strict=True):
                if self.shares[split] and end - start < self.length:
                    self._check_short(path, split, end - start)
                if self.shares[split]:
                    regions.setdefault(split, []).append(Region(genome, name, label, start, end))
                start = end
        return {
            split: WindowRecords(
                parts,
                self.length,
                windows=self.windows if split == "train" else None,
                stride=self.stride,
                seed=self.seed,
            )
            for split, parts in regions.items()
        }

    def _check_short(self, path: str, split: str, size: int) -> None:
        if self.repeat and split != "train" and size:
            return
        repeat = "" if split == "train" else "set data.repeat=true to repeat it, "
        raise UserError(
            f"its part for {split} has {size:,} bases, less than a window of {self.length:,}",
            where=path,
            mend=f"lower data.length, give the part a larger share with data.regions, {repeat}or leave this genome out",
        )


def genome_files(genomes: str | Sequence[str] | Mapping[str, str], label: str) -> list[tuple[str, str]]:
    """Each file with its class, sorted by file."""
    if isinstance(genomes, Mapping):
        return [(str(path), str(name)) for name, path in genomes.items()]
    if not isinstance(genomes, str):
        files = [str(path) for path in genomes]
    elif os.path.isdir(genomes):
        files = sorted(str(path) for path in Path(genomes).iterdir() if bare_suffix(path) in FASTA_SUFFIXES)
    else:
        files = [genomes]
    if not files:
        suffixes = ", ".join(FASTA_SUFFIXES)
        raise UserError("there are no genomes in it", where=str(genomes), mend=f"give a folder of {suffixes}, or .gz")
    return [(path, _stem(path) if label == "file" else named_in_header(path, label)) for path in files]


def named_in_header(path: str, label: str) -> str:
    """The species (two words) or the genus (one) after the name in the first header line."""
    with open_bytes(path) as stream:
        words = stream.readline(1 << 16).decode(errors="replace").split()[1:]
    wanted = 2 if label == "species" else 1
    if len(words) < wanted:
        raise UserError(
            f"the first header line names no {label}",
            where=f"{path}, line 1",
            mend="set data.label=file, or name the classes: data.genomes={<class>: <file>, …}",
        )
    return " ".join(words[:wanted])


def _stem(path: str) -> str:
    name, suffix = Path(path).name, bare_suffix(path)
    return name[: name.lower().rindex(suffix)] if suffix else name


def _checked_shares(regions: Mapping[str, float]) -> dict[str, float]:
    given = {split: float(share or 0) for split, share in regions.items()}
    for split in given:
        if split not in SPLITS[1:]:
            raise UserError(f"region '{split}'", mend=instead_of(split, SPLITS[1:]))
    if any(share < 0 for share in given.values()) or sum(given.values()) >= 1:
        raise UserError(f"regions {given}", mend="give val and test shares that together are below 1")
    shares = {"val": 0.0, "test": 0.0, **given}
    return {"train": 1 - sum(shares.values()), **shares}


def _ends(length: int, shares: Mapping[str, float]) -> list[int]:
    """Where the regions of train, val and test end."""
    return [round(length * shares["train"]), round(length * (1 - shares["test"])), length]
