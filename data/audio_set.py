"""Clips of audio by index: places, lengths and labels in memory, samples in their files until they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_files import audio_info, check_audio, check_samples, frames_at, read_audio
from ssmbio.data.audio_source import Samples
from ssmbio.data.records import Label, LabelledSet, checked_index

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waveform:
    """One clip.

    Attributes:
        name: its path below the folder that was read.
        samples: (n,) float32 from −1 to 1, mono.
        label: see `Label`.
    """

    name: str
    samples: Samples
    label: Label = None


class AudioSet(LabelledSet):
    """Clips by index. No file is open between two reads.

    Args:
        paths: of the files.
        labels: one each, all None without labels.
        frames: (n,) int64 samples of each at `sample_rate`.
        sample_rate: in Hz, of what is read.
        resample: allow files of another rate.
        root: the folder that names are relative to.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[Label],
        frames: npt.ArrayLike,
        *,
        sample_rate: int,
        resample: bool,
        root: Path,
    ) -> None:
        self.paths, self.frames = list(paths), np.asarray(frames, np.int64)
        self.sample_rate, self.resample, self.root = sample_rate, resample, root
        self._labels = list(labels)

    @classmethod
    def of_files(
        cls, paths: Sequence[Path], labels: Sequence[Label] | None, *, sample_rate: int, resample: bool, root: Path
    ) -> AudioSet:
        """The clips of these files, whose headers are read; arguments as above, labels None for none.

        Raises:
            UserError: what `audio_info` and `check_audio` raise.
        """
        frames = []
        for path in paths:
            info = audio_info(path)
            check_audio(path, info, sample_rate, resample)
            frames.append(frames_at(info, sample_rate))
        labels = [None] * len(frames) if labels is None else labels
        return cls(paths, labels, frames, sample_rate=sample_rate, resample=resample, root=root)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Waveform:
        """Read a whole clip."""
        return Waveform(self.name_of(index), self.read(index), self.label_of(index))

    def read(self, index: int, start: int = 0, frames: int | None = None, *, beyond_one: bool = False) -> Samples:
        """(n,) of a clip or a part of it; see `read_audio`, also for what it raises."""
        return read_audio(
            self.paths[checked_index(index, len(self))],
            sample_rate=self.sample_rate,
            start=start,
            frames=frames,
            resample=self.resample,
            beyond_one=beyond_one,
        )

    def check_samples(self, *, beyond_one: bool = False, mend: str = "scale it to ±1") -> None:
        """See `look_through`."""
        look_through(self.paths, beyond_one=beyond_one, mend=mend)

    def label_of(self, index: int) -> Label:
        return self._labels[checked_index(index, len(self))]

    def where(self, index: int) -> str:
        return str(self.paths[checked_index(index, len(self))])

    def name_of(self, index: int) -> str:
        """See `Waveform`; a file outside of the folder has its whole path for a name."""
        path = self.paths[checked_index(index, len(self))]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    @property
    def names(self) -> list[str]:
        """Of all clips."""
        return [self.name_of(index) for index in range(len(self))]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(n,) samples of each clip, as `frames`."""
        return self.frames

    def subset(self, indices: npt.ArrayLike) -> AudioSet:
        rows = np.asarray(indices, np.int64)
        return AudioSet(
            [self.paths[row] for row in rows],
            [self._labels[row] for row in rows],
            self.frames[rows],
            sample_rate=self.sample_rate,
            resample=self.resample,
            root=self.root,
        )


def look_through(paths: Collection[Path], *, beyond_one: bool = False, mend: str = "scale it to ±1") -> None:
    """Look for faults that headers do not show, and say in one line how many files clip; see `check_samples`.

    Raises:
        UserError: for the first file that has one.
    """
    clipped = [path for path in paths if check_samples(path, beyond_one=beyond_one, mend=mend)]
    if clipped:
        log.warning(
            "%s of %s clips are cut off at full scale (clipping), %s first; record or export them less loud.",
            f"{len(clipped):,}",
            f"{len(paths):,}",
            clipped[0],
        )
