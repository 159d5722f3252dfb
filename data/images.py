"""Images in memory: one block of bytes for a split, all of one size, with labels and the place each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.nearest import shorten
from ssmbio.data.records import Label, LabelledSet, PackedLabels, checked_index
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm")
"""File names in folders that are taken for images, upper case too; a file that is named itself may have any."""

CHANNELS = {"grey": 1, "rgb": 3}
# What Pillow calls images of 8 bits a channel, and what each is read as where no mode is asked for.
_READ_AS = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R BT.601 in 16 bits, as Pillow computes it

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    Attributes:
        name: its path below the folder that was read, or its place in a file, ``x_test[7]``.
        pixels: (H, W, C), C = 1 or 3.
        label: see `Label`.
    """

    name: str
    pixels: Pixels
    label: Label = None


class ImageSet(LabelledSet):
    """Images by index, in the order of the file.

    Args:
        pixels: (n, H, W, C) of all images.
        labels: one each.
        names: one each, see `Image`.
        file: the file that holds all of them, for messages; or the folder they lie in.
        rows: those of `pixels` that belong to this set; None for all.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Sequence[Label] | PackedLabels,
        names: Sequence[str],
        file: Path,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._pixels, self._names, self._file = pixels, names, file
        self._labels = labels if isinstance(labels, PackedLabels) else PackedLabels(labels)
        self._rows = np.arange(len(pixels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Image:
        row = self._rows[checked_index(index, len(self))]
        return Image(self._names[row], self._pixels[row], self._labels[int(row)])

    def label_of(self, index: int) -> Label:
        return self._labels[int(self._rows[checked_index(index, len(self))])]

    def where(self, index: int) -> str:
        name = self._names[self._rows[checked_index(index, len(self))]]
        return str(self._file / name) if self._file.is_dir() else f"{self._file}, {name}"

    def subset(self, indices: npt.ArrayLike) -> ImageSet:
        return ImageSet(self._pixels, self._labels, self._names, self._file, self._rows[np.asarray(indices, np.int64)])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self._pixels.shape[1:]

    def pixels_of(self, indices: npt.ArrayLike) -> Pixels:
        """(B, H, W, C), copied: a batch in one step."""
        return self._pixels[self._rows[np.asarray(indices, np.int64)]]

    def moments(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the whole set, pixels from 0 to 1."""
        counts = np.zeros((self.shape[2], 256), np.int64)
        for start in range(0, len(self), 4096):
            part = self.pixels_of(np.arange(start, min(start + 4096, len(self))))
            for channel, count in enumerate(counts):
                count += np.bincount(part[..., channel].ravel(), minlength=256)
        # Sums of whole numbers: a channel that never changes has a deviation of 0 and not of what rounding leaves.
        value = np.arange(256)
        n, first, second = counts.sum(1), counts @ value, counts @ value**2
        variance = [int(c) * int(b) - int(a) ** 2 for a, b, c in zip(first, second, n, strict=True)]
        mean, std = first / n / 255, np.sqrt(np.array(variance, np.float64)) / n / 255
        return mean.tolist(), std.tolist()


