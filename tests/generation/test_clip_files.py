"""A folder of clips: what the table lists is there and whole, nothing else is, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.data.audio_codes import Encoding
from ssmbio.errors import UserError
from ssmbio.generation import clip_files
from ssmbio.generation.clip_files import ClipFolder, ListedClip, check_folder, prepare_folder, read_table
from ssmbio.generation.clips import Clip

RATE = 8000
ENCODING = Encoding()


def clip(number: int, bits: float = 3.0, samples: int = 100, prompt: int = 0) -> Clip:
    codes = np.random.default_rng(number).integers(0, 256, samples).astype(np.uint8)
    return Clip(number=number, codes=codes, nll_bits=bits, prompt_samples=prompt, seed=7)


def folder(path: Path, count: int = 8, **settings) -> ClipFolder:
    return ClipFolder(path, RATE, ENCODING, count, **settings)


def audio_names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name != "clips.tsv")


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_every_clip_is_a_file_of_its_samples_and_a_row_of_the_table(tmp_path, format):
    clips = [clip(0, 2.5), clip(1, 3.25, samples=60, prompt=20)]
    with folder(tmp_path, format=format) as written:
        for one in clips:
            written.add(one)
    assert (tmp_path / "clips.tsv").read_text() == (
        "file\tnumber\tseed\tnll_bits\tseconds\tprompt_seconds\tsamples\n"
        f"clip_000.{format}\t0\t7\t2.500000\t0.012500\t0.000000\t100\n"
        f"clip_001.{format}\t1\t7\t3.250000\t0.007500\t0.002500\t60\n"
    )
    for one, listed in zip(clips, read_table(tmp_path), strict=True):
        samples, rate = soundfile.read(tmp_path / listed.file, dtype="float32")
        assert rate == RATE
        assert soundfile.info(tmp_path / listed.file).subtype == "PCM_16"
        np.testing.assert_allclose(samples, ENCODING.decode(one.codes), rtol=0, atol=2**-15)


def test_a_table_is_read_as_it_was_written(tmp_path):
    with folder(tmp_path) as written:
        written.add(clip(3, 1 / 3, samples=1, prompt=0))
    (row,) = read_table(tmp_path)
    assert row == ListedClip("clip_003.wav", 3, 7, 0.333333, 0.000125, 0.0, 1)
    assert read_table(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("text", ["", "file\tnumber\nclip_000.wav\t0\n", "no table\n1\n"])
def test_a_damaged_table_is_one_line(tmp_path, text):
    with folder(tmp_path) as written:
        written.add(clip(0))
    table = (tmp_path / "clips.tsv").read_text()
    (tmp_path / "clips.tsv").write_text(text if text else table.replace("3.000000", "three"))
    with pytest.raises(UserError, match=r"clips\.tsv: not a table of clips"):
        read_table(tmp_path)


@pytest.mark.parametrize(("sort", "numbers"), [(False, [0, 1, 2, 3]), (True, [2, 0, 3, 1])])
def test_the_table_is_by_number_or_by_likelihood(tmp_path, sort, numbers):
    with folder(tmp_path, sort=sort) as written:
        for number, bits in enumerate([2.0, 4.0, 1.0, 2.0]):  # the lower number first where two are equal
            written.add(clip(number, bits))
    assert [row.number for row in read_table(tmp_path)] == numbers
    assert written.clips == read_table(tmp_path)


@pytest.mark.parametrize("keep", [1, 3, 20])
def test_the_likeliest_are_kept_and_the_files_of_others_go(tmp_path, keep):
    bits = np.random.default_rng(0).permutation(12) / 2
    with folder(tmp_path, keep=keep) as written:
        for number, value in enumerate(bits):
            written.add(clip(number, value))
            assert audio_names(tmp_path) == sorted(row.file for row in read_table(tmp_path))
    kept = sorted(np.argsort(bits)[:keep])
    assert [row.number for row in read_table(tmp_path)] == kept
    assert audio_names(tmp_path) == [f"clip_{number:03}.wav" for number in kept]


def test_names_are_equally_long_so_that_their_order_is_that_of_the_numbers(tmp_path):
    with folder(tmp_path, count=1001) as written:
        for number in (1000, 2, 30):
            written.add(clip(number))
    assert audio_names(tmp_path) == ["clip_0002.wav", "clip_0030.wav", "clip_1000.wav"]


def test_a_long_table_is_not_written_anew_for_every_clip_and_complete_at_the_end(tmp_path, monkeypatch):
    rows = 0
    write = clip_files.write_table

    def counted(path, clips):
        nonlocal rows
        rows += len(clips)
        write(path, clips)

    monkeypatch.setattr(clip_files, "write_table", counted)
    monkeypatch.setattr(clip_files, "write_audio", lambda path, waveform, rate: path.touch())
    with folder(tmp_path, count=1000) as written:
        for number in range(1000):
            written.add(clip(number, samples=1))
            listed = len(read_table(tmp_path)) if number < 100 else None
            assert listed in (None, number + 1)  # while they are few, each is listed at once
    assert len(read_table(tmp_path)) == 1000
    assert rows < 150_000  # of 500,000


class Stop(Exception):
    """Stands for whatever may stop a run."""


def test_a_clip_that_was_not_listed_is_removed(tmp_path, monkeypatch):
    def run() -> None:
        with folder(tmp_path) as written:
            written.add(clip(0))
            write = clip_files.write_audio

            def stopped(path, waveform, rate):
                write(path, waveform, rate)
                raise Stop

            monkeypatch.setattr(clip_files, "write_audio", stopped)
            written.add(clip(1))

    with pytest.raises(Stop):
        run()
    assert audio_names(tmp_path) == ["clip_000.wav"]
    assert [row.number for row in read_table(tmp_path)] == [0]


@pytest.mark.parametrize("keep", [None, 1])
def test_a_clip_stays_that_was_listed_at_the_last_moment(tmp_path, monkeypatch, keep):
    def run() -> None:
        with folder(tmp_path, keep=keep) as written:
            written.add(clip(0, 3.0))
            write = clip_files.write_table

            def stopped(path, clips):
                write(path, clips)
                raise Stop

            monkeypatch.setattr(clip_files, "write_table", stopped)
            written.add(clip(1, 2.0))

    with pytest.raises(Stop):
        run()
    listed = [row.file for row in read_table(tmp_path)]
    assert listed == (["clip_001.wav"] if keep else ["clip_000.wav", "clip_001.wav"])
    assert audio_names(tmp_path) == listed


@pytest.mark.parametrize("name", ["clip_002.wav", "clips.tsv"])
def test_on_a_full_disk_finished_clips_stay_and_are_listed(tmp_path, monkeypatch, name):
    """There is room for two clips; it ends with the third one's file, or with the table that is to list it."""
    replace = os.replace

    def full(source, target):
        if Path(target).name == name and (tmp_path / "clip_001.wav").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    def run() -> None:
        with folder(tmp_path) as written:
            for number in range(5):
                if number == 2:
                    monkeypatch.setattr(os, "replace", full)
                written.add(clip(number))

    with pytest.raises(UserError, match=r"No space left on device.*free some space"):
        run()
    assert audio_names(tmp_path) == ["clip_000.wav", "clip_001.wav"]
    assert [row.number for row in read_table(tmp_path)] == [0, 1]


