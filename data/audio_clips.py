"""From clips to batches: crops for training, pieces for evaluation, as samples or as codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ssmbio.data.audio_augment import ClipAugmentation, Values
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_set import AudioSet, Waveform
from ssmbio.data.augment import stream
from ssmbio.data.labels import Codes
from ssmbio.data.records import checked_index

BLOCK = 1 << 20
"""Samples that are read at a time when a whole clip is looked through."""

_CROP = 2  # the use of a crop's random numbers, see `augment.stream`


class _Always(TypedDict):
    lengths: Tensor
    index: Tensor
    start: Tensor
    full: bool


class AudioBatch(_Always, total=False):
    """B rows, padded on the right to a multiple of `pad_to` samples; there are samples or codes.

    Keys:
        lengths: (B,) int64, valid samples of each row; what follows is padding. 0 is a lane that has nothing left.
        index: (B,) int64, the place of each clip in its split; −1 where there is none (length 0).
        start: (B,) int64, where in its clip each row begins.
        samples: (B, L) float32, padded with zeros.
        codes: (B, L) uint8, padded with the code of silence.
        labels: (B,) int64 classes; absent without labels.
        fresh: (B,) bool, True where the state before the row must be zero and False where it is that after the same row
            of the batch before; there with data.carry alone.
        full: whether all have L samples, as in `batches.Batch`.
    """

    samples: Tensor
    codes: Tensor
    labels: Tensor
    fresh: Tensor


@dataclass(frozen=True, slots=True)
class AudioExample:
    """A part of a clip: values (n,), the clip's place in the split, where in it the part begins, and as in `AudioBatch`
    its label and whether it begins without a state."""

    values: Values
    index: int
    start: int
    label: Any = None
    fresh: bool | None = None


class ClipReader:
    """Reads parts of the clips of a set.

    Where an encoding rescales, its minimum and maximum are those of the whole clip, whatever part is asked for. A clip
    that is read in parts is looked through once for them, block by block, so it never lies in memory whole; they are
    kept in memory that worker processes share.

    Args:
        records: the clips.
        encoding: of codes; None reads samples.
        keep: bytes of clips that were read whole to keep in this process. Workers keep none, since they end with the
            epoch.
    """

    def __init__(self, records: AudioSet, encoding: Encoding | None = None, keep: int = 0) -> None:
        self.records, self.encoding, self.keep = records, encoding, keep
        self._kept: dict[int, Values] = {}
        self._kept_bytes = 0
        self._ranges: Tensor | None = None
        if encoding is not None and encoding.rescale:
            self._ranges = torch.full((len(records), 2), torch.nan).share_memory_()

    def __call__(self, index: int, start: int, frames: int) -> Values:
        """(frames,) from `start` on, at the sample rate of the set; not to be written to."""
        if index in self._kept:
            return self._kept[index][start : start + frames]
        whole = frames == self.records.frames[index]
        values = self._read(index, start, frames)
        if self.encoding is not None:
            values = self._encoded(values, None if whole or self._ranges is None else self.range_of(index))
        if whole and self._kept_bytes + values.nbytes <= self.keep and get_worker_info() is None:
            values.flags.writeable = False
            self._kept[index] = values
            self._kept_bytes += values.nbytes
        return values

    def range_of(self, index: int) -> tuple[float, float]:
        """The least and the greatest sample of a clip; only where the encoding rescales."""
        assert self._ranges is not None, "the encoding does not rescale"
        low, high = self._ranges[index].tolist()
        # Another process may have written one of the two as yet.
        if np.isnan(low) or np.isnan(high):
            total = int(self.records.frames[index])
            blocks = (self._read(index, at, min(BLOCK, total - at)) for at in range(0, total, BLOCK))
            extremes = np.array([(block.min(), block.max()) for block in blocks])
            low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
            self._ranges[index] = torch.tensor([low, high])
        return low, high

    def _read(self, index: int, start: int, frames: int) -> Values:
        # What rescaling brings to [-1, 1] may lie beyond it.
        return self.records.read(index, start, frames, beyond_one=self._ranges is not None)

    def _encoded(self, samples: Values, range_: tuple[float, float] | None) -> Values:
        assert self.encoding is not None
        if range_ is None:
            return self.encoding.encode(samples)
        return self.encoding.encode(np.append(samples, np.array(range_, np.float32)))[:-2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_kept_bytes": 0}


class AudioPieces(Dataset[AudioExample]):
    """A split as pieces of `length` samples: a clip of F samples has ⌈F / length⌉ of them, the last one short.

    An item is asked for by its number: the pieces of the first clip in order, then those of the next, so all samples
    once. Training asks by (epoch, number): a crop that lies anywhere in the clip of that piece, drawn by (seed, epoch,
    number) alone; a clip that is no longer than `length` comes whole.

    Args:
        reader: of the clips.
        length: samples.
        seed: of the crops.
    """

    def __init__(self, reader: ClipReader, length: int, seed: int = 0) -> None:
        self.reader, self.records = reader, reader.records
        self.length, self.seed = length, seed
        self.counts = -(-np.asarray(self.records.frames, np.int64) // length)
        """(clips,) pieces of each clip."""
        self.first = np.cumsum(self.counts) - self.counts
        """(clips,) the number of each clip's first piece."""

    @property
    def settings(self) -> dict[str, int | bool]:
        """What a piece of a number is under these settings, it is not under others; see `EpochSampler`."""
        return {"length": self.length, "carry": False}

    def __len__(self) -> int:
        return int(self.counts.sum())

    def place(self, piece: int) -> tuple[int, int, int]:
        """(clip, start, samples) of a piece."""
        piece = checked_index(piece, len(self))
        index = int(np.searchsorted(self.first, piece, side="right")) - 1
        start = (piece - int(self.first[index])) * self.length
        return index, start, min(self.length, int(self.records.frames[index]) - start)

    def __getitem__(self, item: int | tuple[int, int]) -> AudioExample:
        epoch, piece = item if isinstance(item, tuple) else (None, item)
        index, start, frames = self.place(piece)
        if epoch is not None:
            start, frames = crop(int(self.records.frames[index]), self.length, self.seed, epoch, piece)
        return AudioExample(self.reader(index, start, frames), index, start)


