"""Waveforms that were cut off at full scale are told in one line; loud ones are not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.data import audio_files, audio_source
from ssmbio.data.audio_clipping import ClippingCount
from ssmbio.data.audio_files import check_samples
from ssmbio.data.audio_set import AudioSet, look_through
from ssmbio.data.plucked import PluckedSource

RATE = 16_000


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Coloured noise that swells and dies, scaled so that its peak is 1."""
    n = int(seconds * RATE)
    noise = np.random.default_rng(seed).standard_normal(n + 20)
    wave = sum(noise[i : i + n] for i in range(20)) * (1 + np.sin(np.arange(n) / 900))
    return wave / np.abs(wave).max()


def save(path: Path, wave: np.ndarray, subtype: str | None = "PCM_16") -> Path:
    soundfile.write(path, wave, RATE, subtype=subtype)
    return path


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("wav", "FLOAT")]
)
def test_what_clips_and_what_is_only_loud(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"x.{suffix}"
    time = np.arange(RATE) / RATE
    for loud in (speech(), *(np.sin(2 * np.pi * hertz * time) for hertz in (20, 100, 1_000, 3_999))):
        assert not check_samples(save(path, loud, subtype))
    assert check_samples(save(path, np.clip(4 * speech(), -1, 1), subtype))
    # Of one channel alone, and on one side alone.
    stereo = np.stack([0.1 * speech(), np.clip(4 * speech(), -0.8, 1)], 1)
    assert check_samples(save(path, stereo, subtype))
    # A file may have been cut off at 16 bits and saved with more.
    if subtype == "PCM_24":
        assert check_samples(save(path, np.clip(4 * speech(), -1, 1 - 2**-15), subtype))


def test_how_long_and_how_many() -> None:
    def clips(*runs: int, frames: int = 1_000) -> bool:
        wave = np.zeros((frames, 2), np.float32)
        at = 1
        for run in runs:
            wave[at : at + run, 1] = 1
            at += run + 1
        count = ClippingCount()
        for start in range(0, frames, 500):
            count.add(wave[start : start + 500])
        return count.clips

    assert not clips()
    assert not clips(*[3] * 100)
    assert not clips(10)
    assert clips(11)
    assert clips(4, 4, 4)
    assert not clips(4, 4, 4, frames=1_200)
    swinging = ClippingCount()
    swinging.add(np.resize(np.array([[1.0], [-1.0]], np.float32), (1_000, 1)))
    assert not swinging.clips


def test_of_long_files_the_middle_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_source, "BLOCK", 4_000)
    monkeypatch.setattr(audio_files, "BLOCK", 4_000)
    wave = 0.5 * speech()
    wave[:6_000] = wave[-6_000:] = 1
    assert not check_samples(save(tmp_path / "x.flac", wave))
    wave[7_950:8_000] = 1
    assert check_samples(save(tmp_path / "x.flac", wave))


def test_rescaling_asks_only_what_whole_numbers_say(tmp_path: Path) -> None:
    """Samples of floating point may stand beyond ±1 then, and say nothing of their full scale."""
    clipped = np.clip(4 * speech(), -1, 1)
    assert check_samples(save(tmp_path / "x.wav", clipped), beyond_one=True)
    assert not check_samples(save(tmp_path / "x.wav", 100 * speech(), "FLOAT"), beyond_one=True)


def test_one_line_for_all_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [save(tmp_path / f"{i}.wav", np.clip((4 if i in (1, 3) else 1) * speech(seed=i), -1, 1)) for i in range(5)]
    with caplog.at_level(logging.WARNING):
        look_through(paths)
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 5 clips are cut off at full scale (clipping), {paths[1]} first; record or export them less loud."
    ]
    caplog.clear()
    clips = AudioSet.of_files(paths, None, sample_rate=RATE, resample=False, root=tmp_path)
    with caplog.at_level(logging.WARNING):
        clips.subset([0, 2, 4]).check_samples()
        clips.subset([3]).check_samples(beyond_one=True)
    assert [record.getMessage()[:12] for record in caplog.records] == ["1 of 1 clips"]


def test_the_plucked_notes_do_not_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = PluckedSource(sample_rate=8_000, seconds=0.5, clips={"train": 16}, folder=str(tmp_path)).splits()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        splits["train"].check_samples()
    assert not caplog.records
