"""Long clips in order, a state carried from piece to piece (truncated backpropagation through time).

The rows of a batch are lanes. All clips of an epoch, in a random order, are put end to end as pieces, and this line is
cut into as many parts as there are lanes, alike to one piece. So a lane goes through the pieces of a clip in order and
takes the next clip when it has ended; every epoch has every sample once, and as many batches as any other, however long
the clips are; a few long clips keep all lanes busy. The price: a lane may begin its epoch inside a clip, as a random
crop does, and leave its last clip to the lane after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_clips import AudioExample, AudioPieces
from ssmbio.data.sampler import EpochSampler


class CarriedPiece(NamedTuple):
    """What a lane reads next: the number of a piece, −1 if nothing is left, and whether it begins without a state."""

    number: int
    fresh: bool


class CarriedPieces(AudioPieces):
    """A split as pieces that lanes go through in order.

    It has the items of `AudioPieces` too, as evaluation asks for them; each of these begins without a state.
    """

    @property
    def settings(self) -> dict[str, int | bool]:
        return {**super().settings, "carry": True}

    def __getitem__(self, item: int | tuple[int, int] | CarriedPiece) -> AudioExample:
        if not isinstance(item, CarriedPiece):
            return replace(super().__getitem__(item), fresh=True)
        if item.number < 0:
            return AudioExample(np.zeros(0, np.uint8), -1, 0, fresh=True)
        index, start, frames = self.place(item.number)
        return AudioExample(self.reader(index, start, frames), index, start, fresh=item.fresh)


class LaneSampler(EpochSampler):
    """Yields a `CarriedPiece` for each lane of the first batch, then for each of the second, and so on.

    The order depends on (seed, epoch) alone. Lanes are shared out to devices in turn. All devices have as many batches;
    where the pieces do not fill the last one, its last rows, or all of them on some devices, are empty.

    Args:
        dataset: what is sampled.
        batch_size: lanes a device.
        seed, num_replicas, rank: see `EpochSampler`.
    """

    dataset: CarriedPieces

    def __init__(
        self,
        dataset: CarriedPieces,
        *,
        batch_size: int,
        seed: int,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, seed=seed, num_replicas=num_replicas, rank=rank)
        self.num_samples = -(-len(dataset) // (batch_size * self.num_replicas)) * batch_size
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[CarriedPiece]:
        order = self.order(self.epoch - self.skipped)
        fresh = self._fresh(order)
        start, self.start = self.start, 0
        own = slice(start * self.num_replicas + self.rank, None, self.num_replicas)
        for number, begins in zip(order[own].tolist(), fresh[own].tolist(), strict=True):
            yield CarriedPiece(number, begins)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(total_size,) numbers of pieces: those of all lanes, of all devices, in the first step, then the second."""
        clips = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset.records))
        counts = self.dataset.counts[clips]
        line = np.repeat(self.dataset.first[clips] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        lanes = self.batch_size * self.num_replicas
        order = np.full((lanes, self.total_size // lanes), -1, np.int64)
        for row, part in zip(order, np.array_split(line, lanes), strict=True):
            row[: len(part)] = part
        return order.T.ravel()

    def _fresh(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        fresh = (order < 0) | np.isin(order, self.dataset.first)
        fresh[: self.batch_size * self.num_replicas] = True
        return fresh
