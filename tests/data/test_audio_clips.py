"""Clips as pieces, crops and batches: every sample once, nothing beyond a clip, and the same on every machine."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.data.audio_clips import (
    AudioCollate,
    AudioExample,
    AudioPieces,
    ClipReader,
    LabelledClips,
)
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_folder import AudioFolderSource
from ssmbio.data.audio_set import AudioSet

RATE = 8000
FRAMES = [40, 16, 100, 5, 33]
LONGEST = 2**20 + 5


def ramp(index: int, frames: int) -> np.ndarray:
    """Samples that no other place of any clip has."""
    return ((1000 * index + np.arange(frames)) / 2**21 - 0.25).astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> AudioSet:
    """Five clips, each a ramp of its own."""
    for index, frames in enumerate(FRAMES):
        write(tmp_path / "train" / f"clip{index}.wav", ramp(index, frames))
    return AudioFolderSource(root=str(tmp_path), sample_rate=RATE).splits()["train"]


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def of_one(tmp_path: Path, samples: np.ndarray) -> AudioSet:
    write(tmp_path / "train" / "one.wav", samples)
    return AudioFolderSource(root=str(tmp_path), sample_rate=RATE).splits()["train"]


class Counted:
    """A set that counts what is read of it."""

    def __init__(self, clips: AudioSet) -> None:
        self.clips, self.asked = clips, []
        self.frames = clips.frames

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, start: int, frames: int, *, beyond_one: bool) -> np.ndarray:
        self.asked.append((index, start, frames))
        return self.clips.read(index, start, frames, beyond_one=beyond_one)


def test_pieces_have_every_sample_once_and_in_order(clips: AudioSet) -> None:
    pieces = AudioPieces(ClipReader(clips), 16)
    assert len(pieces) == 3 + 1 + 7 + 1 + 3
    read = [pieces[i] for i in range(len(pieces))]
    assert [len(piece.values) for piece in read] == [16, 16, 8, 16, 16, 16, 16, 16, 16, 16, 4, 5, 16, 16, 1]
    for index, frames in enumerate(FRAMES):
        own = [piece for piece in read if piece.index == index]
        assert [piece.start for piece in own] == list(range(0, frames, 16))
        np.testing.assert_array_equal(np.concatenate([piece.values for piece in own]), ramp(index, frames))
    with pytest.raises(IndexError, match="record 15 of 15"):
        pieces[15]


def test_crops_lie_in_their_clip_and_reach_all_of_it(clips: AudioSet) -> None:
    pieces = AudioPieces(ClipReader(clips), 16, seed=3)
    starts: dict[int, set[int]] = {index: set() for index in range(len(FRAMES))}
    for epoch in range(150):
        for number in range(len(pieces)):
            crop = pieces[epoch, number]
            index, _, _ = pieces.place(number)
            assert crop.index == index
            assert len(crop.values) == min(16, FRAMES[index])
            np.testing.assert_array_equal(crop.values, ramp(index, FRAMES[index])[crop.start :][:16])
            starts[index].add(crop.start)
    assert starts[0] == set(range(40 - 16 + 1))
    assert starts[4] == set(range(33 - 16 + 1))
    assert {0, 100 - 16} <= starts[2]
    assert starts[1] == starts[3] == {0}


def test_a_crop_depends_on_seed_epoch_and_number_alone(clips: AudioSet) -> None:
    def starts(seed: int, epoch: int, order: range) -> dict[int, int]:
        pieces = AudioPieces(ClipReader(clips), 16, seed)
        return {number: pieces[epoch, number].start for number in order}

    first = starts(3, 1, range(15))
    assert starts(3, 1, range(14, -1, -1)) == first
    assert starts(3, 2, range(15)) != first
    assert starts(4, 1, range(15)) != first
    assert len({first[number] for number in range(4, 11)}) > 1  # the crops of one clip


@pytest.mark.parametrize("kind", ["mu_law", "linear"])
@pytest.mark.parametrize("rescale", [False, True])
def test_codes_of_a_part_are_those_of_the_whole_clip(tmp_path: Path, kind: str, rescale: bool) -> None:
    wave = 0.3 * np.sin(np.arange(1000) / 20).astype(np.float32) ** 3
    wave[[123, 800]] = 0.7, -0.4  # the extremes lie in two of the pieces alone
    clips, encoding = of_one(tmp_path, wave), Encoding(kind, 8, rescale)
    pieces = AudioPieces(ClipReader(clips, encoding), 64)
    codes = np.concatenate([pieces[i].values for i in range(len(pieces))])
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, encoding.encode(wave))
    crop = pieces[0, 5]
    np.testing.assert_array_equal(crop.values, codes[crop.start :][:64])


def test_the_range_of_a_long_clip_is_looked_up_once_and_by_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmbio.data.audio_clips.BLOCK", 400)
    clips = Counted(of_one(tmp_path, ramp(0, 1000)))
    reader = ClipReader(clips, Encoding("linear", 8, True))  # type: ignore[arg-type]
    reader(0, 100, 50)
    assert clips.asked == [(0, 100, 50), (0, 0, 400), (0, 400, 400), (0, 800, 200)]
    assert reader.range_of(0) == (ramp(0, 1000)[0], ramp(0, 1000)[-1])
    pickle.loads(pickle.dumps(reader))(0, 700, 50)
    reader(0, 200, 50)
    assert clips.asked[4:] == [(0, 200, 50)]


def test_whole_clips_are_kept_up_to_a_limit(clips: AudioSet) -> None:
    counted = Counted(clips)
    reader = ClipReader(counted, keep=4 * (40 + 16))  # type: ignore[arg-type]
    pieces = AudioPieces(reader, 50)
    before = [pieces[0, i].values.copy() for i in range(len(pieces))]
    after = [pieces[0, i].values for i in range(len(pieces))]
    # Clips 0 and 1 fill the limit; of clip 2 crops are read, which are not kept.
    assert [index for index, _, _ in counted.asked] == [0, 1, 2, 2, 3, 4, 2, 2, 3, 4]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="read-only"):
        after[0][0] = 1
    assert len(pickle.dumps(reader._kept)) > len(pickle.dumps(pickle.loads(pickle.dumps(reader))._kept))


def test_workers_keep_nothing(clips: AudioSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmbio.data.audio_clips.get_worker_info", lambda: "a worker")
    counted = Counted(clips)
    reader = ClipReader(counted, keep=2**20)  # type: ignore[arg-type]
    for _ in range(2):
        reader(0, 0, 40)
    assert len(counted.asked) == 2


def test_a_million_samples_are_read_in_pieces_and_in_one(tmp_path: Path) -> None:
    clips = Counted(of_one(tmp_path, ramp(0, LONGEST)))
    whole = AudioPieces(ClipReader(clips), 2**20)  # type: ignore[arg-type]
    assert [len(whole[i].values) for i in range(len(whole))] == [2**20, 5]
    np.testing.assert_array_equal(np.concatenate([whole[0].values, whole[1].values]), ramp(0, LONGEST))
    assert 0 <= whole[0, 1].start <= 5

    clips.asked.clear()
    short = AudioPieces(ClipReader(clips), 16000)  # type: ignore[arg-type]
    assert len(short) == 66
    np.testing.assert_array_equal(short[65].values, ramp(0, LONGEST)[65 * 16000 :])
    crop = short[0, 40]
    np.testing.assert_array_equal(crop.values, ramp(0, LONGEST)[crop.start :][:16000])
    assert clips.asked == [(0, 65 * 16000, LONGEST - 65 * 16000), (0, crop.start, 16000)]  # by seeking, nothing else


def test_collate_pads_on_the_right_with_silence() -> None:
    encoding = Encoding("mu_law", 8)
    examples = [AudioExample(np.full(n, 7, np.uint8), i, 100 + i) for i, n in enumerate([3, 17, 0])]
    batch = AudioCollate(encoding, 16)(examples)
    assert (batch["codes"].shape, batch["codes"].dtype) == ((3, 32), torch.uint8)
    assert [row.tolist() for row in batch["codes"]] == [[7] * n + [encoding.zero] * (32 - n) for n in (3, 17, 0)]
    assert (batch["lengths"].tolist(), batch["index"].tolist()) == ([3, 17, 0], [0, 1, 2])
    assert batch["start"].tolist() == [100, 101, 102]
    assert batch.keys() == {"codes", "lengths", "index", "start", "full"}
    assert AudioCollate(encoding, 1)(examples)["codes"].shape == (3, 17)
    assert AudioCollate(encoding, 16)(examples[2:])["codes"].shape == (1, 16)
    assert AudioCollate(encoding, 17)(examples)["codes"].shape == (3, 17)
    assert not batch["full"]
    assert AudioCollate(encoding, 17)(examples[1:2])["full"]
    assert not AudioCollate(encoding, 16)(examples[1:2])["full"]  # padded to 32

    labelled = [AudioExample(np.full(n, 0.5, np.float32), 0, 0, np.int64(n)) for n in (3, 20)]
    batch = AudioCollate(None, 16)(labelled)
    assert (batch["samples"].shape, batch["samples"].dtype) == ((2, 32), torch.float32)
    assert [row.tolist() for row in batch["samples"]] == [[0.5] * n + [0.0] * (32 - n) for n in (3, 20)]
    assert (batch["labels"].tolist(), batch["labels"].dtype) == ([3, 20], torch.int64)


def test_a_labelled_clip_is_one_item(clips: AudioSet) -> None:
    data = LabelledClips(ClipReader(clips), np.arange(5), 20, ClipAugmentation(seed=1))
    assert len(data) == 5
    for index, (start, end) in enumerate([(10, 30), (0, 16), (40, 60), (0, 5), (6, 26)]):
        np.testing.assert_array_equal(data[index].values, ramp(index, FRAMES[index])[start:end])
        assert (data[index].index, data[index].start, data[index].label) == (index, start, index)
    starts = set()
    for epoch in range(30):
        crop = data[epoch, 2]
        np.testing.assert_array_equal(crop.values, ramp(2, 100)[crop.start :][:20])
        starts.add(crop.start)
    assert len(starts) > 15
    assert data.record(3).name.endswith("clip3.wav")
