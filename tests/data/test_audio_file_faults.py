"""Files that are no audio, or end early, are told from those that are whole."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from audio_file_cases import FORMATS, message, save, sound

from ssmbio.data.audio_files import audio_info, read_audio

SAMPLES_TEXT = b"no audio at all, but a text that somebody has given the wrong name\n" * 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file; check the path"),
        (b"", "the file is empty; check how it was made"),
        (SAMPLES_TEXT, "not audio, or damaged ("),
        (b"RIFF", "not audio, or damaged ("),
        (b"OggS" + bytes(20), "truncated: 24 bytes of 25; copy or download it again"),
    ],
)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_files_that_are_no_audio(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: audio_info(path), lambda: read_audio(path, sample_rate=16_000)):
        text = message(read)
        assert text.startswith(f"{path}: {words}")
        assert "regular file" not in text


def test_a_folder_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "x.wav").mkdir()
    assert "x.wav: this is a folder; give a file in it." in message(lambda: audio_info(tmp_path / "x.wav"))


def test_raw_samples(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    assert "x.raw: samples without a header; save them as wav or flac." in message(
        lambda: audio_info(tmp_path / "x.raw")
    )


def test_audio_without_samples_and_of_unknown_length(tmp_path: Path) -> None:
    path = save(tmp_path / "x.wav", np.zeros(0))
    assert "x.wav: there are no samples in it; remove it, or check how" in message(lambda: audio_info(path))
    flac = save(tmp_path / "x.flac", sound(5_000))
    data = bytearray(flac.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    data[22:26] = bytes(4)
    flac.write_bytes(data)
    assert "x.flac: its header does not say how long it is; save it again" in message(lambda: audio_info(flac))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.995])
@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
def test_truncated_files(tmp_path: Path, suffix: str, subtype: str | None, share: float) -> None:
    path = save(tmp_path / f"x.{suffix}", sound(60_000), subtype=subtype)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    text = message(lambda: read_audio(path, sample_rate=16_000))
    assert text.startswith(f"{path}: truncated" if suffix != "flac" else f"{path}: damaged or truncated (")
    assert text.endswith("; copy or download it again.")
    assert message(lambda: read_audio(path, sample_rate=8_000, start=29_000)).startswith(str(path))
    # A size that is too small for the file's own structure is noticed without decoding.
    if suffix in ("wav", "ogg"):
        assert "truncated: " in message(lambda: audio_info(path))


def ends_of_pages(data: bytes) -> list[int]:
    ends = [0]
    while ends[-1] < len(data):
        head = data[ends[-1] :]
        assert head.startswith(b"OggS")
        ends.append(ends[-1] + 27 + head[26] + sum(head[27 : 27 + head[26]]))
    return ends[1:]


def test_ogg_that_ends_between_two_pages(tmp_path: Path) -> None:
    """libsndfile reads it as a shorter file that is whole."""
    path = save(tmp_path / "x.ogg", sound(60_000))
    data = path.read_bytes()
    *cuts, whole = ends_of_pages(data)
    assert len(cuts) > 3
    assert whole == len(data)
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert message(lambda: audio_info(path)) == (
            f"{path}: truncated: its last page is not marked as the end; copy or download it again; of a recording "
            "that was broken off, save what there is anew."
        )
    # One stream after the other is allowed: the flag may stand on earlier pages too.
    path.write_bytes(data + data[: cuts[-1]])
    assert "not marked as the end" in message(lambda: audio_info(path))


def test_headers_that_leave_the_size_open_are_no_truncation(tmp_path: Path) -> None:
    path = save(tmp_path / "x.wav", sound(3_000))
    data = bytearray(path.read_bytes())
    place = data.find(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF):
        data[place : place + 4] = struct.pack("<I", size)
        path.write_bytes(data)
        assert len(read_audio(path, sample_rate=16_000)) == 3_000
    data[place : place + 4] = struct.pack("<I", 6_001)
    path.write_bytes(data)
    text = message(lambda: read_audio(path, sample_rate=16_000))
    assert text == f"{path}: truncated: {len(data):,} bytes of {len(data) + 1:,}; copy or download it again."


def test_chunks_before_and_after_the_data_and_tags_after_the_end(tmp_path: Path) -> None:
    path = save(tmp_path / "x.wav", sound(3_000))
    data = path.read_bytes()
    place = data.find(b"data")
    odd = b"junk" + struct.pack("<I", 5) + b"12345\0"
    path.write_bytes(data[:place] + odd + data[place:] + odd)
    assert audio_info(path).frames == 3_000
    path.write_bytes(data[:place] + odd + data[place:-2])
    assert "truncated: " in message(lambda: audio_info(path))
    for suffix in ("ogg", "mp3"):
        path = save(tmp_path / f"x.{suffix}", sound(3_000))
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        assert len(read_audio(path, sample_rate=16_000)) == 3_000
