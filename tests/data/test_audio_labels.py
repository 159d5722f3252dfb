"""The datamodule of labelled clips: samples, augmentation, lengths and labels; one plain line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from audio_data_cases import TEST, Given, data, epoch_of, labelled, plain, source, wave_of, write

from ssmbio.data.audio_labels import AudioClassData
from ssmbio.errors import UserError


def test_labelled_batches(root: Path) -> None:
    made = labelled(root, val_fraction=0.2)
    assert (made.labels, made.problem, made.sizes()) == (["a", "b"], "binary", {"train": 8, "val": 2, "test": 4})
    batch = next(iter(made.test_dataloader()))
    assert (batch["samples"].shape, batch["samples"].dtype) == ((4, 32), torch.float32)
    assert batch["lengths"].tolist() == [32, 16, 5, 32]
    assert (batch["index"].tolist(), batch["labels"].tolist()) == ([0, 1, 2, 3], [0, 0, 1, 1])
    for row, n, start, index in zip(batch["samples"], batch["lengths"], batch["start"], range(4), strict=True):
        np.testing.assert_array_equal(row[:n], wave_of(index, TEST[index])[start : start + n])
        assert not row[n:].any()
    assert [made.test.record(i).name for i in range(4)] == [f"test/{'aabb'[i]}/{i}.wav" for i in range(4)]
    assert [made.test.record(i).label for i in range(4)] == ["a", "a", "b", "b"]


def test_labelled_training_is_augmented_and_evaluation_is_not(root: Path) -> None:
    changed, untouched = labelled(root, gain=6.0, shift=2, noise=20), labelled(root)
    assert plain(changed.test_dataloader()) == plain(untouched.test_dataloader())
    assert plain(changed.val_dataloader()) == plain(untouched.val_dataloader())
    one, other = (epoch_of(made.train_dataloader(), 0) for made in (changed, untouched))
    assert [batch["index"] for batch in one] == [batch["index"] for batch in other]
    assert [batch["lengths"] for batch in one] == [batch["lengths"] for batch in other]
    assert all(a["samples"] != b["samples"] for a, b in zip(one, other, strict=True))
    assert epoch_of(labelled(root, gain=6.0, shift=2, noise=20).train_dataloader(), 0) == one
    assert epoch_of(changed.train_dataloader(), 1) != one


def test_a_shift_leaves_something_of_a_clip(root: Path) -> None:
    labelled(root, length=32, shift=31)
    with pytest.raises(UserError, match=r"shift 32; set data\.shift to less than data\.length = 32"):
        labelled(root, length=32, shift=32)


def test_clips_of_like_length_share_a_batch(root: Path) -> None:
    made = labelled(root, group_lengths=True, batch_size=2, length=2**20, val_fraction=0.2)
    spread = [max(batch["lengths"]) - min(batch["lengths"]) for batch in epoch_of(made.train_dataloader(), 0)]
    lengths = sorted(made.train.records.frames)
    assert sorted(spread) == sorted(b - a for a, b in zip(lengths[::2], lengths[1::2], strict=True))


def test_a_checkpoint_knows_its_labels(root: Path) -> None:
    made = labelled(root, "test", labels=["a", "b", "c"], problem="multiclass")
    assert (made.train, made.val) == (None, None)
    assert next(iter(made.test_dataloader()))["labels"].tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"2\.wav: label 'b' is not among the labels of the training data"):
        labelled(root, "test", labels=["a", "c"], problem="binary")


def test_a_clip_without_a_label_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(3):
            write(tmp_path / split / f"{index}.wav", wave_of(index, 20))
    mend = r"the clip has no label; put it into a folder named for its label, or give it one in splits\.csv"
    with pytest.raises(UserError, match=rf"train/0\.wav: {mend}"):
        labelled(tmp_path)
    with pytest.raises(UserError, match=rf"test/0\.wav: {mend}"):
        labelled(tmp_path, "test", labels=["a", "b"], problem="binary")
    assert data(tmp_path).sizes() == {"train": 2, "val": 1, "test": 3}


def test_labels_need_training_clips(root: Path) -> None:
    with pytest.raises(UserError, match=r"there is no training data; give training clips too, below data\.root"):
        AudioClassData(Given(test=source(root).splits()["test"])).setup("fit")
