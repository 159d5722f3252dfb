"""Parts of mp3, whose packets need the data of earlier ones, and a library that prints what it thinks of a file."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.data import audio_source
from ssmbio.data.audio_files import check_samples, read_audio
from ssmbio.data.audio_messages import mpg123_silenced
from ssmbio.data.audio_source import BLOCK, AudioInfo, mp3_run_up
from ssmbio.errors import UserError

ROOT = Path(__file__).parents[2]
RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
NOTE = "Warning: Xing stream size off by more than 1%, fuzzy seeking may be even more fuzzy than by design!\n"


def turns(frames: int, rate: int, channels: int, hertz: float, low: str) -> np.ndarray:
    """(frames, channels) of noise that takes turns with a tone or with silence: packets lend each other their bytes."""
    rng = np.random.default_rng(rate + channels)
    time = np.arange(frames) / rate
    loud = np.sin(2 * np.pi * hertz * time) > 0.3
    quiet = 0.3 * np.sin(2 * np.pi * 300 * time) if low == "tone" else np.zeros(frames)
    wave = np.clip(np.where(loud, 0.25 * rng.standard_normal(frames), quiet), -1, 1)
    return np.stack([wave, 0.5 * np.roll(wave, 1000)], 1)[:, :channels]


def save(path: Path, wave: np.ndarray, rate: int, level: float | None = None) -> Path:
    """With `level` of a variable rate of bits, from 0, the highest, up to 1."""
    known = level is not None and "compression_level" in inspect.signature(soundfile.write).parameters
    settings = {"compression_level": level, "bitrate_mode": "VARIABLE"} if known else {}
    soundfile.write(path, wave, rate, **settings)
    return path


def decoded(path: Path) -> np.ndarray:
    """The mean over channels, decoded in one go."""
    return soundfile.read(path, dtype="float32", always_2d=True)[0].mean(1)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames soundfile is asked for from now on, each time."""
    counts: list[int] = []
    decode = soundfile.SoundFile.read

    def counting(self, frames: int = -1, **settings):
        counts.append(frames)
        return decode(self, frames, **settings)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    return counts


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_parts_are_what_the_whole_has_there(tmp_path: Path, capfd, rate: int, channels: int) -> None:
    for low, level in (("tone", None), ("silence", 0.5), ("tone", 0.99), ("silence", 0.99)):
        hertz = 1.3 if low == "tone" else 0.4
        path = save(tmp_path / "x.mp3", turns(7 * rate, rate, channels, hertz, low), rate, level)
        whole = decoded(path)
        starts = np.random.default_rng(0).integers(0, len(whole) - 300, 100)
        for start in (0, 1, 1151, 1152, len(whole) - 300, *starts):
            part = read_audio(path, sample_rate=rate, start=int(start), frames=300, beyond_one=True)
            assert np.abs(part - whole[start : start + 300]).max() < 1e-5, (low, level, start)
    # At the place of a seek libmpg123 complains of the data that it lacks.
    assert capfd.readouterr().err == ""


def test_a_file_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the edge lies where a packet has borrowed.
    path = save(tmp_path / "long.mp3", turns(BLOCK + 30_000, 16_000, 1, -1.3, "tone"), 16_000)
    whole = decoded(path)
    assert len(whole) == BLOCK + 30_000
    counts = asked(monkeypatch)
    assert np.abs(read_audio(path, sample_rate=16_000, beyond_one=True) - whole).max() < 1e-5
    # The file may be as long as it likes.
    assert max(counts) <= BLOCK + mp3_run_up(AudioInfo(1, 16_000, 1))
    part = read_audio(path, sample_rate=16_000, start=BLOCK - 500, frames=1_000, beyond_one=True)
    assert np.abs(part - whole[BLOCK - 500 : BLOCK + 500]).max() < 1e-5


def test_every_edge_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.mp3", turns(300_000, 44_100, 2, 1.3, "tone"), 44_100)
    whole = decoded(path)
    monkeypatch.setattr(audio_source, "BLOCK", 5_003)
    assert np.abs(read_audio(path, sample_rate=44_100, beyond_one=True) - whole).max() < 1e-5


