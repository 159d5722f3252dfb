from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssmbio.data.text_files import BLOCK, bare_suffix, read_blocks, read_lines
from ssmbio.errors import UserError

TEXT = b"first\r\nsecond\n\nlast"


@pytest.fixture(params=[read_lines, read_blocks], ids=["lines", "blocks"])
def read(request: pytest.FixtureRequest) -> Callable[[Path], Iterator[Any]]:
    return request.param


def test_lines_keep_their_ends_and_lose_a_byte_order_mark(tmp_path: Path) -> None:
    for name, write in (("a.txt", Path.write_bytes), ("a.txt.gz", lambda p, b: p.write_bytes(gzip.compress(b)))):
        file = tmp_path / name
        write(file, b"\xef\xbb\xbf" + TEXT)
        assert list(read_lines(file)) == ["first\r\n", "second\n", "\n", "last"]


def test_gzip_is_known_by_its_bytes_and_read_in_blocks(tmp_path: Path) -> None:
    file = tmp_path / "named.txt"
    whole = TEXT * (BLOCK // len(TEXT) + 10)
    file.write_bytes(gzip.compress(whole, 1) + gzip.compress(TEXT))  # two members, as bgzip has
    blocks = list(read_blocks(file))
    assert b"".join(blocks) == whole + TEXT
    assert [len(block) for block in blocks[:-1]] == [BLOCK] * (len(blocks) - 1)


def test_missing_folder_empty(read: Callable[[Path], Iterator[Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.txt: there is no such file; check the path"):
        list(read(tmp_path / "absent.txt"))
    with pytest.raises(UserError, match="this is a folder"):
        list(read(tmp_path))
    for name, content in (("empty.txt", b""), ("empty.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: the file is empty"):
            list(read(tmp_path / name))


@pytest.mark.parametrize("kept", [3, 15, 0.5, -1])
def test_truncated_gzip(read: Callable[[Path], Iterator[Any]], tmp_path: Path, kept: float) -> None:
    file = tmp_path / "cut.txt.gz"
    content = gzip.compress(bytes(range(32, 127)) * 5000 + TEXT)
    file.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match=r"cut.txt.gz: .*(too early|damaged).*again"):
        list(read(file))


def test_damaged_gzip(read: Callable[[Path], Iterator[Any]], tmp_path: Path) -> None:
    file = tmp_path / "bad.gz"
    content = bytearray(gzip.compress(TEXT * 1000))
    content[30:40] = b"\xff" * 10
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad.gz: the gzip file is damaged"):
        list(read(file))


def test_binary_files_are_named_for_what_they_are(read: Callable[[Path], Iterator[Any]], tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"ACGT\0\0\x01")
    with pytest.raises(UserError, match="x: this is a binary file"):
        list(read(file))
    file.write_text("text", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16 text, not text; save it as UTF-8"):
        list(read(file))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(UserError, match="a zip archive, not text; unzip it first"):
        list(read(file))


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes("größe,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8 text .byte 0xf6.; save it as UTF-8"):
        list(read_lines(file))


def test_suffix_without_compression() -> None:
    assert [bare_suffix(name) for name in ("a/Genome.FA.gz", "x.bgz", "y.tar.csv", "z")] == [".fa", "", ".csv", ""]