class AugmentedPieces(AudioPieces):
    """`AudioPieces` that are read as samples, changed in training, and then encoded.

    Args:
        reader: of the clips, as samples.
        length, seed: as in `AudioPieces`.
        augment: what is done to a piece in training, once more by (seed, epoch, number) alone.
        encoding: of the codes; it does not rescale.
    """

    def __init__(
        self, reader: ClipReader, length: int, seed: int, augment: ClipAugmentation, encoding: Encoding
    ) -> None:
        super().__init__(reader, length, seed)
        self.augment, self.encoding = augment, encoding

    def __getitem__(self, item: int | tuple[int, int]) -> AudioExample:
        example = super().__getitem__(item)
        values = self.augment(example.values, *item) if isinstance(item, tuple) else example.values
        return replace(example, values=self.encoding.encode(values))


def crop(frames: int, length: int, seed: int, epoch: int, number: int) -> tuple[int, int]:
    """(start, samples) of a crop of a clip of `frames`, every start as likely as any other."""
    spare = max(0, frames - length)
    start = int(stream(seed, epoch, number, use=_CROP).integers(spare + 1)) if spare else 0
    return start, frames - spare


def middle(frames: int, length: int) -> tuple[int, int]:
    """(start, samples) of what evaluation and prediction see of a clip of `frames`: all of it, or its middle."""
    return max(0, frames - length) // 2, min(length, frames)


class LabelledClips(Dataset[AudioExample]):
    """A split as one item a clip, with its label, of at most `length` samples.

    Training asks by (epoch, index): a crop of a longer clip as in `AudioPieces`, augmented. By index alone it is the
    middle of a longer clip, as the file has it.

    Args:
        reader: of the clips, as samples.
        labels: (n,) int64 or (n, C) float32.
        length: samples.
        augment: what is done to a clip in training; its seed is that of the crops.
    """

    def __init__(self, reader: ClipReader, labels: Codes, length: int, augment: ClipAugmentation) -> None:
        self.reader, self.records, self.labels = reader, reader.records, labels
        self.length, self.augment = length, augment

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Waveform:
        """The name and the label of a clip, for tables of predictions; its samples are not read."""
        return Waveform(self.records.name_of(index), np.zeros(0, np.float32), self.records.label_of(index))

    def __getitem__(self, item: int | tuple[int, int]) -> AudioExample:
        if isinstance(item, tuple):
            epoch, index = item
            start, frames = crop(int(self.records.frames[index]), self.length, self.augment.seed, epoch, index)
            samples = self.augment(self.reader(index, start, frames), epoch, index)
        else:
            index = item
            start, frames = middle(int(self.records.frames[index]), self.length)
            samples = self.reader(index, start, frames)
        return AudioExample(samples, index, start, self.labels[index])


class AudioCollate:
    """Parts of clips to a batch, padded on the right.

    Args:
        encoding: of codes; None for samples.
        pad_to: a batch is as long as its longest row, and on to the next multiple of this.
    """

    def __init__(self, encoding: Encoding | None, pad_to: int) -> None:
        self.encoding, self.pad_to = encoding, pad_to

    def __call__(self, examples: Sequence[AudioExample]) -> AudioBatch:
        lengths = [len(example.values) for example in examples]
        width = -(-max(1, *lengths) // self.pad_to) * self.pad_to
        shape = (len(examples), width)
        if self.encoding is None:
            values = np.zeros(shape, np.float32)
        else:
            values = np.full(shape, self.encoding.zero, np.uint8)
        for row, example in zip(values, examples, strict=True):
            row[: len(example.values)] = example.values
        batch = AudioBatch(
            lengths=torch.tensor(lengths),
            index=torch.tensor([example.index for example in examples]),
            start=torch.tensor([example.start for example in examples]),
            full=min(lengths) == width,
        )
        batch["samples" if self.encoding is None else "codes"] = torch.from_numpy(values)
        if examples[0].label is not None:
            batch["labels"] = torch.from_numpy(np.stack([np.asarray(example.label) for example in examples]))
        if examples[0].fresh is not None:
            batch["fresh"] = torch.tensor([example.fresh for example in examples])
        return batch
