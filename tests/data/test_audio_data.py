"""The datamodules of audio: coverage, masks, order, validation by file, and one plain line for what is wrong."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from audio_data_cases import RATE, TEST, Given, data, epoch_of, labelled, plain, source, wave_of, write

from ssmbio.data.audio import AudioData
from ssmbio.data.audio_clips import ClipReader
from ssmbio.data.audio_codes import Encoding
from ssmbio.errors import UserError


@pytest.mark.parametrize("settings", [{}, {"rescale": True}, {"encoding": "mu_law"}, {"length": 16, "pad_to": 1}])
def test_evaluation_covers_every_sample_once(root: Path, settings: dict) -> None:
    made = data(root, eval_batch_size=3, **settings)
    found = [np.full(frames, -1) for frames in TEST]
    for batch in made.test_dataloader():
        assert len(batch["codes"]) <= 3
        longest = int(batch["lengths"].max())
        assert batch["codes"].shape[1] == -(-longest // made.collate.pad_to) * made.collate.pad_to
        for codes, n, index, start in zip(
            batch["codes"], batch["lengths"], batch["index"], batch["start"], strict=True
        ):
            place = found[index][start : start + n]
            assert len(place) == n > 0
            assert (place == -1).all()
            place[:] = codes[:n]
            assert (codes[n:] == 128).all()
    for index, codes in enumerate(found):
        np.testing.assert_array_equal(codes, made.encoding.encode(wave_of(index, TEST[index])))


def test_an_epoch_has_as_many_crops_as_pieces(root: Path) -> None:
    made = data(root, val_fraction=0.2)
    frames = made.train.records.frames
    loader = made.train_dataloader()
    crops = [crop for batch in epoch_of(loader, 0) for crop in zip(batch["index"], batch["lengths"], strict=True)]
    assert sorted(crops) == sorted((i, min(32, n)) for i, n in enumerate(frames) for _ in range(-(-n // 32)))
    assert len(loader) == -(-len(crops) // 4)


def test_training_repeats_with_the_seed_and_not_with_the_epoch(root: Path) -> None:
    first, again, other = (data(root, seed=seed).train_dataloader() for seed in (1, 1, 2))
    epochs = [epoch_of(first, epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(again, 2) == epochs[2]  # no matter what was read before
    assert epoch_of(other, 0) != epochs[0]


def test_gain_changes_the_loudness_of_training_crops_alone(root: Path) -> None:
    """Code by code they are those of the samples, louder or quieter by one factor a crop and epoch, cut off at ±1."""
    made, plain_made = data(root, gain=6.0, length=64), data(root, length=64)
    assert len(made.train) == len(plain_made.train)
    factors = set()
    for epoch, piece in ((0, 0), (0, 1), (1, 0)):
        louder, asked = made.train[epoch, piece], plain_made.train[epoch, piece]
        assert (louder.index, louder.start, len(louder.values)) == (asked.index, asked.start, len(asked.values))
        samples = ClipReader(made.train.records)(louder.index, louder.start, len(louder.values))
        factor = made.augment(np.ones(1, np.float32), epoch, piece)[0]
        np.testing.assert_array_equal(louder.values, made.encoding.encode(samples * factor))
        assert 10 ** (-6 / 20) <= factor <= 10 ** (6 / 20)
        factors.add(float(factor))
    assert len(factors) == 3
    np.testing.assert_array_equal(made.train[1, 0].values, made.train[1, 0].values)
    np.testing.assert_array_equal(made.train[0].values, plain_made.train[0].values)  # as evaluation asks
    np.testing.assert_array_equal(made.val[0].values, plain_made.val[0].values)


@pytest.mark.parametrize("other", ["carry", "rescale"])
def test_gain_goes_with_nothing_it_would_spoil(root: Path, other: str) -> None:
    with pytest.raises(UserError, match=rf"gain 3 with {other}=true, .*; set data\.gain=0"):
        data(root, gain=3.0, length=64, **{other: True})


@pytest.mark.parametrize("make", [data, labelled])
def test_workers_change_nothing(root: Path, make) -> None:
    settings = {} if make is data else {"shift": 3, "gain": 6.0, "noise": 20}
    alone, helped = make(root, **settings), make(root, num_workers=2, **settings)
    for epoch in range(2):
        assert epoch_of(helped.train_dataloader(), epoch) == epoch_of(alone.train_dataloader(), epoch)
    assert plain(helped.test_dataloader()) == plain(alone.test_dataloader())


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("keep_mib", [0, 1])
def test_a_stopped_epoch_goes_on(root: Path, rescale: bool, keep_mib: int) -> None:
    settings = {"rescale": rescale, "keep_mib": keep_mib}
    whole = [epoch_of(data(root, rescale=rescale).train_dataloader(), epoch) for epoch in range(3)]
    stopped = data(root, **settings).train_dataloader()
    stopped.sampler.set_epoch(1)
    batches = iter(stopped)
    for _ in range(2):
        next(batches)
    resumed = data(root, **settings).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert plain(resumed) == whole[1][2:]
    assert epoch_of(resumed, 2) == whole[2]


def test_validation_is_drawn_by_file(root: Path) -> None:
    made = data(root, val_fraction=0.3)
    assert made.sizes() == {"train": 7, "val": 3, "test": 4}
    paths = [{Path(path) for path in dataset.records.paths} for dataset in (made.train, made.val)]
    assert not paths[0] & paths[1]
    assert len(paths[0] | paths[1]) == 10
    assert data(root, val_fraction=0.3).val.records.names == made.val.records.names
    assert data(root, val_fraction=0.3, seed=2).val.records.names != made.val.records.names
    assert sum(int(batch["lengths"].sum()) for batch in made.val_dataloader()) == made.val.records.frames.sum()
    # One file is drawn at least, and one is left.
    assert data(root, val_fraction=0.01).sizes()["val"] == 1
    assert data(root, val_fraction=0.99).sizes()["train"] == 1


def test_given_validation_is_kept_and_a_test_reads_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        for index in range(2):
            write(tmp_path / split / f"{index}.wav", wave_of(index, 20))
    with caplog.at_level(logging.WARNING):
        made = data(tmp_path, "test")
        assert (made.train, made.val, made.test) == (None, None, None)
        assert not caplog.text
        made.setup("fit")
    assert made.sizes() == {"train": 2, "val": 2}
    assert "no test split" in caplog.text
    before = (made.train, made.val)
    made.source = None  # type: ignore[assignment]
    made.setup("fit")
    assert (made.train, made.val) == before


@pytest.mark.parametrize("make", [data, labelled])
def test_datasets_pickle(root: Path, make) -> None:
    made = make(root)
    again = pickle.loads(pickle.dumps(made.train))
    for item in range(len(made.train)):
        np.testing.assert_array_equal(again[2, item].values, made.train[2, item].values)
        assert again[2, item].start == made.train[2, item].start


def test_overfitting_repeats_the_first_pieces(root: Path) -> None:
    made = data(root)
    made.trainer = pl.Trainer(overfit_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert plain(made.train_dataloader()) == plain(made.val_dataloader())
    first = next(iter(made.train_dataloader()))
    assert first["index"].tolist() == sorted(first["index"].tolist())


def test_facts_are_plain_and_say_what_a_model_needs(root: Path) -> None:
    facts = data(root, rescale=True).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["audio"]["sample_rate"], facts["audio"]["length"]) == (RATE, 32)
    assert Encoding.from_facts(facts["audio"]["encoding"]) == Encoding("linear", 8, True)
    assert data(root, "test", rescale=True).facts() == facts
    facts = labelled(root, class_weights=True).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["audio"] == {"sample_rate": RATE, "length": 32}
    assert (facts["labels"], facts["problem"], len(facts["class_weights"])) == (["a", "b"], "binary", 2)


def test_a_test_set_of_another_kind_is_refused(root: Path) -> None:
    mine, classifier = data(root, "test"), labelled(root)
    facts = mine.facts()
    mine.check_test(facts)
    classifier.check_test(classifier.facts())
    classifier.check_test(facts)
    other = {"audio": {**facts["audio"], "sample_rate": 16000}}
    for made in (mine, classifier):
        message = r"clips are at 8000 Hz, but the model was trained at 16000 Hz; set data\.sample_rate=16000"
        with pytest.raises(UserError, match=message):
            made.check_test(other)
        with pytest.raises(UserError, match="these data are audio, but the model was trained on others"):
            made.check_test({"tokenizer": {}})
    message = (
        r"the clips are encoded as linear, 8 bits, not rescaled, but the model takes mu_law, 8 bits, rescaled; "
        r"set data.encoding=mu_law data.bits=8 data.rescale=true"
    )
    with pytest.raises(UserError, match=message):
        mine.check_test({"audio": {**facts["audio"], "encoding": Encoding("mu_law", 8, True).plain()}})
    with pytest.raises(UserError, match="the model takes samples, not codes; give a checkpoint of task=audio_generate"):
        mine.check_test(classifier.facts())
    AudioData(source(root)).check_test({})  # nothing to test


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 15},
        {"length": 16.0},
        {"length": None},
        {"pad_to": 0},
        {"keep_mib": -1},
        {"batch_size": 0},
        {"batch_size": "many"},
        {"eval_batch_size": 0},
        {"val_fraction": 1.0},
        {"val_fraction": None},
        {"num_workers": -1},
        {"seed": -1},
        {"seed": None},
        {"bits": 9},
        {"encoding": "mulaw"},
        {"rescale": "yes"},
        {"gain": -1},
        {"carry": "yes"},
    ],
)
def test_bad_settings_are_named(root: Path, settings: dict) -> None:
    (key,) = settings
    with pytest.raises(UserError, match=key) as caught:
        data(root, **settings)
    assert "\n" not in str(caught.value)
    if key in ("length", "pad_to", "keep_mib"):
        with pytest.raises(UserError, match=f"set data.{key} to "):
            labelled(root, **settings)


def test_any_length_is_taken(root: Path) -> None:
    for length in (16, 2**20, 2**24):
        batch = next(iter(data(root, length=length).test_dataloader()))
        assert batch["codes"].shape[1] == (16 if length == 16 else 80)


def test_splits_that_cannot_be(root: Path, tmp_path: Path) -> None:
    splits = source(root).splits()
    one, none = splits["train"].subset([3]), splits["train"].subset([])
    for given, message in (
        ({"test": splits["test"]}, "there are no training clips; give some too, below data.root"),
        ({"train": one}, r"3\.wav: train has one clip, so no clips can be drawn for validation; give some below"),
        ({"train": splits["train"], "val": none}, "the val split has no clips; give it some, below data.root"),
        ({"train": none}, "the train split has no clips"),
    ):
        with pytest.raises(UserError, match=message):
            AudioData(Given(**given)).setup("fit")
    with pytest.raises(UserError, match="the test split has no clips"):
        AudioData(Given(test=none)).setup("test")


def test_clips_that_reach_beyond_one_are_rescaled_or_refused(tmp_path: Path) -> None:
    loud = np.linspace(-3, 5, 100, dtype=np.float32)
    for name in ("0.wav", "1.wav"):
        write(tmp_path / "train" / name, loud)
    with pytest.raises(UserError, match=r"wav: samples reach 5, beyond ±1; set data\.rescale=true"):
        list(data(tmp_path, val_fraction=0.5, length=128).val_dataloader())
    for length in (32, 128):
        made = data(tmp_path, val_fraction=0.5, rescale=True, length=length)
        batches = list(made.val_dataloader())
        codes = [row[:n] for batch in batches for row, n in zip(batch["codes"], batch["lengths"], strict=True)]
        np.testing.assert_array_equal(np.concatenate(codes), Encoding("linear", 8, True).encode(loud))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_faults_of_samples_are_found_before_training(tmp_path: Path, split: str) -> None:
    for each in ("train", "val", "test"):
        for label in "ab":
            write(tmp_path / each / label / "1.wav", wave_of(1, 40))
    bad = tmp_path / split / "b" / "1.wav"
    write(bad, 2 * wave_of(1, 40))
    beyond = rf"{bad}: samples reach .*, beyond ±1; "
    with pytest.raises(UserError, match=beyond + r"set data\.rescale=true, or scale it to ±1\.$"):
        data(tmp_path)
    with pytest.raises(UserError, match=beyond + r"scale it to ±1\.$"):
        labelled(tmp_path)
    assert data(tmp_path, rescale=True).sizes() == {"train": 2, "val": 2, "test": 2}
    write(bad, np.full(40, np.nan, np.float32))
    for make in (labelled, data, lambda root: data(root, rescale=True)):
        with pytest.raises(UserError, match=f"{bad}: sample 0 is NaN"):
            make(tmp_path)


def test_the_codes_of_a_checkpoint_are_not_rescaled_for_a_test(tmp_path: Path) -> None:
    write(tmp_path / "train" / "1.wav", wave_of(1, 40))
    write(tmp_path / "test" / "1.wav", 2 * wave_of(1, 40))
    with pytest.raises(UserError, match=r"beyond ±1; scale it to ±1\.$"):
        data(tmp_path, "test")
    write(tmp_path / "train" / "1.wav", np.full(40, np.nan, np.float32))  # which a test does not read
    assert data(tmp_path, "test", rescale=True).sizes() == {"test": 1}
