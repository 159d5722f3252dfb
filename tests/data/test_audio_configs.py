"""Every choice of conf/data for audio is composed, built and used for both tasks, with small files."""

from __future__ import annotations

from pathlib import Path

import hydra
import numpy as np
import pytest
from audio_data_cases import source
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ssmbio.data.audio import AudioData
from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_files import write_audio
from ssmbio.data.audio_labels import AudioClassData
from ssmbio.errors import UserError

CONF = Path(__file__).parents[2] / "conf"

CHOICES = {
    "plucked": ["data.clips={train: 8, val: 2, test: 2}", "data.pitches=[A3,C4]"],
    "plucked_notes": ["data.clips={train: 8, val: 2, test: 2}", "data.pitches=[A3,C4]"],
    "sc09": ["data.root={0}/words", "data.words=[one,two]"],
    "audio_folder": ["data.root={0}/labels", "data.split={val: 0.25, test: 0.25}"],
    "youtube_mix": ["data.root={0}/piano"],
    "beethoven": ["data.root={0}/piano"],
}
LABELLED = ("plucked", "plucked_notes", "sc09", "audio_folder")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of each layout, and an empty cache."""
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    names = [f"labels/{'ab'[i % 2]}/{i}.wav" for i in range(16)] + [f"piano/take {i}.flac" for i in range(1, 51)]
    names += [f"words/{word}/s{i}_nohash_0.wav" for word in ("one", "two") for i in range(4)]
    for i, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, np.full(400, (i + 1) / 128, np.float32), 16000)
    (tmp_path / "words" / "validation_list.txt").write_text("one/s0_nohash_0.wav\ntwo/s0_nohash_0.wav\n")
    (tmp_path / "words" / "testing_list.txt").write_text("two/s1_nohash_0.wav\n")
    return tmp_path


def compose(overrides: list[str], name: str | None = None):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, overrides=overrides)


def build(overrides: list[str], datamodule: str = "audio"):
    """With no more than data and seed."""
    return instantiate(compose(["+seed=3", *overrides, f"data/datamodule={datamodule}"]).data.datamodule)


def settings(choice: str, files: Path) -> list[str]:
    return [f"+data={choice}", "data.batch_size=2", *(text.replace("{0}", str(files)) for text in CHOICES[choice])]


def test_all_choices_are_tried() -> None:
    texts = {path.stem: path.read_text() for path in (CONF / "data").glob("*.yaml")}
    with_audio = {name for name, text in texts.items() if "datamodule: audio" in text or "  - plucked\n" in text}
    assert with_audio == set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_gives_batches_of_codes(files: Path, choice: str) -> None:
    made = build([*settings(choice, files), "data.length=64"])
    assert type(made) is AudioData
    made.setup("fit")
    batch = next(iter(made.train_dataloader()))
    assert (tuple(batch["codes"].shape), str(batch["codes"].dtype)) == ((2, 64), "torch.uint8")
    assert batch["lengths"].tolist() == [64, 64]
    kind = "linear" if choice == "beethoven" else "mu_law"
    encoding = {"kind": kind, "bits": 8, "rescale": False}
    rate = 8000 if choice.startswith("plucked") else 16000
    assert made.facts() == {"audio": {"sample_rate": rate, "length": 64, "encoding": encoding}}
    assert (made.seed, made.test is not None) == (3, True)


@pytest.mark.parametrize("choice", LABELLED)
def test_choice_gives_batches_of_labelled_samples(files: Path, choice: str) -> None:
    made = build([*settings(choice, files), "data.length=64"], "audio_labels")
    assert type(made) is AudioClassData
    made.setup("fit")
    batch = next(iter(made.train_dataloader()))
    assert (tuple(batch["samples"].shape), str(batch["samples"].dtype)) == ((2, 64), "torch.float32")
    assert (
        made.labels
        == {"plucked": ["A3", "C4"], "plucked_notes": ["A3", "C4"], "sc09": ["one", "two"], "audio_folder": ["a", "b"]}[
            choice
        ]
    )
    assert (made.seed, len(batch["labels"])) == (3, 2)


def test_recordings_without_labels_cannot_be_told_apart(files: Path) -> None:
    with pytest.raises(UserError, match="the clip has no label"):
        build(settings("youtube_mix", files), "audio_labels").setup("fit")


@pytest.mark.parametrize(
    ("choice", "length", "batch_size"),
    [
        ("plucked", 1024, 4),
        ("plucked_notes", 8000, 16),
        ("sc09", 16000, 16),
        ("youtube_mix", 131072, 1),
        ("beethoven", 128000, 1),
    ],
)
def test_lengths_are_those_of_the_papers_and_whole_periods(choice: str, length: int, batch_size: int) -> None:
    data = compose(["+seed=3", f"+data={choice}"]).data
    assert (data.length, data.batch_size) == (length, batch_size)
    assert data.length % 16 == 0
    if choice == "plucked_notes":
        assert data.length == data.seconds * data.sample_rate


@pytest.mark.parametrize("choice", ["youtube_mix", "beethoven"])
def test_recordings_are_cut_as_published(files: Path, choice: str) -> None:
    splits = build(settings(choice, files)).source.splits()
    # src/dataloaders/audio.py of state-spaces/s4: natural order, cut at int(0.88 n) and int((0.88 + 0.12 / 2) n).
    names = [f"take {i}.flac" for i in range(1, 51)]
    cuts = {"train": names[:44], "val": names[44:47], "test": names[47:]}
    assert {split: clips.names for split, clips in splits.items()} == cuts


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("task", "kind"), [("audio_generate", AudioData), ("audio_classify", AudioClassData)])
def test_the_task_chooses_the_datamodule(files: Path, choice: str, task: str, kind: type) -> None:
    given = [text.removeprefix("+") for text in settings(choice, files)]
    made = instantiate(compose([f"task={task}", "seed=3", *given], "train").data.datamodule)
    assert type(made) is kind
    assert (made.seed, made.batch_size) == (3, 2)


@pytest.mark.parametrize("task", ["audio_generate", "audio_classify"])
def test_a_task_alone_brings_plucked_strings_and_the_command_line_wins(task: str) -> None:
    assert compose([f"task={task}"], "train").data.datamodule.source._target_.endswith("PluckedSource")
    for datamodule, name in (("audio", "AudioData"), ("audio_labels", "AudioClassData")):
        other = compose([f"task={task}", f"data/datamodule={datamodule}"], "train")
        assert other.data.datamodule._target_.endswith(f".{name}")


@pytest.mark.parametrize(
    ("choice", "missing"), [*((name, "root") for name in ("audio_folder", "youtube_mix", "beethoven")), ("sc09", None)]
)
def test_what_must_be_set_is_missing_until_then(choice: str, missing: str | None) -> None:
    data = compose(["+seed=3", f"+data={choice}"]).data
    assert [key for key in data if OmegaConf.is_missing(data, key)] == ([missing] if missing else [])


def test_every_setting_reaches_the_source(files: Path) -> None:
    folder = build(
        [
            *(
                "+data=audio_folder",
                "data.root=x",
                "data.sample_rate=8000",
                "data.resample=false",
                "data.split_seed=11",
            ),
            *("data.split={test: 0.5}", "data.split_by=order", "data.split_seed=11"),
        ]
    )
    found = folder.source
    assert (str(found.root), found.sample_rate, found.resample) == ("x", 8000, False)
    assert (found.split, found.split_by, found.seed) == ({"val": 0.1, "test": 0.5}, "order", 11)
    words = build(
        [
            *("+data=sc09", "data.root=x", "data.download=true", "data.url=http://127.0.0.1/y.tar.gz"),
            *("data.words=null", "data.sample_rate=8000", "data.resample=false"),
        ]
    ).source
    assert (str(words.root), words.download, words.url) == ("x", True, "http://127.0.0.1/y.tar.gz")
    assert (words.words, words.sample_rate, words.resample) == (None, 8000, False)
    notes = build(
        [
            *("+data=plucked", "data.sample_rate=11025", "data.seconds=0.5", "data.pitches=[C3]"),
            *("data.clips.train=5", "data.note_seed=7", "data.seed=11", f"data.folder={files}"),
        ]
    ).source
    assert (notes.sample_rate, notes.seconds, notes.pitches) == (11025, 0.5, ["C3"])
    assert (notes.clips, notes.seed) == ({"train": 5, "val": 100, "test": 100}, 7)
    assert notes.folder.parent == files


@pytest.mark.parametrize(("choice", "kind"), [("audio", AudioData), ("audio_labels", AudioClassData)])
def test_every_setting_of_the_configuration_reaches_the_datamodule(root: Path, choice: str, kind: type) -> None:
    settings = {
        "batch_size": 3,
        "eval_batch_size": 7,
        "length": 48,
        "val_fraction": 0.3,
        "keep_mib": 2,
        "num_workers": 1,
        "pin_memory": False,
        "seed": 11,
    }
    own = {
        "audio": {"carry": True},
        "audio_labels": {"group_lengths": True, "shuffle_labels": True, "problem": "multiclass"},
    }[choice]
    made_of = {
        "audio": {"encoding": "linear", "bits": 5, "rescale": True, "gain": 0},
        "audio_labels": {"shift": 9, "gain": 2.5, "noise": 12.0, "speed": 0.2, "class_weights": True},
    }[choice]
    given = {**settings, **own, **made_of, "pad_to": 8}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(
            overrides=["+seed=3", f"+data/datamodule={choice}"]
            + [f"data.{key}={str(value).lower()}" for key, value in given.items()]
        ).data
    assert set(given) == set(config) - {"datamodule"}
    made = instantiate(config.datamodule, source=source(root))
    assert type(made) is kind
    assert {key: getattr(made, key) for key in {**settings, **own}} == {**settings, **own}
    assert made.collate.pad_to == 8
    if choice == "audio":
        assert made.encoding == Encoding("linear", 5, True)
        config.gain, config.carry, config.rescale = 2.5, False, False  # which does not go with the others
        assert instantiate(config.datamodule, source=source(root)).augment == ClipAugmentation(gain=2.5, seed=11)
    else:
        assert made.augment == ClipAugmentation(shift=9, gain=2.5, noise=12.0, speed=0.2, seed=11)
        made.setup("fit")
        assert made.class_weights is not None


@pytest.mark.parametrize("choice", ["audio", "audio_labels"])
def test_defaults_of_the_configuration_are_those_of_the_class(root: Path, choice: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=["+seed=0", f"+data/datamodule={choice}"]).data
    made = instantiate(config.datamodule, source=source(root))
    default = type(made)(source(root))
    for name in set(config) & set(vars(default)) - {"class_weights"}:
        assert getattr(made, name) == getattr(default, name)
    assert vars(made.collate) == vars(default.collate)
    assert getattr(made, "augment", None) == getattr(default, "augment", None)
