"""A genome on disk: contigs by name, read at random through pyfaidx from plain or bgzip FASTA.

The index (.fai, and .gzi for bgzip) is written once beside the FASTA or, where that folder cannot be written, into the
user's cache. It appears whole under its name, so processes that start together do not read half of one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_right
from pathlib import Path
from typing import Any, Protocol

import pyfaidx
from Bio.bgzf import make_virtual_offset

from ssmbio.data.cache import cache_folder
from ssmbio.data.nearest import shorten
from ssmbio.data.text_files import bare_suffix, file_faults, open_bytes
from ssmbio.errors import UserError

# The empty block that ends every bgzip file (SAM format specification, section 4.1.2).
_BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


class Contigs(Protocol):
    """Named sequences that can be read in part."""

    lengths: dict[str, int]

    def fetch(self, contig: str, start: int, end: int) -> bytes:
        """Letters of a 0-based half-open range that lies inside the contig."""

    def file_of(self, contig: str) -> str:
        """The file that holds it, for messages."""


class Genome:
    """`Contigs` of a FASTA file; pickles without its open file, and each process opens its own.

    Raises:
        UserError: no such file, plain gzip, a file that is no FASTA or cannot be indexed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        _check_compression(self.path)
        self._index, self._blocks = _index_files(self.path)
        self._faidx: pyfaidx.Faidx | None = None
        self._pid = 0
        faidx = self._open()
        self.lengths: dict[str, int] = {name: entry.rlen for name, entry in faidx.index.items()}

    def fetch(self, contig: str, start: int, end: int) -> bytes:
        faidx = self._open()
        with file_faults(self.path):
            try:
                letters = faidx.fetch(contig, start + 1, end)
            except ValueError:
                if self._blocks is None:
                    raise
                letters = _fetch_at_block(faidx, contig, start, end)
            except RuntimeError as error:  # a checksum
                raise UserError(f"it is damaged ({error})", where=self.path, mend="copy or download it again") from None
        if len(letters) != end - start:
            raise UserError(
                f"{contig} ends early",
                where=self.path,
                mend=f"the file or its index {self._index} is damaged; index it anew",
            )
        return letters.encode()

    def file_of(self, contig: str) -> str:
        return self.path

    def _open(self) -> pyfaidx.Faidx:
        # A forked worker shares the parent's file position, so an open file serves only the process that opened it.
        if self._faidx is None or self._pid != os.getpid():
            self._faidx = _faidx(self.path, self._index, self._blocks, build=False)
            self._pid = os.getpid()
        return self._faidx

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_faidx": None}


def _fetch_at_block(faidx: pyfaidx.Faidx, contig: str, start: int, end: int) -> str:
    """Read a range that starts on a full block of bgzip (65,536 bytes, as Biopython writes): pyfaidx fails on those."""
    entry = faidx.index[contig]
    first, last = (
        entry.offset + letter // entry.lenc * entry.lenb + letter % entry.lenc for letter in (start, end - 1)
    )
    block = faidx.gzi_index[bisect_right([block.ustart for block in faidx.gzi_index], first) - 1]
    with faidx.lock:
        faidx.file.seek(make_virtual_offset(block.cstart, first - block.ustart))
        return faidx.file.read(last + 1 - first).decode().replace("\n", "").replace("\r", "")


class MemoryGenome:
    """`Contigs` held in memory.

    Args:
        contigs: each sequence by its name, with the file it came from.
    """

    def __init__(self, contigs: dict[str, tuple[bytes, str]]) -> None:
        self._contigs = contigs
        self.lengths = {name: len(sequence) for name, (sequence, _) in contigs.items()}

    def fetch(self, contig: str, start: int, end: int) -> bytes:
        return self._contigs[contig][0][start:end]

    def file_of(self, contig: str) -> str:
        return self._contigs[contig][1]


