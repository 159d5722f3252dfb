"""Every choice of conf/data for images and ListOps is composed, built and used, with small files."""

from __future__ import annotations

import pickle
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image as Pillow

from ssmbio.data.labelled import LabelledData

CONF = Path(__file__).parents[2] / "conf"

CHOICES = {
    "shapes": (["data.side=8", "data.counts={train: 20, test: 4}"], 4, (2, 8, 8, 1)),
    "pathfinder": (["data.side=24", "data.counts={train: 4, val: 2, test: 2}"], 2, (2, 24, 24, 1)),
    "mnist": (["data.root={0}", "data.val_fraction=0.2"], 2, (2, 4, 4, 1)),
    "cifar10": (["data.root={0}", "data.mode=rgb"], 2, (2, 32, 32, 3)),
    "image_folder": (["data.root={0}/images", "data.size=[3,5]"], 2, (2, 3, 5, 1)),
    "listops": (["data.counts={train: 60, val: 3, test: 4}", "data.shortest=2", "data.longest=30"], 10, None),
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind of file, and an empty cache."""
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    x, y = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4), np.arange(10) % 2
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b"]}, protocol=2))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 0, 1]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    for i in range(20):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(x[i % 10]).save(path)
    return tmp_path


def compose(overrides: list[str]):
    """A primary configuration with no more than data and seed."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=["+seed=3", *overrides])


def build(overrides: list[str]) -> LabelledData:
    return instantiate(compose(overrides).data.datamodule)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_gives_batches(files: Path, choice: str) -> None:
    settings, labels, shape = CHOICES[choice]
    made = build([f"+data={choice}", "data.batch_size=2", *(text.replace("{0}", str(files)) for text in settings)])
    made.setup("fit")
    assert (made.seed, made.batch_size, len(made.labels or [])) == (3, 2, labels)
    assert made.test is not None
    batch = next(iter(made.train_dataloader()))
    if shape is None:
        assert (batch["ids"] >= 4).all()  # padding and tokens
        assert made.augment(b"x12]", 0, 0) == b"x12]"
    else:
        assert tuple(batch["pixels"].shape) == shape
        assert tuple(made.facts()["image"]["shape"]) == shape[1:]
    assert len(next(iter(made.val_dataloader()))["index"]) >= 1


@pytest.mark.parametrize(("choice", "missing"), [("mnist", "root"), ("cifar10", "root"), ("image_folder", "root")])
def test_what_must_be_set_is_missing_until_then(choice: str, missing: str) -> None:
    data = compose([f"+data={choice}"]).data
    assert [key for key in data if OmegaConf.is_missing(data, key)] == [missing]


def test_every_setting_reaches_the_datamodule(files: Path) -> None:
    settings = {
        "eval_batch_size": 7,
        "val_fraction": 0.2,
        "permutation": 5,
        "num_workers": 1,
        "pin_memory": False,
        "seed": 11,
        "shuffle_labels": True,
        "problem": "multiclass",
    }
    written = [f"data.{key}={str(value).lower()}" for key, value in settings.items()]
    made = build(["+data=mnist", f"data.root={files}", "data.size=3", "data.class_weights=true", *written])
    assert {key: getattr(made, key) for key in settings} == settings
    assert made.size == 3
    made.setup("fit")
    assert made.class_weights is not None
    assert made.sizes() == {"train": 8, "val": 2, "test": 10}
