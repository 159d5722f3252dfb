"""The embedded default for audio: notes of a plucked string, written as wav files and read back like any user's folder.

The string is the delay loop of Karplus and Strong (1983, Computer Music Journal 7(2), 43–55), one period of noise that
goes round and is smoothed a little each time, with the tuning, decay and pluck position of Jaffe and Smith (same issue,
56–69). Nothing else is added, so all that a note does after its first period follows from that period.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_files import write_audio
from ssmbio.data.audio_folder import AudioFolderSource
from ssmbio.data.audio_set import AudioSet
from ssmbio.data.cache import cache_folder
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS
from ssmbio.errors import UserError
from ssmbio.files import new_folder

log = logging.getLogger(__name__)

VERSION = 1
PITCHES = ("A2", "C3", "E3", "G3", "A3", "C4", "E4", "A4")
CLIPS = {"train": 800, "val": 100, "test": 100}

_STEPS = {"C": -9, "D": -7, "E": -5, "F": -4, "G": -2, "A": 0, "B": 2}  # half tones from A of the same octave
_TOGETHER = 256  # notes that are made at once: 16 MB at 8,000 samples each
_SHORTEST_PERIOD = 8  # samples; with fewer, nothing is left of a note but its fundamental

Floats = npt.NDArray[np.float64]


class PluckedSource:
    """Notes of a plucked string; the label is the pitch: A2, C3, ….

    The first call writes ``<pitch>/<split>_<number>.wav`` (16 bits, mono) and ``splits.csv`` into the cache. Every note
    has its own decay, brightness, place of the pluck, loudness, and a start within the first twentieth of the clip, all
    drawn from `seed`, the split and its number: more clips leave those there are as they were. Pitches take turns.

    Args:
        sample_rate: of the files and of what is read, in Hz.
        seconds: of each clip; notes sound to its end, by then 12 to 40 dB weaker.
        pitches: names such as A2, C#4 or Bb3, A4 = 440 Hz, equally tempered; at least one, up to sample_rate / 8.
        clips: how many train, val and test have; 0 leaves a split out.
        seed: of the notes. It is apart from the seed of the run, so every run sees the same ones.
        resample: as in `AudioFolderSource`. The files are written at `sample_rate`, so nothing depends on it.
        folder: where to write; None for the cache.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        seconds: float = 1.0,
        pitches: Sequence[str] = PITCHES,
        clips: Mapping[str, int] = CLIPS,
        seed: int = 0,
        resample: bool = True,
        folder: str | None = None,
    ) -> None:
        if type(sample_rate) is not int or not 1000 <= sample_rate <= 192_000:
            raise UserError(f"sample_rate {sample_rate}", mend="set data.sample_rate to 1000 up to 192000")
        if not isinstance(seconds, (int, float)) or not 0.1 <= seconds <= 60:
            raise UserError(f"seconds {seconds}", mend="set data.seconds to 0.1 up to 60")
        if type(seed) is not int or seed < 0:
            raise UserError(f"seed {seed} of the notes", mend="set data.note_seed to a whole number, 0 or more")
        self.pitches = _checked_pitches(pitches, sample_rate)
        self.clips = _checked_clips(clips)
        self.sample_rate, self.seconds, self.seed, self.resample = sample_rate, float(seconds), seed, resample
        address = json.dumps([VERSION, sample_rate, self.seconds, self.pitches, self.clips, seed])
        name = f"plucked-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        self.folder = Path(folder) / name if folder else cache_folder(name)

    def splits(self) -> dict[str, AudioSet]:
        """Write the files unless they are there, and read them."""
        if not self.folder.is_dir():
            log.warning("Writing %s notes into %s; this is done once.", f"{sum(self.clips.values()):,}", self.folder)
            with new_folder(self.folder) as partial:
                self._write(partial)
        return AudioFolderSource(root=str(self.folder), sample_rate=self.sample_rate, resample=self.resample).splits()

    def _write(self, folder: Path) -> None:
        for pitch in self.pitches:
            (folder / pitch).mkdir()
        rows = [("path", "label", "split")]
        for split, count in self.clips.items():
            for first in range(0, count, _TOGETHER):
                numbers = range(first, min(first + _TOGETHER, count))
                pitches = [self.pitches[number % len(self.pitches)] for number in numbers]
                for number, pitch, waveform in zip(numbers, pitches, self._notes(split, numbers, pitches), strict=True):
                    path = f"{pitch}/{split}_{number:04d}.wav"
                    write_audio(folder / path, waveform.astype(np.float32), self.sample_rate)
                    rows.append((path, pitch, split))
        with open(folder / "splits.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _notes(self, split: str, numbers: Sequence[int], pitches: Sequence[str]) -> Floats:
        """(n, L) of the notes with these numbers."""
        samples = round(self.seconds * self.sample_rate)
        # One generator a note, so that it is the same whatever else is made.
        draws = [np.random.default_rng([self.seed, SPLITS.index(split), number]) for number in numbers]
        chosen = np.array([draw.uniform(size=5) for draw in draws])
        frequency = np.array([frequency_of(pitch) for pitch in pitches])
        notes = pluck(
            frequency / self.sample_rate,
            decay=samples * (1.5 + 3.5 * chosen[:, 0]),
            brightness=0.05 + 0.25 * chosen[:, 1],
            position=0.1 + 0.4 * chosen[:, 2],
            onset=(samples / 20 * chosen[:, 3]).astype(np.int64),
            samples=samples,
            draws=draws,
        )
        loudness = 0.3 + 0.6 * chosen[:, 4]
        return notes * (loudness / np.abs(notes).max(1))[:, None]


def frequency_of(pitch: str) -> float:
    """In Hz: equal temperament, A4 = 440. Raises UserError for what is no name of a pitch."""
    found = re.fullmatch(r"([A-G])([#b]?)([0-9])", pitch)
    if not found:
        raise UserError(f"pitch '{pitch}'", mend="name it by letter and octave: A2, C#4, Bb3")
    letter, sign, octave = found.groups()
    return 440 * 2 ** (int(octave) - 4 + (_STEPS[letter] + {"#": 1, "b": -1, "": 0}[sign]) / 12)


def pluck(
    frequency: Floats,
    *,
    decay: Floats,
    brightness: Floats,
    position: Floats,
    onset: npt.NDArray[np.int64],
    samples: int,
    draws: Sequence[np.random.Generator],
) -> Floats:
    """n plucked strings, (n, samples).

    The loop is ``v_t = burst_t + allpass(ρ((1 − S) v_{t−N} + S v_{t−N−1}))``. The all-pass
    ``a_t = C w_t + w_{t−1} − C a_{t−1}`` delays the fundamental by the fraction of a sample that is missing to a period
    (Jaffe and Smith, p. 59); S, at most ½ as in Karplus and Strong, is as large as the decay allows.

    Args:
        frequency: (n,) of the fundamental, in periods a sample.
        decay: (n,) samples in which the fundamental falls by 60 dB.
        brightness: (n,) from 0 to 1, of the burst: 1 is white, less is smoothed by one pole at ``1 − brightness``.
        position: (n,) where it is plucked, a fraction of the string: harmonic k has the weight sin(πk·position).
        onset: (n,) the first sample of the burst.
        draws: n generators; each gives the noise of one burst.
    """
    omega = 2 * np.pi * frequency
    # Gain a period; (1 − S) + S z⁻¹ has the squared gain 1 − 2 S (1 − S) (1 − cos ω), which must not be less.
    gain = 10 ** (-3 / (frequency * decay))
    room = np.minimum((1 - gain**2) / (2 * (1 - np.cos(omega))), 0.25)
    far = 0.5 * (1 - np.sqrt(1 - 4 * room))
    near = 1 - far
    loss = gain / np.sqrt(1 - 2 * far * near * (1 - np.cos(omega)))

    rest = 1 / frequency - np.arctan2(far * np.sin(omega), near + far * np.cos(omega)) / omega
    delay = np.floor(rest - 0.3).astype(np.int64)  # leaves 0.3 to 1.3 samples, where the all-pass settles fast
    turn = omega * (rest - delay)
    allpass = np.sin((omega - turn) / 2) / np.sin((omega + turn) / 2)

    n, before = len(frequency), int(delay.max())  # rows of zeros, where the loop reads before the start
    v = np.zeros((before + samples, n))
    for i, draw in enumerate(draws):
        burst = _burst(int(delay[i]), brightness[i], position[i], draw)[: samples - onset[i]]
        v[before + onset[i] : before + onset[i] + len(burst), i] = burst
    flat, place = v.reshape(-1), (before - delay) * n + np.arange(n)
    near, far = loss * near, loss * far
    late, smooth, tuned = np.zeros(n), np.zeros(n), np.zeros(n)
    for t in range(samples):
        now = flat[place + t * n]
        earlier, smooth = smooth, near * now + far * late
        late = now
        tuned = allpass * (smooth - tuned) + earlier
        v[before + t] += tuned
    return v[before:].T


def _burst(period: int, brightness: float, position: float, draw: np.random.Generator) -> Floats:
    """(period,) of noise without a mean, shaped round the loop so that it repeats without a step."""
    spectrum = np.fft.rfft(draw.uniform(-1, 1, period))
    harmonic = np.arange(len(spectrum))
    spectrum *= np.sin(np.pi * harmonic * position) / (1 - (1 - brightness) * np.exp(-2j * np.pi * harmonic / period))
    return np.fft.irfft(spectrum, period)


def _checked_pitches(pitches: Sequence[str], sample_rate: int) -> list[str]:
    names = [pitches] if isinstance(pitches, str) else [str(pitch) for pitch in pitches]
    if not names or len(set(names)) < len(names):
        raise UserError(f"pitches {names}", mend="set data.pitches to one or more different ones: [A2,C3,E3]")
    for name in names:
        if frequency_of(name) * _SHORTEST_PERIOD > sample_rate:
            raise UserError(
                f"pitch '{name}', {frequency_of(name):.0f} Hz, is too high for {sample_rate:,} samples a second",
                mend=f"set data.sample_rate to {_SHORTEST_PERIOD * frequency_of(name):.0f} or more",
            )
        # 20 Hz: what is heard as a pitch, and several periods fit into any clip.
        if frequency_of(name) < 20:
            raise UserError(f"pitch '{name}' is below 20 Hz", mend="choose E0 or a higher one")
    return names


def _checked_clips(clips: Mapping[str, int]) -> dict[str, int]:
    for split, count in clips.items():
        if split not in SPLITS:
            raise UserError(f"split '{split}'", mend=instead_of(split, SPLITS))
        least = 1 if split == "train" else 0
        if type(count) is not int or count < least:
            raise UserError(f"{count} {split} clips", mend=f"set data.clips.{split} to {least} or more")
    if "train" not in clips:
        raise UserError("there are no train clips", mend="set data.clips.train to 1 or more")
    return {split: clips[split] for split in SPLITS if clips.get(split)}
