"""The datamodule of images as sequences of pixels, and what a model must know of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssmbio.data.images import Image, ImageFormat, ImageSet, shape_of
from ssmbio.data.labelled import LabelledData
from ssmbio.data.labels import Codes
from ssmbio.data.records import Source
from ssmbio.errors import UserError


class _Always(TypedDict):
    pixels: Tensor
    index: Tensor


class PixelBatch(_Always, total=False):
    """B images.

    Keys:
        pixels: (B, H, W, C) uint8.
        index: (B,) int64, the place of each image in its split.
        labels: (B,) int64 classes; absent without labels.
    """

    labels: Tensor


@dataclass(frozen=True)
class ImageFacts:
    """How images become sequences; part of a checkpoint's facts, as a dict.

    Attributes:
        shape: (H, W, C).
        size: what images are resized to before, as `ImageFormat` has it; None if they must come in this shape.
        mean, std: (C,) of the training images, pixels from 0 to 1; what a model subtracts, and divides by.
        order: the pixel (row-major) that stands at each of the H·W positions; None for row after row.
    """

    shape: tuple[int, int, int]
    size: int | tuple[int, int] | None
    mean: list[float]
    std: list[float]
    order: list[int] | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ImageFacts:
        """From a checkpoint.

        Raises:
            UserError: they are of another kind of data.
        """
        if "image" not in facts:
            raise UserError(
                "these data are sequences, not images", mend="choose task=sequence_classify or task=dna_classify"
            )
        size = facts["image"]["size"]
        values = {**facts["image"], "shape": tuple(facts["image"]["shape"])}
        return cls(**{**values, "size": tuple(size) if isinstance(size, (list, tuple)) else size})

    @property
    def format(self) -> ImageFormat:
        """How to read other images for this model."""
        return ImageFormat("grey" if self.shape[2] == 1 else "rgb", self.size)

    def check(self, shape: Sequence[int], where: str, mend: str) -> None:
        """Raises UserError unless images of this shape are what the model takes."""
        if tuple(shape) != self.shape:
            raise UserError(f"{shape_of(shape)}, but the model takes {shape_of(self.shape)}", where=where, mend=mend)

    def plain(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class PixelDataset(Dataset[Image]):
    """A split of images; whole batches are read in one step, by `__getitems__`.

    Args:
        records: the split.
        labels: (n,) int64.
    """

    def __init__(self, records: ImageSet, labels: Codes) -> None:
        self.records, self.labels = records, labels

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Image:
        return self.records[index]

    def __getitem__(self, item: int | tuple[int, int]) -> PixelBatch:  # type: ignore[override]
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> PixelBatch:
        """The batch of these indices, or (epoch, index) as training asks; images are the same in every epoch."""
        index = np.array([item[1] if isinstance(item, tuple) else item for item in items], np.int64)
        return PixelBatch(
            pixels=torch.from_numpy(self.records.pixels_of(index)),
            index=torch.from_numpy(index),
            labels=torch.from_numpy(self.labels[index]),
        )


def whole(batch: PixelBatch) -> PixelBatch:
    """The collate function of `PixelDataset`, whose batches are made already."""
    return batch


class PixelData(LabelledData):
    """Images of a source as batches for a classifier.

    Args:
        source: gives the splits, each an `ImageSet`.
        size: what the source resizes to, for images that come later.
        permutation: a seed: the pixels of every image are read in one random order, fixed by it; None reads row by row.
        batch_size and all others: see `LabelledData`.
    """

    give_training: ClassVar[str] = "give training images too, below data.root"

    def __init__(
        self,
        source: Source,
        *,
        size: int | Sequence[int] | None = None,
        permutation: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        class_weights: bool = False,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        seed: int = 0,
        labels: Sequence[str] | None = None,
        problem: str | None = None,
        shuffle_labels: bool = False,
    ) -> None:
        super().__init__(
            source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            class_weights=class_weights,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
            labels=labels,
            problem=problem,
            shuffle_labels=shuffle_labels,
        )
        if permutation is not None and not (type(permutation) is int and permutation >= 0):
            raise UserError(f"permutation {permutation}", mend="set data.permutation to a seed, 0 or more, or to null")
        self.size, self.permutation = ImageFormat.from_settings(None, size).size, permutation
        self.collate = whole

    def make_dataset(self, records: ImageSet, codes: Codes) -> PixelDataset:
        return PixelDataset(records, codes)

    def setup(self, stage: str | None = None) -> None:
        """See `LabelledData`; raises UserError too for splits of different sizes or channels."""
        super().setup(stage)
        if self.train is None:
            return
        for other in (self.val, self.test):
            if other is not None and other.records.shape != self.train.records.shape:
                raise UserError(
                    f"{shape_of(other.records.shape)}, but training images are {shape_of(self.train.records.shape)}",
                    where=other.records.where(0),
                    mend="set data.size=<pixels>, or data.mode=grey or rgb, to make them alike",
                )

    def facts(self) -> dict[str, Any]:
        """Those of every classifier, and `image`: see `ImageFacts`; mean and standard deviation are of train alone."""
        assert self.train is not None, "setup() comes first"
        shape = self.train.records.shape
        mean, std = self.train.records.moments()
        order = None
        if self.permutation is not None:
            order = np.random.default_rng(self.permutation).permutation(shape[0] * shape[1]).tolist()
        # A channel that never changes has no scale.
        image = ImageFacts(shape, self.size, mean, [value or 1.0 for value in std], order)
        return {"image": image.plain(), **self.shared_facts()}

    def check_test(self, facts: Mapping[str, Any]) -> None:
        if self.test is not None:
            mend = "set data.size and data.mode to what the model takes"
            ImageFacts.from_facts(facts).check(self.test.records.shape, self.test.records.where(0), mend)
