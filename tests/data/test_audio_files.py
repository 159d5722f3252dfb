"""Audio files are read as they are, in parts as in whole, and what is wrong with one is said in one line."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from audio_file_cases import FORMATS, message, save, sound

from ssmbio.data import audio_files, audio_resampling, audio_source
from ssmbio.data.audio_files import audio_info, check_samples, frames_at, read_audio, write_audio
from ssmbio.data.audio_source import AudioInfo


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
def test_whole_and_parts_of_every_format(tmp_path: Path, suffix: str, subtype: str | None, channels: int) -> None:
    path = save(tmp_path / f"x.{suffix}", sound(60_000, channels), subtype=subtype)
    decoded, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert audio_info(path) == AudioInfo(60_000, 16_000, channels)
    whole = read_audio(path, sample_rate=16_000)
    assert whole.dtype == np.float32
    assert np.allclose(whole, np.clip(decoded.mean(1), -1, 1), atol=1e-6)
    assert np.abs(whole).max() > 0.5
    for start in (0, 1, 31_999, 59_990, *np.random.default_rng(1).integers(0, 59_000, 15)):
        part = read_audio(path, sample_rate=16_000, start=int(start), frames=999)
        assert np.allclose(part, whole[start : start + 999], atol=1e-6)
        assert len(part) == min(999, 60_000 - start)
    assert len(read_audio(path, sample_rate=16_000, start=60_000)) == 0
    assert len(read_audio(path, sample_rate=16_000, start=5, frames=0)) == 0
    assert np.allclose(read_audio(path, sample_rate=16_000, start=59_000), whole[59_000:], atol=1e-6)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (16_000, 22_050)])
@pytest.mark.parametrize("block", [1 << 20, 1000])
def test_resampled_parts_are_parts_of_the_resampled_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, wanted: int, block: int
) -> None:
    monkeypatch.setattr(audio_source, "BLOCK", block)
    monkeypatch.setattr(audio_resampling, "_BLOCK", block)
    wave = sound(20_011, 2)
    path = save(tmp_path / "x.wav", wave, rate, "FLOAT")
    mono = torch.from_numpy(wave.astype(np.float32).mean(1))
    expected = torchaudio.functional.resample(mono, rate, wanted).clamp(-1, 1).numpy()
    n = frames_at(audio_info(path), wanted)
    whole = read_audio(path, sample_rate=wanted)
    assert len(expected) == len(whole) == n
    assert np.abs(whole - expected).max() < 1e-4
    starts = (0, 1, 159, 160, 161, 441, n - 1000, n - 3, n - 1, *np.random.default_rng(2).integers(0, n, 20))
    for start in map(int, starts):
        for frames in (1, 700, 2500):
            part = read_audio(path, sample_rate=wanted, start=start, frames=frames)
            assert len(part) == min(frames, n - start)
            assert np.abs(part - expected[start : start + frames]).max() < 1e-4


def test_a_tone_keeps_its_pitch_and_phase(tmp_path: Path) -> None:
    """Against the tone itself, sampled at the other rate, and not against what resamples."""
    path = save(tmp_path / "x.wav", 0.8 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050), 22_050, "FLOAT")
    part = read_audio(path, sample_rate=16_000, start=7_000, frames=2_000)
    assert np.abs(part - 0.8 * np.sin(2 * np.pi * 440 * np.arange(7_000, 9_000) / 16_000)).max() < 2e-3


def test_a_crop_decodes_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "long.wav", sound(500_000), 44_100)
    asked: list[int] = []
    decode = soundfile.SoundFile.read

    def counting(self, frames: int = -1, **settings):
        asked.append(frames)
        return decode(self, frames, **settings)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    audio_info(path)
    assert asked == []
    read_audio(path, sample_rate=44_100, start=400_000, frames=1000)
    assert asked == [1000]
    asked.clear()
    # 1,000 samples at 16 kHz are 2,757 frames; filter and whole groups of 441 frames take some more at each side.
    read_audio(path, sample_rate=16_000, start=100_000, frames=1000)
    assert 2_757 < sum(asked) < 2_757 + 5 * 441
    asked.clear()
    # Nor near the end of ogg, where it has to start a little earlier.
    read_audio(save(tmp_path / "long.ogg", sound(500_000)), sample_rate=16_000, start=499_000, frames=1000)
    assert 1000 < sum(asked) < 50_000


def test_frames_after_resampling_are_rounded_up() -> None:
    assert frames_at(AudioInfo(441, 44_100, 1), 16_000) == 160
    assert frames_at(AudioInfo(442, 44_100, 1), 16_000) == 161
    assert frames_at(AudioInfo(1, 48_000, 1), 8_000) == 1
    # In whole numbers, where floats would have lost count.
    assert frames_at(AudioInfo(3 * 10**15 + 1, 48_000, 1), 16_000) == 10**15 + 1


@pytest.mark.parametrize("quiet", [1, 1e-6])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_seeking_in_the_last_pages_of_ogg(tmp_path: Path, rate: int, quiet: float) -> None:
    """Where libsndfile itself lands at a wrong place; silence makes pages that are long in time."""
    wave = sound(150_001, seed=3)
    wave[50_000:] *= quiet
    path = save(tmp_path / "x.ogg", wave, rate)
    whole = read_audio(path, sample_rate=rate)
    for start in range(0, 150_001, 1_777):
        part = read_audio(path, sample_rate=rate, start=start, frames=300)
        assert np.abs(part - whole[start : start + 300]).max() < 1e-6


def test_overshoot_is_cut_unless_it_is_asked_for(tmp_path: Path) -> None:
    square = np.where(np.arange(4_000) % 100 < 50, 1.0, -1.0)
    loud = save(tmp_path / "square.wav", square, 22_050)
    assert np.abs(read_audio(loud, sample_rate=16_000)).max() == 1
    assert np.abs(read_audio(loud, sample_rate=16_000, beyond_one=True)).max() > 1.05
    lossy = save(tmp_path / "square.ogg", square)
    assert np.abs(read_audio(lossy, sample_rate=16_000)).max() == 1
    assert np.abs(read_audio(lossy, sample_rate=16_000, beyond_one=True)).max() > 1
    high = save(tmp_path / "high.wav", 3 * square, subtype="DOUBLE")
    assert np.array_equal(read_audio(high, sample_rate=16_000, beyond_one=True), 3 * square)
    text = message(lambda: read_audio(high, sample_rate=16_000))
    assert text == f"{high}: samples reach 3, beyond ±1; scale it to ±1."


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    wave = (np.arange(-32768, 32768, 3) / 32768).astype(np.float32)
    for name in ("a.wav", "b.FLAC", "deep/c.flac"):
        write_audio(tmp_path / name, wave, 22_050)
        header = soundfile.info(tmp_path / name)
        assert (header.samplerate, header.channels, header.subtype) == (22_050, 1, "PCM_16")
        assert header.format == name[-4:].lstrip(".").upper()
        assert np.array_equal(read_audio(tmp_path / name, sample_rate=22_050), wave)
    write_audio(tmp_path / "one.wav", np.array([1, -1, 0.9e-5], np.float32), 16_000)
    assert read_audio(tmp_path / "one.wav", sample_rate=16_000).tolist() == [32767 / 32768, -1, 0]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.wav"
    wave = np.zeros(100, np.float32)
    write_audio(path, wave, 16_000)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "clip.wav: cannot be written (No space left on device); free some space" in message(
        lambda: write_audio(path, wave + 0.5, 16_000)
    )
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.wav"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    ok = np.zeros(10, np.float32)
    assert "x.mp3: '.mp3' cannot be written; name it .wav or .flac." in message(
        lambda: write_audio(tmp_path / "x.mp3", ok, 16_000)
    )
    for wrong in (ok[:0], ok[None], ok + 1.01, ok * np.nan):
        with pytest.raises(ValueError, match="waveform must be"):
            write_audio(tmp_path / "x.wav", wrong, 16_000)
    assert not list(tmp_path.iterdir())


def test_other_names_for_what_soundfile_knows(tmp_path: Path) -> None:
    """A file is known by its content."""
    save(tmp_path / "x.flac", sound(3_000)).rename(tmp_path / "x.wav")
    assert audio_info(tmp_path / "x.wav").frames == 3_000


def test_rates_channels_and_ratios(tmp_path: Path) -> None:
    path = save(tmp_path / "x.wav", sound(3_000), 44_100)
    assert message(lambda: read_audio(path, sample_rate=16_000, resample=False)) == (
        f"{path}: 44,100 Hz, not 16,000 Hz; set data.resample=true."
    )
    assert len(read_audio(path, sample_rate=44_100, resample=False)) == 3_000
    too_fine = message(lambda: read_audio(path, sample_rate=16_001))
    assert "44,100 Hz, not 16,001 Hz, and the ratio 44100:16001 is too fine" in too_fine
    assert "save it at 16,001 Hz, or at a rate that" in too_fine
    many = save(tmp_path / "many.wav", sound(3_000, 3))
    assert audio_info(many).channels == 3
    assert message(lambda: read_audio(many, sample_rate=16_000)) == (f"{many}: 3 channels; mix it to one or two first.")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float, word: str) -> None:
    wave = sound(9_000, 2)
    wave[7_123, 1] = value
    path = save(tmp_path / "x.wav", wave, subtype="FLOAT")
    for settings in ({}, {"beyond_one": True}, {"start": 7_000, "frames": 124}):
        text = message(lambda settings=settings: read_audio(path, sample_rate=16_000, **settings))
        assert text == f"{path}: sample 7,123 is {word}; remove the file, or write it again."
    assert "sample 7,123" in message(lambda: read_audio(path, sample_rate=8_000))
    assert len(read_audio(path, sample_rate=16_000, frames=7_123)) == 7_123


def test_late_faults_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_source, "BLOCK", 1_000)
    wave = sound(9_000, 2)
    path = save(tmp_path / "x.wav", wave, subtype="FLOAT")
    check_samples(path)
    for frame in (0, 7_123, 8_999):
        faulty = wave.copy()
        faulty[frame, 1] = np.nan
        save(path, faulty, subtype="DOUBLE")
        assert message(lambda: check_samples(path, beyond_one=True)) == (
            f"{path}: sample {frame:,} is NaN; remove the file, or write it again."
        )
        faulty[frame, 1] = -1.5
        save(path, faulty, subtype="FLOAT")
        check_samples(path, beyond_one=True)
        assert message(lambda: check_samples(path)) == f"{path}: samples reach 1.5, beyond ±1; scale it to ±1."
        assert message(lambda: check_samples(path, mend="shout less")).endswith(" beyond ±1; shout less.")


@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
def test_how_much_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, subtype: str | None
) -> None:
    path = save(tmp_path / f"x.{suffix}", sound(60_000), subtype=subtype)
    read: list[tuple[int, int]] = []
    original = audio_source.AudioSource.blocks
    monkeypatch.setattr(
        audio_source.AudioSource, "blocks", lambda source, *part: (read.append(part), original(source, *part))[1]
    )
    last, codec = (59_999, 60_000), suffix in ("ogg", "mp3")
    check_samples(path)
    assert read == [last if codec else (0, 60_000)]
    monkeypatch.setattr(audio_files, "BLOCK", 1_000)
    read.clear()
    check_samples(path)
    assert read == [(0, 60_000)] if subtype == "FLOAT" else [last] if codec else [(29_500, 30_500), last]
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.995):
        path.write_bytes(data[: int(share * len(data))])
        assert message(lambda: check_samples(path)).startswith(f"{path}: ")


def test_parts_that_cannot_be(tmp_path: Path) -> None:
    path = save(tmp_path / "x.wav", sound(100))
    for settings in ({"start": -1}, {"frames": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            read_audio(path, sample_rate=16_000, **settings)


def test_libraries_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.wav", sound(3_000))
    audio_resampling._filter.cache_clear()
    monkeypatch.setitem(sys.modules, "torchaudio.transforms", None)
    text = message(lambda: read_audio(path, sample_rate=8_000))
    assert text.startswith("torchaudio, which resamples, cannot be imported (")
    assert f"install the torchaudio that belongs to torch {torch.__version__.split('+')[0]}, or give" in text
    assert len(read_audio(path, sample_rate=16_000)) == 3_000  # needed for resampling only
    monkeypatch.setitem(sys.modules, "soundfile", None)
    text = message(lambda: audio_info(path))
    assert text.startswith("soundfile, which reads audio, cannot be imported (")
    assert text.endswith("install it, and libsndfile if your system has none.")