def _check_compression(path: str) -> None:
    open_bytes(path).close()  # missing, empty, binary
    with open(path, "rb") as stream:
        head = stream.read(18)
        stream.seek(max(os.path.getsize(path) - len(_BGZIP_END), 0))
        tail = stream.read()
    compressed = head.startswith(b"\x1f\x8b")
    named = path.lower().endswith((".gz", ".bgz"))
    # bgzip marks its blocks by a field "BC" in the gzip header (section 4.1).
    if compressed and not (head[3] & 4 and head[12:14] == b"BC"):
        raise UserError(
            "plain gzip cannot be read at random",
            where=path,
            mend=f"run `gunzip {path}` and then `bgzip` on the result",
        )
    if compressed and tail != _BGZIP_END:
        raise UserError("the bgzip file ends too early (truncated)", where=path, mend="copy or download it again")
    if compressed and not named:
        raise UserError("bgzip without its suffix", where=path, mend="name it *.gz")
    if named and not compressed:
        raise UserError("named as gzip, but not compressed", where=path, mend=f"name it *{bare_suffix(path) or '.fa'}")


def _index_files(path: str) -> tuple[str, str | None]:
    """The names of the index and, for bgzip, of the table of blocks; they are built if they lack or are older."""
    suffixes = (".fai", ".gzi") if path.lower().endswith((".gz", ".bgz")) else (".fai",)
    beside = [path + suffix for suffix in suffixes]
    # The place and the time of change name the copy in the cache.
    key = hashlib.sha256(f"{os.path.realpath(path)} {os.stat(path).st_mtime_ns}".encode()).hexdigest()[:24]
    cache = cache_folder("fasta_index")
    cached = [str(cache / (key + suffix)) for suffix in suffixes]
    fresh = [names for names in (beside, cached) if all(_newer(name, path) for name in names)]
    if fresh:
        names = fresh[0]
    else:
        names = beside if os.access(os.path.dirname(path) or ".", os.W_OK) else cached
        _build_index(path, names)
    return names[0], names[1] if len(names) == 2 else None


def _newer(name: str, path: str) -> bool:
    return os.path.exists(name) and os.path.getmtime(name) >= os.path.getmtime(path)


def _build_index(path: str, names: list[str]) -> None:
    folder = os.path.dirname(names[0]) or "."
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        what = f"the folder {folder} for its index cannot be made ({error.strerror})"
        raise UserError(what, where=path, mend="run `samtools faidx` where it may write, or set SSMBIO_CACHE") from None
    parts = [f"{name}.{os.getpid()}" for name in names]
    try:
        _faidx(path, parts[0], parts[1] if len(parts) == 2 else None, build=True).close()
        for part, name in zip(parts, names, strict=True):
            os.replace(part, name)
    finally:
        for part in parts:
            Path(part).unlink(missing_ok=True)


def _faidx(path: str, index: str, blocks: str | None, *, build: bool) -> pyfaidx.Faidx:
    with file_faults(path):
        try:
            return pyfaidx.Faidx(
                path, indexname=index, gzi_indexname=blocks, as_raw=True, build_index=build, rebuild=build
            )
        except OSError as error:
            if not build:
                raise
            cause = error.__context__ if isinstance(error.__context__, OSError) else error  # pyfaidx wraps it
            raise UserError(
                f"its index {index} cannot be written ({cause.strerror or cause})", where=path, mend="free some space"
            ) from None
        except (pyfaidx.FastaIndexingError, ValueError, AssertionError, RuntimeError, struct.error) as error:
            if not build:
                raise UserError("the index is damaged", where=index, mend="delete it, and it is made anew") from None
            what = shorten(str(error).replace(path, "the file"), 150).rstrip(".")
            raise UserError(f"not a FASTA that can be indexed ({what})", where=path, mend=_mend(what)) from None


def _mend(what: str) -> str:
    if "Duplicate" in what:
        return "give each record its own name"
    if "consistent" in what:
        return "wrap all lines of a record to one length, as `seqtk seq -l 60` does"
    return "check the file with `samtools faidx`"
