"""Image data that is wrong, or not there: one line that names the file or the setting."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from image_cases import MNIST, cifar, message, paint, save

from ssmbio.data.datamodule import PixelData
from ssmbio.data.image_sources import Cifar10Source, ImageFolderSource, MnistSource


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_batch": None}, "test_batch: there is no such file"),
        (
            {"test_batch": {b"data": np.zeros((2, 10), np.uint8), b"labels": [0, 1]}},
            "test_batch holds uint8 of the shape",
        ),
        ({"test_batch": {b"data": np.zeros((1, 3072), np.uint8), b"labels": [5]}}, "labels outside of batches.meta"),
        ({"test_batch": {b"labels": [5]}}, "there is no 'data'"),
        ({"test_batch": Evil()}, "is not a batch of CIFAR-10 (it asks for"),
        ({"test_batch": [1]}, "is not a batch of CIFAR-10"),
    ],
)
def test_cifar_that_is_wrong(tmp_path, monkeypatch, changes: dict, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar(tmp_path / "c", **changes)
    assert words in message(lambda: Cifar10Source(root=str(folder)).splits())
    assert not (tmp_path / "owned").exists()


def test_cifar_that_is_not_there(tmp_path) -> None:
    assert "it is not downloaded" in message(lambda: Cifar10Source(root=str(tmp_path)).splits())
    assert "no such file or folder" in message(lambda: Cifar10Source(root=str(tmp_path / "no")).splits())
    (tmp_path / "x.tar.gz").write_bytes(b"rubbish")
    assert "not a tar archive" in message(lambda: Cifar10Source(root=str(tmp_path / "x.tar.gz")).splits())


def npz_bytes(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "there is no array 'y_test'"),
        ({"x_train": None}, "there is no array 'x_train'"),
        ({"x_train": MNIST["x_train"] / 255}, "'x_train' is float64 of the shape (40, 6, 5)"),
        ({"x_test": np.zeros((8, 30), np.uint8)}, "'x_test' is uint8 of the shape (8, 30)"),
        ({"x_test": np.zeros((8, 6, 5, 2), np.uint8)}, "(8, 6, 5, 2)"),
        ({"y_train": np.arange(39)}, "for 40 images"),
        ({"y_train": np.arange(40) / 2}, "'y_train' is float64"),
        ({"y_train": np.array([None] * 40)}, "it holds Python objects"),
        ({"x_test": np.zeros((0, 6, 5), np.uint8), "y_test": np.zeros(0, int)}, "'x_test' has no images"),
        ({"x_test": np.zeros((8, 7, 5), np.uint8)}, "7×5 grey, but training images are 6×5 grey"),
        ({"y_test": np.arange(8)}, "label '4' is not among the labels"),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(8, int)}, "all training records are of one class, '0'"),
    ],
)
def test_an_npz_that_is_wrong(tmp_path, changes: dict, words: str) -> None:
    path = save(tmp_path / "x.npz", **changes)
    text = message(lambda: PixelData(MnistSource(root=str(path))).setup("fit"))
    assert words in text
    assert "x.npz" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "not an .npz"),
        (b"rubbish", "not an .npz"),
        (npz_bytes(**MNIST)[:-300], "not an .npz, or damaged"),
        (b"\x93NUMPY\x01\x00", "not an .npz"),
    ],
)
def test_a_file_that_is_no_npz(tmp_path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "mnist.npz").write_bytes(content)
    text = message(lambda: MnistSource(root=str(tmp_path)).splits())
    assert words in text
    assert "mnist.npz" in text


def test_folders_that_are_wrong(tmp_path) -> None:
    def read(**settings):
        return lambda: ImageFolderSource(root=str(tmp_path / "x"), **settings).splits()

    assert "there is no such folder" in message(read())
    (tmp_path / "x" / "a").mkdir(parents=True)
    assert "no images in it" in message(read())
    paint(tmp_path / "x" / "a" / "1.png")
    paint(tmp_path / "x" / "b" / "1.png", (7, 6))
    assert "b/1.png: 6×7 grey, but" in (text := message(read()))
    assert "data.size" in text
    assert {images.shape for images in read(size=4)().values()} == {(4, 4, 1)}
    paint(tmp_path / "x" / "b" / "1.png", (5, 6), "RGB")
    assert "6×5 rgb" in (text := message(read()))
    assert "data.mode=grey" in text
    assert {images.shape for images in read(mode="rgb")().values()} == {(6, 5, 3)}
    (tmp_path / "x" / "b" / "1.png").write_text("no image at all")
    assert "b/1.png: not an image, or damaged" in message(read())
    whole = (tmp_path / "x" / "a" / "1.png").read_bytes()
    (tmp_path / "x" / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    assert "b/1.png: not an image, or damaged" in message(read())
    paint(tmp_path / "x" / "b" / "1.png", mode="I;16")
    assert "8 bits a channel" in message(read())
    (tmp_path / "x" / "b" / "1.png").unlink()
    paint(tmp_path / "x" / "loose.png")
    assert "loose.png: an image outside of any class" in message(read())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "gray"}, "set data.mode to grey or rgb"),
        ({"size": 0}, "size 0"),
        ({"size": [4]}, "size (4,)"),
        ({"split": {"tset": 0.1}}, "did you mean 'test'"),
        ({"split": {"test": 2}}, "split.test 2"),
        ({"split": {"test": 0.6, "val": 0.6}}, "more than 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict, words: str) -> None:
    assert words in message(lambda: ImageFolderSource(root="x", **settings))
