"""Where images come from: an .npz as MNIST has it, folders of files, and CIFAR-10 as its authors publish it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.cifar import read_cifar10
from ssmbio.data.images import CHANNELS, ImageFormat, ImageSet, image_files, read_images
from ssmbio.data.labelled_folders import checked_fractions, divided_at_random, split_folders
from ssmbio.data.nearest import instead_of
from ssmbio.data.records import SPLITS, PackedLabels
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError


class MnistSource:
    """Images in an .npz: ``x_train``, ``y_train``, ``x_test``, ``y_test`` as the common mnist.npz has them.

    ``x_val`` and ``y_val`` may be there too. Images are (n, H, W) or (n, H, W, 3), uint8; labels are (n,) integers or
    strings. Without val the datamodule draws one from train, at the classes' shares.

    Args:
        root: the file, or a folder that holds it under the name ``mnist.npz``.
        mode, size: see `ImageFormat`.
    """

    def __init__(self, *, root: str, mode: str | None = None, size: int | Sequence[int] | None = None) -> None:
        self.root, self.format = Path(root).expanduser(), ImageFormat.from_settings(mode, size)

    def splits(self) -> dict[str, ImageSet]:
        """Read the file."""
        return read_npz(self.root / "mnist.npz" if self.root.is_dir() else self.root, self.format)


def read_npz(path: Path, how: ImageFormat) -> dict[str, ImageSet]:
    """The splits of an .npz in the layout of `MnistSource`.

    Raises:
        UserError: no such file, not an .npz, an array that is missing or is not what it should be.
    """
    arrays = _arrays(path)
    splits = {}
    for split in SPLITS:
        x, y = f"x_{split}", f"y_{split}"
        if split == "val" and x not in arrays:
            continue
        for name in (x, y):
            if name not in arrays:
                raise UserError(f"there is no array '{name}'", where=path, mend=instead_of(name, arrays))
        images, labels = arrays[x], arrays[y]
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in CHANNELS.values():
            raise UserError(
                f"'{x}' is {arrays[x].dtype} of the shape {arrays[x].shape}",
                where=path,
                mend="images are uint8, (n, height, width) or (n, height, width, 3)",
            )
        if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iuU":
            raise UserError(
                f"'{y}' is {labels.dtype} of the shape {labels.shape} for {len(images):,} images",
                where=path,
                mend="give one integer, or one string, for each image",
            )
        if not images.size:
            raise UserError(f"'{x}' has no images", where=path, mend="check how it was made")
        names = [f"{x}[{i}]" for i in range(len(images))]
        splits[split] = ImageSet(how.apply(images), PackedLabels(map(str, labels.tolist())), names, path)
    return splits


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    mend = "give an .npz with x_train, y_train, x_test and y_test"
    with file_faults(path), open(path, "rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UserError("one array, not an .npz", where=path, mend=mend)
            return {name: loaded[name] for name in loaded.files if name.startswith(("x_", "y_"))}
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = "it holds Python objects" if "allow_pickle=False" in str(error) else "or damaged"
            raise UserError(f"not an .npz, {reason}", where=path, mend=mend) from None


class Cifar10Source:
    """CIFAR-10, python version (Krizhevsky 2009): 50,000 training and 10,000 test images of 32×32, ten classes.

    Args:
        root: the folder ``cifar-10-batches-py``, the archive ``cifar-10-python.tar.gz``, or a folder that holds one.
        mode, size: see `ImageFormat`.
    """

    def __init__(self, *, root: str, mode: str | None = None, size: int | Sequence[int] | None = None) -> None:
        self.root, self.format = Path(root).expanduser(), ImageFormat.from_settings(mode, size)

    def splits(self) -> dict[str, ImageSet]:
        """Read the batches; nothing is unpacked on the disk."""
        splits = {}
        for split, (images, labels, names, file) in read_cifar10(self.root).items():
            splits[split] = ImageSet(self.format.apply(images), PackedLabels(labels), names, file)
        return splits


class ImageFolderSource:
    """Image files in folders that are named for their class.

    ``<root>/<class>/…`` is divided by `split`, with the same shares of each class; or there are folders for the splits,
    ``<root>/train/<class>/…``, ``<root>/test/<class>/…`` and perhaps val.

    Args:
        root: the folder.
        split: fractions for val and test; the rest is train. Not used where there are folders for the splits.
        mode, size: see `ImageFormat`.
        seed: of the split.
    """

    def __init__(
        self,
        *,
        root: str,
        split: Mapping[str, float] | None = None,
        mode: str | None = None,
        size: int | Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        self.root, self.format, self.seed = Path(root).expanduser(), ImageFormat.from_settings(mode, size), seed
        self.split = checked_fractions(split)

    def splits(self) -> dict[str, ImageSet]:
        """Read all images."""
        if not self.root.is_dir():
            what = "this is a file" if self.root.exists() else "there is no such folder"
            raise UserError(what, where=self.root, mend="set data.root to a folder of images")
        if given := split_folders(self.root):
            return {split: self._read(folder) for split, folder in given.items()}
        return self._divided(self._read(self.root))

    def _read(self, folder: Path) -> ImageSet:
        """The classes are the folders at the top; images may lie deeper."""
        files = image_files(folder)
        if not files:
            raise UserError("no images in it", where=folder, mend="the layout is <data.root>/<class>/<image>.png")
        for file in files:
            if file.parent == folder:
                raise UserError("an image outside of any class", where=file, mend=f"put it into {folder}/<class>/")
        names = [str(file.relative_to(self.root)) for file in files]
        labels = [file.relative_to(folder).parts[0] for file in files]
        return ImageSet(read_images(files, self.format), labels, names, self.root)

    def _divided(self, images: ImageSet) -> dict[str, ImageSet]:
        rows = divided_at_random(images.labels(), self.split, self.seed)
        return {split: images.subset(row) for split, row in rows.items() if len(row)}
