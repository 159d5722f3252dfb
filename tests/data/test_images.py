"""Images: what is read is what was written, normalisation and order are as defined."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_cases import MNIST, cifar, message, paint, save

from ssmbio.data.datamodule import PixelData
from ssmbio.data.image_sources import Cifar10Source, ImageFolderSource, MnistSource
from ssmbio.data.images import ImageFormat, iter_images
from ssmbio.data.made_images import ShapesSource
from ssmbio.data.pixels import ImageFacts
from ssmbio.errors import UserError


def test_mnist_splits_labels_and_pixels(tmp_path) -> None:
    data = PixelData(
        MnistSource(root=str(save(tmp_path / "mnist.npz").parent)), val_fraction=0.25, batch_size=6, seed=1
    )
    data.setup("fit")
    assert data.sizes() == {"train": 30, "val": 10, "test": 8}
    assert data.labels == ["0", "1", "2", "3"]
    # The validation split keeps the classes' shares although the file is in their order, and depends on the seed alone.
    assert np.bincount(data.val.labels).tolist() in (
        [2, 3, 2, 3],
        [3, 2, 3, 2],
        [2, 2, 3, 3],
        [3, 3, 2, 2],
        [3, 2, 2, 3],
    )
    where = [data.val.records.where(i) for i in range(10)]
    for seed, same in ((1, True), (2, False)):
        other = PixelData(MnistSource(root=str(tmp_path / "mnist.npz")), val_fraction=0.25, seed=seed)
        other.setup("fit")
        assert ([other.val.records.where(i) for i in range(10)] == where) == same
    assert not {data.train.records.where(i) for i in range(30)} & set(where)
    batches = list(data.train_dataloader())
    assert np.sort(np.concatenate([batch["index"] for batch in batches])).tolist() == list(range(30))
    assert len(set(batches[0]["labels"].tolist())) > 1  # shuffled, not in the order of the classes
    for batch in batches:
        for pixels, label, index in zip(batch["pixels"], batch["labels"], batch["index"], strict=True):
            image = data.train.record(int(index))
            assert np.array_equal(pixels, image.pixels)
            number = int(image.name.removeprefix("x_train[").removesuffix("]"))
            assert np.array_equal(pixels[..., 0], MNIST["x_train"][number])
            assert int(label) == MNIST["y_train"][number]


def test_normalisation_is_of_the_training_images_alone(tmp_path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (40, 6, 5, 3), np.uint8)
    rgb[..., 2] = 7  # a channel that never changes
    data = PixelData(MnistSource(root=str(save(tmp_path / "x.npz", x_train=rgb, x_test=rgb[:8]))), val_fraction=0.5)
    data.setup("fit")
    image = ImageFacts.from_facts(data.facts())
    kept = np.stack([data.train.record(i).pixels for i in range(20)]) / 255
    assert image.mean == pytest.approx(kept.mean((0, 1, 2)).tolist(), abs=1e-12)
    assert image.std[:2] == pytest.approx(kept.std((0, 1, 2)).tolist()[:2], abs=1e-12)
    assert image.std[2] == 1.0
    assert image.shape == (6, 5, 3)
    assert image.order is None


def test_a_permutation_is_fixed_by_its_seed(tmp_path) -> None:
    root = str(save(tmp_path / "x.npz"))

    def order(permutation: int | None, seed: int) -> list[int] | None:
        data = PixelData(MnistSource(root=root), permutation=permutation, seed=seed)
        data.setup("fit")
        return data.facts()["image"]["order"]

    one = order(3, seed=0)
    assert one == order(3, seed=5)  # the seed of the run changes nothing
    assert one != order(4, seed=0)
    assert sorted(one) == list(range(30))
    assert one != list(range(30))
    assert "permutation -1" in message(lambda: order(-1, 0))


def test_folders_of_classes(tmp_path) -> None:
    painted = {}
    for label in ("cat", "dog"):
        for i in range(10):
            name = f"{label}/{'more/' if i % 2 else ''}{i}.png"
            painted[name] = paint(tmp_path / name, seed=len(painted))
    (tmp_path / "cat" / "Thumbs.db").write_text("no image")
    paint(tmp_path / "cat" / ".hidden.png")
    splits = ImageFolderSource(root=str(tmp_path), split={"val": 0.2, "test": 0.3}).splits()
    assert {split: len(images) for split, images in splits.items()} == {"train": 10, "val": 4, "test": 6}
    seen = set()
    for images in splits.values():
        assert images.labels().count("cat") == len(images) / 2
        for i in range(len(images)):
            image = images[i]
            assert np.array_equal(image.pixels[..., 0], painted[image.name])
            assert image.name.startswith(image.label)
            assert Path(images.where(i)).is_file()
            seen.add(image.name)
    assert seen == set(painted)
    with pytest.raises(UserError, match=r"^data.split_seed is -1; set it to a whole number, 0 or more\.$"):
        ImageFolderSource(root=str(tmp_path), split={"val": 0.2, "test": 0.3}, seed=-1).splits()
    again = ImageFolderSource(root=str(tmp_path), split={"val": 0.2, "test": 0.3}).splits()
    assert [again["test"][i].name for i in range(6)] == [splits["test"][i].name for i in range(6)]
    assert set(ImageFolderSource(root=str(tmp_path), split={"test": 1.0}).splits()) == {"test"}


def test_folders_of_splits_come_before_fractions(tmp_path) -> None:
    for i, name in enumerate(("train/a/1.png", "train/b/1.png", "valid/a/2.png", "test/b/3.PNG")):
        paint(tmp_path / name, seed=i)
    splits = ImageFolderSource(root=str(tmp_path), split={"test": 0.5}).splits()
    assert {split: (len(images), images.labels()) for split, images in splits.items()} == {
        "train": (2, ["a", "b"]),
        "val": (1, ["a"]),
        "test": (1, ["b"]),
    }


def test_mode_and_size_are_the_same_for_arrays_and_for_files(tmp_path) -> None:
    """A model trained on an .npz sees the same numbers when it predicts from image files."""
    rgb = paint(tmp_path / "a" / "x.png", (9, 7), "RGB")
    for how in (ImageFormat("grey"), ImageFormat("rgb", 4), ImageFormat("grey", (5, 3)), ImageFormat(None, 12)):
        from_file = how.read(tmp_path / "a" / "x.png")
        assert np.array_equal(from_file, how.apply(rgb[None])[0])
    assert ImageFormat("grey", (5, 3)).read(tmp_path / "a" / "x.png").shape == (5, 3, 1)
    grey = paint(tmp_path / "g.png", (4, 4))
    assert np.array_equal(ImageFormat("rgb").read(tmp_path / "g.png"), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(ImageFormat("rgb").apply(grey[None, ..., None])[0], np.repeat(grey[..., None], 3, 2))
    rgba = paint(tmp_path / "t.png", (4, 4), "RGBA")
    assert np.array_equal(ImageFormat().read(tmp_path / "t.png"), rgba[..., :3])


def test_cifar_from_folder_and_archive(tmp_path) -> None:
    folder = cifar(tmp_path / "data" / "cifar-10-batches-py")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    roots = (folder, folder.parent, tmp_path / "cifar-10-python.tar.gz", tmp_path)
    for root in roots:
        splits = Cifar10Source(root=str(root), mode="rgb").splits()
        assert {split: len(images) for split, images in splits.items()} == {"train": 10, "test": 2}
        assert splits["train"].labels() == [
            "ship",
            "ship",
            "cat",
            "ship",
            "ship",
            "ship",
            "cat",
            "ship",
            "ship",
            "ship",
        ]
        image = splits["train"][0].pixels
        assert image.shape == (32, 32, 3)
        # Stored as a red, a green and a blue plane.
        assert image[1, 2].tolist() == [(plane * 1024 + 34) % 256 for plane in range(3)]
    assert Cifar10Source(root=str(folder), mode="grey").splits()["test"].shape == (32, 32, 1)


def test_images_of_a_folder_are_read_one_by_one_in_order(tmp_path) -> None:
    for name in ("b.png", "a/2.png", "a/1.jpg"):
        paint(tmp_path / name)
    (tmp_path / "note.txt").write_text("no image")
    images = iter_images(tmp_path, ImageFormat())
    assert next(images).name == "a/1.jpg"
    (tmp_path / "b.png").write_text("damaged after the first was read")
    assert next(images).name == "a/2.png"
    assert "b.png: not an image" in message(lambda: next(images))
    (tmp_path / "empty").mkdir()
    assert "no image files in it" in message(lambda: list(iter_images(tmp_path / "empty", ImageFormat())))
    assert "no such file" in message(lambda: list(iter_images(tmp_path / "no.png", ImageFormat())))


def test_shapes_are_balanced_and_their_brightness_tells_nothing(tmp_path) -> None:
    splits = ShapesSource(train=2000, test=40, folder=str(tmp_path)).splits()
    labels = np.array(splits["train"].labels())
    light = np.array([splits["train"][i].pixels.mean() for i in range(2000)])
    assert {label: int((labels == label).sum()) for label in np.unique(labels)} == dict.fromkeys(
        ("cross", "disc", "square", "triangle"), 500
    )
    means = [light[labels == label].mean() for label in np.unique(labels)]
    assert np.ptp(means) < 0.15 * light.std() * 2
    assert splits["train"].shape == (16, 16, 1)
    again = ShapesSource(train=2000, test=40, folder=str(tmp_path)).splits()
    assert np.array_equal(again["train"][7].pixels, splits["train"][7].pixels)
