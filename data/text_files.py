"""Opening text files, plain or gzip (bgzip is gzip too), so that every fault of the file is a `UserError`.

A file is known as gzip by its first bytes and not by its name. Reading streams: memory does not grow with the file.
"""

from __future__ import annotations

import gzip
import io
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ssmbio.errors import UserError

BLOCK = 1 << 22
"""Bytes that `read_blocks` reads at a time."""

_GZIP = b"\x1f\x8b"
# What people pass by mistake, by its first bytes.
_NOT_TEXT = {
    b"PK\x03\x04": ("a zip archive", "unzip it first"),
    b"BZh": ("compressed with bzip2", "decompress it first, or compress it with gzip"),
    b"\xfd7zXZ": ("compressed with xz", "decompress it first, or compress it with gzip"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "decompress it first, or compress it with gzip"),
    b"PAR1": ("a parquet file", "name it *.parquet"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
    b"BAM\x01": ("a BAM file", "convert it with `samtools fasta`"),
}


@contextmanager
def file_faults(path: str | Path) -> Iterator[None]:
    """Turn what opening or reading `path` raises into a `UserError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, mend="check the path") from None
    except IsADirectoryError:
        raise UserError("this is a folder", where=path, mend="give a file in it") from None
    except PermissionError:
        raise UserError("no permission to read it", where=path, mend="change the file's mode or its owner") from None
    except EOFError:
        raise UserError(
            "the gzip file ends too early (truncated)", where=path, mend="copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"the gzip file is damaged ({error})", where=path, mend="copy or download it again") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text (byte 0x{error.object[error.start]:02x})", where=path, mend="save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror or error})", where=path) from None


def open_bytes(path: str | Path, *, text: bool = True) -> io.BufferedReader:
    """Open `path` for reading, decompressed if it is gzip.

    Args:
        text: refuse what is plainly not text (other compressions, NUL bytes).

    Raises:
        UserError: missing, a folder, empty, or not text. Faults met later, while reading, are the caller's to wrap
            in `file_faults`.
    """
    with file_faults(path):
        stream = open(path, "rb")  # noqa: SIM115 (the caller closes it)
        try:
            if stream.peek(2)[:2] == _GZIP:
                stream = io.BufferedReader(cast(io.RawIOBase, _OwningGzip(stream)), 1 << 16)
            _refuse_other_files(path, stream.peek(4096), text)
        except BaseException:
            stream.close()
            raise
    return stream


class _OwningGzip(gzip.GzipFile):
    """A GzipFile that closes the file below it."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(fileobj=stream, mode="rb")
        self._stream = stream

    def close(self) -> None:
        super().close()
        self._stream.close()


def _refuse_other_files(path: str | Path, head: bytes, text: bool) -> None:
    if not head:
        raise UserError("the file is empty", where=path, mend="check how it was made")
    if not text:
        return
    for magic, (what, mend) in _NOT_TEXT.items():
        if head.startswith(magic):
            raise UserError(f"this is {what}, not text", where=path, mend=mend)
    if b"\0" in head:
        raise UserError("this is a binary file, not text", where=path, mend="check the path")


def read_blocks(path: str | Path) -> Iterator[bytes]:
    """The file's bytes, decompressed and without a byte order mark, in blocks of at most `BLOCK`; none is empty."""
    with open_bytes(path) as stream, file_faults(path):
        if stream.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            stream.read(len(BOM_UTF8))
        while block := stream.read(BLOCK):
            yield block


def read_lines(path: str | Path) -> Iterator[str]:
    """The file's lines as UTF-8 text without a byte order mark; each keeps its line end (LF, CRLF or CR)."""
    with (
        open_bytes(path) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        file_faults(path),
    ):
        yield from text


def bare_suffix(path: str | Path) -> str:
    """The suffix in lower case without a compression's: ``.fa`` for ``Genome.FA.gz``."""
    name = Path(path).name.lower()
    for compression in (".gz", ".bgz"):
        name = name.removesuffix(compression)
    return Path(name).suffix