@dataclass(frozen=True)
class ImageFormat:
    """What every image is brought to.

    Args:
        mode: grey or rgb; None keeps what the images are, which must then be the same for all.
        size: the side of a square, or (height, width), that every image is resized to (bilinear, sides not kept in
            proportion); None keeps their size, which must then be the same for all.
    """

    mode: str | None = None
    size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in CHANNELS:
            raise UserError(f"mode {self.mode}", mend=f"set data.mode to {' or '.join(CHANNELS)}, or null")
        size = self.size if isinstance(self.size, (list, tuple)) else (self.size, self.size)
        if self.size is not None and (len(size) != 2 or not all(type(side) is int and side >= 1 for side in size)):
            raise UserError(f"size {self.size}", mend="set data.size to a number of pixels, or to [height,width]")

    @classmethod
    def from_settings(cls, mode: str | None, size: int | Sequence[int] | None) -> ImageFormat:
        """As a configuration has them."""
        return cls(mode, size if size is None or isinstance(size, int) else tuple(size))  # type: ignore[arg-type]

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) after resizing."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def read(self, path: Path) -> Pixels:
        """An image file as (H, W, C); of several frames the first, turned as its EXIF says, without transparency.

        Raises:
            UserError: no such file, not an image, or more than 8 bits a channel.
        """
        from PIL import Image as Pillow
        from PIL import ImageOps

        try:
            with file_faults(path), open(path, "rb") as file, _image_faults(path), Pillow.open(file) as opened:
                opened.load()
                if opened.mode not in _READ_AS:
                    raise UserError(
                        f"pixels of the kind '{opened.mode}'", where=path, mend="save it with 8 bits a channel"
                    )
                return self._pixels(ImageOps.exif_transpose(opened))
        except MemoryError:
            raise UserError("too large to be read into memory", where=path, mend="make it smaller") from None

    def apply(self, images: Pixels) -> Pixels:
        """(n, H, W, C) in this mode and size."""
        if self.mode == "rgb" and images.shape[3] == 1:
            images = np.repeat(images, 3, 3)
        elif self.mode == "grey" and images.shape[3] == 3:
            images = ((images @ _LUMA + 0x8000) >> 16).astype(np.uint8)[..., None]
        if self.sides is None or images.shape[1:3] == self.sides:
            return images
        from PIL import Image as Pillow

        squeezed = images[..., 0] if images.shape[3] == 1 else images
        return np.stack([self._pixels(Pillow.fromarray(image)) for image in squeezed])

    def _pixels(self, image: Any) -> Pixels:
        from PIL import Image as Pillow

        image = image.convert({"grey": "L", "rgb": "RGB", None: _READ_AS.get(image.mode)}[self.mode])
        if self.sides is not None and image.size != self.sides[::-1]:
            image = image.resize(self.sides[::-1], Pillow.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        return pixels if pixels.ndim == 3 else pixels[..., None]


class _image_faults:
    """A context that turns whatever Pillow raises for a file into one line that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Pillow's readers raise what their format makes them stumble over: OSError, SyntaxError, struct.error, …
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = shorten(str(error).replace(f"{self.path}", "the file"), 80)
            if "cannot identify" in reason:
                reason = "Pillow knows no such format"
            raise UserError(
                f"not an image, or damaged ({reason})", where=self.path, mend="remove it, or save it as PNG"
            ) from None


def shape_of(shape: Sequence[int]) -> str:
    """(H, W, C) in words."""
    height, width, channels = shape
    return f"{height}×{width} {'grey' if channels == 1 else 'rgb'}"


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and below it, sorted by path; hidden ones are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_images(files: Sequence[Path], how: ImageFormat) -> Pixels:
    """(n, H, W, C) of image files.

    Raises:
        UserError: one that is not an image, or one that differs in size or channels from the first.
    """
    block: Pixels | None = None
    for index, path in enumerate(files):
        pixels = how.read(path)
        if block is None:
            block = np.empty((len(files), *pixels.shape), np.uint8)
        elif pixels.shape != block.shape[1:]:
            same_size = pixels.shape[:2] == block.shape[1:3]
            raise UserError(
                f"{shape_of(pixels.shape)}, but {files[0]} is {shape_of(block.shape[1:])}",
                where=path,
                mend="set data.mode=grey or data.mode=rgb" if same_size else "set data.size=<pixels> to resize all",
            )
        block[index] = pixels
    assert block is not None, "no files"
    return block


def iter_images(path: Path, how: ImageFormat) -> Iterator[Image]:
    """The image of a file, or those in a folder and below it, one after the other, without labels.

    Raises:
        UserError: no such file, a folder without images (before the first); what `ImageFormat.read` raises.
    """
    if not path.is_dir():
        return (Image(path.name, how.read(file)) for file in (path,))
    files = image_files(path)
    if not files:
        raise UserError("no image files in it", where=path, mend=f"the suffixes known are {' '.join(SUFFIXES)}")
    return (Image(str(file.relative_to(path)), how.read(file)) for file in files)
