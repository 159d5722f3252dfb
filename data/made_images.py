"""Images that are made here: written once into the cache as an .npz in the layout of MNIST, and read back like one."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.cache import cache_folder
from ssmbio.data.image_sources import read_npz
from ssmbio.data.images import ImageFormat, ImageSet
from ssmbio.data.pathfinder import SMALLEST, make_images
from ssmbio.data.shapes import SHAPES, draw_shapes
from ssmbio.errors import UserError
from ssmbio.files import new_file

log = logging.getLogger(__name__)

Made = tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]
"""Images (n, H, W) and their labels (n,)."""


class MadeImages(ABC):
    """A source whose images are a function of its parameters.

    Args:
        name: of the file in the cache, before its address.
        version: raised whenever the same parameters would give other images.
        counts: images of each split.
        seed: of the images. It is apart from the seed of the run, so every run sees the same ones.
        folder: where to write; None for the cache.
        mode, size: see `ImageFormat`.
        parameters: what else the images depend on.
    """

    def __init__(
        self,
        name: str,
        version: int,
        counts: dict[str, int],
        seed: int,
        folder: str | None,
        mode: str | None,
        size: int | Sequence[int] | None,
        parameters: dict[str, Any],
    ) -> None:
        for split, count in counts.items():
            if type(count) is not int or count < 2:
                raise UserError(f"{count} {split} images", mend=f"set data.counts.{split} to 2 or more")
        if type(seed) is not int or seed < 0:
            raise UserError(f"seed {seed} of the images", mend="give a whole number, 0 or more")
        self.counts, self.seed, self.format = counts, seed, ImageFormat.from_settings(mode, size)
        address = json.dumps([version, counts, seed, parameters], sort_keys=True)
        file = f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}.npz"
        self.path = Path(folder) / file if folder else cache_folder(file)

    @abstractmethod
    def make(self, count: int, seed: tuple[int, int]) -> Made:
        """The images of a split; the seed is of that split."""

    def splits(self) -> dict[str, ImageSet]:
        """Write the file unless it is there, and read it."""
        if not self.path.is_file():
            log.warning("Drawing %s images into %s; this is done once.", f"{sum(self.counts.values()):,}", self.path)
            arrays: dict[str, Any] = {}
            for number, (split, count) in enumerate(self.counts.items()):
                arrays[f"x_{split}"], arrays[f"y_{split}"] = self.make(count, (self.seed, number))
            with new_file(self.path) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, **arrays)
        return read_npz(self.path, self.format)


class ShapesSource(MadeImages):
    """Small grey images of a disc, a square, a triangle or a cross; see `shapes.py`.

    Args:
        side: height and width, at least 8.
        train, test: images of each split.
        noise: standard deviation of the noise on every pixel, of a brightness from 0 to 1.
    """

    def __init__(
        self,
        *,
        side: int = 16,
        train: int = 4000,
        test: int = 1000,
        noise: float = 0.05,
        seed: int = 0,
        folder: str | None = None,
        mode: str | None = None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        if type(side) is not int or side < 8 or not 0 <= noise <= 1:
            raise UserError(f"side {side}, noise {noise}", mend="give a side of at least 8 and a noise from 0 to 1")
        self.side, self.noise = side, noise
        counts, parameters = {"train": train, "test": test}, {"side": side, "noise": noise}
        super().__init__("shapes", 1, counts, seed, folder, mode, size, parameters)

    def make(self, count: int, seed: tuple[int, int]) -> Made:
        images, classes = draw_shapes(count, self.side, self.noise, np.random.default_rng(seed))
        return images, np.array(SHAPES)[classes]


class PathfinderSource(MadeImages):
    """Pathfinder: are the two dots ends of one dashed curve? See `pathfinder.py`.

    Args:
        side: height and width, at least 24; 32, 64 and 128 are those of the Long Range Arena.
        train, val, test: images of each split; half of each is connected.
        workers: processes that draw; None is one a core. The images do not depend on it.
    """

    def __init__(
        self,
        *,
        side: int = 32,
        train: int = 20_000,
        val: int = 2_000,
        test: int = 2_000,
        seed: int = 0,
        workers: int | None = None,
        folder: str | None = None,
        mode: str | None = None,
        size: int | Sequence[int] | None = None,
    ) -> None:
        if type(side) is not int or side < SMALLEST:
            raise UserError(f"side {side}", mend=f"set data.side to {SMALLEST} or more")
        if workers is not None and (type(workers) is not int or workers < 1):
            raise UserError(f"workers {workers}", mend="set data.workers to 1 or more, or to null")
        self.side, self.workers = side, workers
        counts = {"train": train, "val": val, "test": test}
        super().__init__("pathfinder", 1, counts, seed, folder, mode, size, {"side": side})

    def make(self, count: int, seed: tuple[int, int]) -> Made:
        images, connected = make_images(count, self.side, seed, self.workers)
        return images, np.where(connected, "connected", "apart")