def test_resampled_parts_too(tmp_path: Path) -> None:
    path = save(tmp_path / "x.mp3", turns(200_000, 44_100, 2, 1.3, "tone"), 44_100)
    whole = read_audio(path, sample_rate=16_000, beyond_one=True)
    for start in np.random.default_rng(0).integers(0, len(whole) - 300, 50):
        part = read_audio(path, sample_rate=16_000, start=int(start), frames=300, beyond_one=True)
        assert np.abs(part - whole[start : start + 300]).max() < 1e-4


def test_a_crop_decodes_what_it_needs_and_some_thousand_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.mp3", turns(500_000, 44_100, 1, 1.3, "tone"), 44_100)
    counts = asked(monkeypatch)
    read_audio(path, sample_rate=44_100, start=400_000, frames=1_000)
    assert counts == [11_520 + 1_000]
    counts.clear()
    read_audio(path, sample_rate=44_100, start=700, frames=1_000)
    assert counts == [1_700]


def test_what_lies_before_a_packet() -> None:
    """By the standard: 511 bytes at 66 a packet (144 × 32,000 / 44,100 less 38), 255 at 57 (72 less 15)."""
    assert mp3_run_up(AudioInfo(1, 44_100, 2)) == (8 + 3) * 1152
    assert mp3_run_up(AudioInfo(1, 8_000, 1)) == (5 + 3) * 576


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    """On the standard error of the process, where libmpg123 writes from C."""
    for name in "abc":
        save(tmp_path / f"{name}.mp3", turns(30_000, 8_000, 1, 1.3, "tone"), 8_000)
    path = cut(tmp_path / "b.mp3", 0.6)
    settings = ["task=audio_generate", "data=audio_folder", f"data.root={tmp_path}", "data.sample_rate=8000"]
    settings += ["data.split={val: 0.34, test: 0.33}", f"run_dir={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ssmbio.train", *settings]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {path}: truncated: ")
    assert ended.stderr.endswith(" frames of 30,000; copy or download it again.\n")
    assert ended.stderr.count("\n") == 1


def test_the_middle_of_a_file_that_is_damaged(tmp_path: Path, capfd) -> None:
    path = save(tmp_path / "x.mp3", turns(60_000, 16_000, 1, 1.3, "tone"), 16_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3_000] = np.random.default_rng(0).bytes(3_000)
    path.write_bytes(data)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    assert "libmpg123" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"x\.mp3: damaged or truncated \(.*\); copy or download it again\.$"):
        read_audio(path, sample_rate=16_000)
    assert capfd.readouterr().err == ""


def test_what_others_print_is_passed_on(capfd) -> None:
    with mpg123_silenced():
        os.write(2, NOTE.encode() + b"of ours\nWarning: of theirs\nsome.py: UserWarning: of Python\n")
        os.write(2, b"[src/libmpg123/layer3.c:INT123_do_layer3():1774] error: part2_3_length (960) too large\nno end")
    assert capfd.readouterr().err == "of ours\nsome.py: UserWarning: of Python\nno end"

    def fails() -> None:
        with mpg123_silenced():
            os.write(2, b"before the fault\n")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "before the fault\nafter it\n"


def test_readers_in_threads_take_turns(tmp_path: Path, capfd) -> None:
    path = cut(save(tmp_path / "x.mp3", turns(30_000, 8_000, 1, 1.3, "tone"), 8_000), 0.6)
    faults: list[str] = []

    def read() -> None:
        for _ in range(20):
            try:
                check_samples(path)
            except UserError as error:
                faults.append(str(error))
            os.write(2, b"a line of ours\n")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(faults) == 80
    assert len(set(faults)) == 1
    assert capfd.readouterr().err == 80 * "a line of ours\n"


def test_without_a_standard_error(tmp_path: Path) -> None:
    path = save(tmp_path / "x.mp3", turns(30_000, 8_000, 1, 1.3, "tone"), 8_000)
    code = "import os, sys; os.close(2); from ssmbio.data.audio_files import read_audio; "
    code += "print(len(read_audio(sys.argv[1], sample_rate=8000, start=20_000)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(path)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=300)
    assert ended.stdout == "10000\n"