def test_a_table_that_cannot_be_written_at_the_end_is_told(tmp_path, monkeypatch):
    """The last clips of a long run are listed on leaving the block, so that is where a full disk shows."""
    monkeypatch.setattr(clip_files, "write_audio", lambda path, waveform, rate: path.touch())

    def full(path, clips):
        raise UserError("full")

    def run() -> None:
        with folder(tmp_path, count=151) as written:
            for number in range(151):
                written.add(clip(number, samples=1))
            monkeypatch.setattr(clip_files, "write_table", full)

    with pytest.raises(UserError, match="full"):
        run()
    listed = {row.file for row in read_table(tmp_path)}
    assert len(listed) == 150
    assert set(audio_names(tmp_path)) == listed


def test_clips_of_before_are_not_touched_unless_told(tmp_path):
    with folder(tmp_path) as written:
        written.add(clip(0))
        written.add(clip(1))
    with pytest.raises(UserError, match=r"already holds clips\.tsv; .*overwrite=true"):
        check_folder(tmp_path, overwrite=False)
    (tmp_path / "clips.tsv").unlink()
    with pytest.raises(UserError, match=r"already holds clip_000\.wav"):
        check_folder(tmp_path, overwrite=False)
    check_folder(tmp_path, overwrite=True)
    assert audio_names(tmp_path) == ["clip_000.wav", "clip_001.wav"]
    check_folder(tmp_path / "new", overwrite=False)


def test_only_clips_of_before_are_removed(tmp_path):
    others = ["clip_notes.txt", "my_clip_000.wav", "clip_1.mp3", "clips.tsv.bak", "song.wav"]
    ours = ["clip_000.wav", "clip_000.png", "clip_12345.flac", "clips.tsv", "index.html"]
    for name in others + ours:
        (tmp_path / name).write_text("x")
    prepare_folder(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(others)


def test_a_clip_that_is_read_as_the_prompt_is_not_removed(tmp_path):
    with folder(tmp_path / "clips") as written:
        written.add(clip(0))
    (tmp_path / "linked").symlink_to(tmp_path / "clips")
    prompt = tmp_path / "linked" / "clip_000.wav"
    with pytest.raises(UserError, match="would remove"):
        check_folder(tmp_path / "clips", overwrite=True, read=[prompt])
    check_folder(tmp_path / "clips", overwrite=True, read=[tmp_path / "linked" / "other.wav"])


def test_a_file_or_a_place_without_room_for_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; name a folder"):
        check_folder(tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        prepare_folder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"
