"""Notes of a plucked string: in tune, decaying as asked, reproducible, and files like any others."""

from __future__ import annotations

import csv
import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssmbio.data import plucked
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.plucked import PITCHES, PluckedSource, frequency_of, pluck
from ssmbio.errors import UserError

RATE = 8000
FEW = {"train": 16, "val": 8, "test": 8}


def source(folder: Path, **changes) -> PluckedSource:
    return PluckedSource(**{"sample_rate": RATE, "clips": FEW, "folder": str(folder), **changes})


def files_of(made: PluckedSource) -> dict[str, bytes]:
    made.splits()
    return {str(path.relative_to(made.folder)): path.read_bytes() for path in sorted(made.folder.rglob("*.wav"))}


def fundamental(note: np.ndarray, rate: int) -> float:
    """In Hz, by autocorrelation: its first high peak, then those at multiples of that lag, which are finer."""
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 4 * len(note))) ** 2
    likeness = np.fft.irfft(spectrum)[: len(note) // 2]
    peaks = np.flatnonzero((likeness[1:-1] >= likeness[:-2]) & (likeness[1:-1] >= likeness[2:])) + 1
    lag = float(peaks[likeness[peaks] > 0.97 * likeness[peaks].max()][0])
    for times in (1, 2, 4, 8, 16):
        if lag * times + 3 < len(likeness):
            near = round(lag * times) + np.arange(-2, 3)
            best = near[likeness[near].argmax()]
            left, middle, right = likeness[best - 1 : best + 2]
            lag = (best + (left - right) / (2 * (left - 2 * middle + right))) / times
    return rate / lag


def string(frequency: float, *, decay: float, brightness: float = 1.0, position: float = 0.3, samples: int = 8000):
    """One note at `frequency` periods a sample."""
    return pluck(
        np.array([frequency]),
        decay=np.array([decay]),
        brightness=np.array([brightness]),
        position=np.array([position]),
        onset=np.array([0]),
        samples=samples,
        draws=[np.random.default_rng(3)],
    )[0]


def harmonics(note: np.ndarray, frequency: float, count: int) -> np.ndarray:
    """(count,) magnitudes of the multiples of `frequency`, in periods a sample."""
    turns = np.outer(np.arange(1, count + 1) * frequency, np.arange(len(note)))
    return np.abs((np.exp(-2j * np.pi * turns) * note * np.hanning(len(note))).sum(1))


@pytest.mark.parametrize(
    ("pitch", "hertz"), [("A4", 440), ("A2", 110), ("C4", 261.6256), ("C#4", 277.1826), ("Bb3", 233.0819)]
)
def test_frequencies_are_those_of_equal_temperament(pitch: str, hertz: float) -> None:
    assert frequency_of(pitch) == pytest.approx(hertz, rel=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_notes_are_in_tune(tmp_path: Path, rate: int) -> None:
    # A period of A4 is 18.2 samples at 8,000 Hz: without the fraction the pitch would be 2.7 % off or more.
    made = source(tmp_path, sample_rate=rate, clips={"train": 48})
    clips = made.splits()["train"]
    assert set(clips.labels()) == set(PITCHES)
    for i in range(len(clips)):
        note = clips.read(i, rate // 10)
        assert fundamental(note, rate) == pytest.approx(frequency_of(clips.label_of(i)), rel=2e-3), clips.where(i)


@pytest.mark.parametrize("frequency", [110 / 8000, 261.6 / 8000, 440 / 8000, 1 / 8.3])
@pytest.mark.parametrize("decay", [8000.0, 30000.0])
def test_the_fundamental_decays_as_asked(frequency: float, decay: float) -> None:
    note = string(frequency, decay=decay)
    early, late = (harmonics(note[start : start + 2000], frequency, 1)[0] for start in (1500, 5500))
    assert 20 * np.log10(late / early) == pytest.approx(-60 * 4000 / decay, rel=0.03)


def test_higher_harmonics_decay_faster() -> None:
    note = string(110 / 8000, decay=30000)
    early, late = (harmonics(note[start : start + 2000], 110 / 8000, 6) for start in (0, 4000))
    assert (np.diff(late / early) < 0).all()


def test_brightness_and_position_shape_the_burst() -> None:
    # Before it has gone round the loop, here of 99 samples and a fraction, a note is its burst.
    bright, soft, middle = (
        np.abs(np.fft.rfft(string(0.01, decay=1e5, brightness=brightness, position=position)[:99]))
        for brightness, position in ((1.0, 0.3), (0.1, 0.3), (1.0, 0.5))
    )
    harmonic = np.arange(50)
    pole = 1 / np.abs(1 - 0.9 * np.exp(-2j * np.pi * harmonic / 99))
    shape = np.abs(np.sin(0.5 * np.pi * harmonic))
    assert soft[1:] == pytest.approx((bright * pole)[1:], abs=1e-9)
    assert bright[0] == pytest.approx(0, abs=1e-9)  # no offset, which would hardly decay
    assert middle == pytest.approx(bright / np.maximum(abs(np.sin(0.3 * np.pi * harmonic)), 1e-9) * shape, abs=1e-5)


def test_notes_start_early_get_quieter_and_are_heard_to_the_end(tmp_path: Path) -> None:
    clips = source(tmp_path, clips={"train": 64}).splits()["train"]
    starts = []
    for i in range(len(clips)):
        note = clips.read(i).astype(np.float64)
        starts.append(int(np.flatnonzero(note)[0]))
        level = [np.sqrt(np.mean(note[a : a + 1600] ** 2)) for a in (400, 2000, 4000, 6400)]
        assert np.all(np.diff(level) < 0), clips.where(i)
        assert level[3] > 1e-3, clips.where(i)
        assert 0.29 < np.abs(note).max() < 0.91
        assert abs(note.mean()) < 1e-2  # no offset
    assert min(starts) < 100 < 300 < max(starts) <= 402
    assert len(set(starts)) > 32


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = files_of(source(tmp_path / "a"))
    assert len(first) == 32
    assert files_of(source(tmp_path / "b")) == first
    other = files_of(source(tmp_path / "a", seed=1))
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())
    # More clips leave those there are as they were.
    more = files_of(source(tmp_path / "a", clips={**FEW, "train": 300}))
    assert len(more) == 316
    assert {name: more[name] for name in first} == first


def test_splits_share_nothing_and_have_all_pitches(tmp_path: Path) -> None:
    made = source(tmp_path)
    splits = made.splits()
    assert {split: len(clips) for split, clips in splits.items()} == FEW
    for split, clips in splits.items():
        assert set(Counter(clips.labels()).values()) == {FEW[split] // len(PITCHES)}
        assert (clips.lengths == RATE).all()
    contents = [path.read_bytes() for path in made.folder.rglob("*.wav")]
    assert len(set(contents)) == len(contents) == sum(FEW.values())
    names = [name for clips in splits.values() for name in clips.names]
    assert len(set(names)) == len(names) == len(contents)


def test_files_are_plain_wav_with_a_table(tmp_path: Path) -> None:
    made = source(tmp_path, sample_rate=11025, seconds=0.5)
    clips = made.splits()["val"]
    info = soundfile.info(clips.paths[0])
    assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 11025)
    assert info.frames == round(0.5 * 11025)
    samples, _ = soundfile.read(clips.paths[0], dtype="float32")
    assert np.array_equal(samples, clips.read(0))
    with open(made.folder / "splits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(FEW.values())
    assert rows[0] == {"path": "A2/train_0000.wav", "label": "A2", "split": "train"}


def test_two_samples_foretell_the_next_far_better_than_one(tmp_path: Path) -> None:
    """What makes it a task: a line through the last two samples is within 0.7 of a first-order Markov model's bits."""
    splits = source(tmp_path, clips={"train": 160, "test": 32}).splits()
    encoding = Encoding()
    codes = {
        split: np.stack([encoding.encode(clips.read(i)) for i in range(len(clips))]) for split, clips in splits.items()
    }
    last = {split: code[:, 1:-1] for split, code in codes.items()}
    line = {}
    for split, code in codes.items():
        x = encoding.decode(code)
        line[split] = encoding.encode(np.clip(2 * x[:, 1:-1] - x[:, :-2], -1, 1))
    bits = [conditional_bits(seen, {k: c[:, 2:] for k, c in codes.items()}) for seen in (last, line)]
    assert 4 < bits[0] < 6
    assert bits[1] < 0.7 * bits[0]


def conditional_bits(seen: dict[str, np.ndarray], code: dict[str, np.ndarray]) -> float:
    """Of the test codes given what was seen, by counts of train smoothed with the codes' own shares."""
    counts = np.zeros((256, 256))
    np.add.at(counts, (seen["train"].ravel(), code["train"].ravel()), 1)
    shares = (counts.sum(0) + 1) / (counts.sum() + 256)
    chances = (counts + shares) / (counts.sum(1, keepdims=True) + 1)
    return float(-np.log2(chances[seen["test"], code["test"]]).mean())


def test_files_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(tmp_path).splits()
    monkeypatch.setattr(plucked, "write_audio", lambda *_: pytest.fail("written again"))
    assert len(source(tmp_path).splits()["train"]) == 16


def test_the_cache_is_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path))
    made = PluckedSource(sample_rate=RATE, clips={"train": 1}, pitches=["A4"], seconds=0.1)
    made.splits()
    assert made.folder.parent == tmp_path
    assert made.folder.is_dir()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        if path.name == "train_0005.wav":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(b"")

    monkeypatch.setattr(plucked, "write_audio", full)
    with pytest.raises(UserError, match="No space left on device"):
        source(tmp_path).splits()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pitches": ["H4"]}, "pitch 'H4'; name it by letter and octave: A2, C#4, Bb3."),
        ({"pitches": []}, r"pitches \[\]; set data.pitches"),
        ({"pitches": ["A4", "A4"]}, "set data.pitches to one or more different ones"),
        (
            {"pitches": ["C7"]},
            "'C7', 2093 Hz, is too high for 8,000 samples a second; set data.sample_rate to 16744 or",
        ),
        ({"pitches": ["C0"]}, "'C0' is below 20 Hz"),
        ({"sample_rate": 10}, "sample_rate 10; set data.sample_rate to 1000 up to 192000"),
        ({"sample_rate": True}, "sample_rate True"),
        ({"seconds": 0.01}, "seconds 0.01; set data.seconds to 0.1 up to 60"),
        ({"seconds": float("nan")}, "seconds nan"),
        ({"seed": -1}, "seed -1 of the notes"),
        ({"clips": {"train": 0}}, "0 train clips; set data.clips.train to 1 or more"),
        ({"clips": {"val": 4}}, "there are no train clips"),
        ({"clips": {"train": 4, "tset": 4}}, "split 'tset'; did you mean 'test'"),
        ({"clips": {"train": 4, "test": -1}}, "-1 test clips; set data.clips.test to 0 or more"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        source(tmp_path, **changes)
    assert "\n" not in str(caught.value)
