"""An open audio file: its header, and its frames from anywhere on, so that a part is what the whole has there."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_containers import container_of
from ssmbio.data.audio_messages import mpg123_silenced
from ssmbio.data.nearest import shorten
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError

Samples = npt.NDArray[np.float32]

BLOCK = 1 << 20
"""Frames that are decoded at a time."""

_UNKNOWN_FRAMES = 1 << 62  # libsndfile says 2^63 − 1 where a header says nothing
_OGG_RUN_UP = 8192  # frames before the last page of ogg
_COPY_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says.

    Attributes:
        frames: samples of each channel.
        sample_rate: in Hz.
        channels: how many.
    """

    frames: int
    sample_rate: int
    channels: int


class AudioSource(NamedTuple):
    """An open file: what messages call it, its SoundFile, its header, and see `Container`."""

    path: Path
    file: Any
    info: AudioInfo
    last_page: int | None

    @property
    def is_mp3(self) -> bool:
        return self.file.subtype.startswith("MPEG_LAYER")

    def blocks(self, start: int, end: int) -> Iterator[tuple[int, Samples]]:
        """The frames from `start` up to `end` as (first frame, (n, channels)), at most `BLOCK` of them at a time.

        Raises:
            UserError: damaged or truncated data.
        """
        at = start
        while at < end:
            # Every block of mp3 has a run-up, because soundfile seeks after each read, if only to where it is.
            near = self._near(at) if at == start or self.is_mp3 else at
            decoded = self._read(near, at + min(BLOCK, end - at))
            if near + len(decoded) <= at:
                raise UserError(
                    f"truncated: {near + len(decoded):,} frames of {self.info.frames:,}",
                    where=self.path,
                    mend=_COPY_AGAIN,
                )
            yield at, decoded[at - near :]
            at = near + len(decoded)

    def _near(self, frame: int) -> int:
        """Where to seek to, and to decode from in one go, for `frame` to come out right."""
        if self.is_mp3:
            return max(0, frame - mp3_run_up(self.info))
        if self.last_page is not None:
            # libsndfile may land elsewhere if it seeks into the last page of Vorbis, or in Vorbis for the second time.
            # https://github.com/libsndfile/libsndfile/issues/885
            return max(0, min(frame, self.last_page - _OGG_RUN_UP))
        return frame

    def _read(self, start: int, end: int) -> Samples:
        try:
            with _silenced(self.is_mp3):
                if self.file.tell() != start:
                    self.file.seek(start)
                return self.file.read(end - start, dtype="float32", always_2d=True)
        except soundfile_module().LibsndfileError as error:
            reason = shorten(error.error_string.rstrip("."), 80)
            raise UserError(f"damaged or truncated ({reason})", where=self.path, mend=_COPY_AGAIN) from None


def mp3_run_up(info: AudioInfo) -> int:
    """Frames of mp3 that have to be decoded before the one that is wanted.

    The data of a packet of layer III may begin in earlier packets, up to 511 bytes back, or 255 at rates below 32 kHz
    (main_data_begin in ISO 11172-3 and 13818-3); after a seek libmpg123 lacks them. The smallest packets, which
    encoders use for silence, are those of 32 and of 8 kbit/s: without header, checksum and side information they hold
    few bytes, so there may be many. Three packets more: the last one's overlap, the filters' memory, and that a seek
    lands inside of one.
    """
    full_rate, stereo = info.sample_rate >= 32_000, info.channels > 1
    packet, bit_rate, reservoir = (1152, 32_000, 511) if full_rate else (576, 8_000, 255)
    side = (32 if stereo else 17) if full_rate else (17 if stereo else 9)
    data = max(1, packet // 8 * bit_rate // info.sample_rate - 6 - side)
    return (-(-reservoir // data) + 3) * packet


@contextmanager
def opened(path: Path) -> Iterator[AudioSource]:
    """Open a file and look at its ends.

    Raises:
        UserError: no such file, not audio, empty, of unknown length, or shorter than its header says.
    """
    soundfile = soundfile_module()
    with file_faults(path), open(path, "rb") as raw:
        size = raw.seek(0, io.SEEK_END)
        if not size:
            raise UserError("the file is empty", where=path, mend="check how it was made")
        container = container_of(raw, size)
    if container.needed > size:
        raise UserError(f"truncated: {size:,} bytes of {container.needed:,}", where=path, mend=_COPY_AGAIN)
    if not container.ended:
        raise UserError(
            "truncated: its last page is not marked as the end",
            where=path,
            mend=f"{_COPY_AGAIN}; of a recording that was broken off, save what there is anew",
        )
    try:
        with _silenced(container.maybe_mp3):
            file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        # What it says of a file with an mp3's name and no mp3 in it misleads.
        reason = "no such format" if "regular file" in error.error_string else error.error_string.rstrip(".")
        raise UserError(
            f"not audio, or damaged ({shorten(reason, 80)})", where=path, mend="remove it, or save it as wav or flac"
        ) from None
    except TypeError:  # what it says of a name in .raw
        raise UserError("samples without a header", where=path, mend="save them as wav or flac") from None
    with file:
        info = AudioInfo(file.frames, file.samplerate, file.channels)
        if not info.frames:
            raise UserError("there are no samples in it", where=path, mend="remove it, or check how it was made")
        if info.frames >= _UNKNOWN_FRAMES:
            raise UserError("its header does not say how long it is", where=path, mend="save it again as wav or flac")
        yield AudioSource(path, file, info, container.last_page)


def soundfile_module() -> Any:
    """soundfile, imported when it is first needed; raises UserError if it cannot be."""
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:
        raise UserError(
            f"soundfile, which reads audio, cannot be imported ({shorten(str(error), 80)})",
            mend="install it, and libsndfile if your system has none",
        ) from None


def _silenced(mp3: bool) -> AbstractContextManager[None]:
    return mpg123_silenced() if mp3 else nullcontext()
