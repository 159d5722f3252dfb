"""Audio files: wav, flac, ogg and mp3 through libsndfile, mixed to mono, resampled, and read by seeking."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ssmbio.data.audio_containers import container_of
from ssmbio.data.audio_resampling import Resampler, too_fine
from ssmbio.data.nearest import shorten
from ssmbio.data.text_files import file_faults
from ssmbio.errors import UserError
from ssmbio.files import whole_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""File names in folders that are taken for audio, upper case too; a file that is named itself may have any."""

Samples = npt.NDArray[np.float32]

_WRITTEN = (".wav", ".flac")
_FLOATS = ("FLOAT", "DOUBLE")  # libsndfile's names of encodings whose samples may lie beyond ±1
_BLOCK = 1 << 20  # frames that are decoded at a time
_UNKNOWN_FRAMES = 1 << 62  # libsndfile says 2^63 − 1 where a header says nothing
_RUN_UP = 8192  # frames that are decoded and thrown away before the last page of ogg
_COPY_AGAIN, _SCALE = "copy or download it again", "scale it to ±1"


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


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header alone.

    Raises:
        UserError: no such file, not audio, empty, of unknown length, or shorter than its header says.
    """
    with _opened(Path(path)) as source:
        return source.info


def frames_at(info: AudioInfo, sample_rate: int) -> int:
    """Samples that `read_audio` gives for the whole file: the frames, times the ratio of the rates, rounded up."""
    return -(-info.frames * sample_rate // info.sample_rate)


def check_audio(path: str | Path, info: AudioInfo, sample_rate: int, resample: bool) -> None:
    """Raises UserError unless a file with this header can be read at `sample_rate`."""
    if info.channels > 2:
        raise UserError(f"{info.channels} channels", where=path, mend="mix it to one or two first")
    if info.sample_rate == sample_rate:
        return
    rates = f"{info.sample_rate:,} Hz, not {sample_rate:,} Hz"
    if not resample:
        raise UserError(rates, where=path, mend="set data.resample=true")
    ratio = too_fine(info.sample_rate, sample_rate)
    if ratio is not None:
        raise UserError(
            f"{rates}, and the ratio {ratio} is too fine for a filter",
            where=path,
            mend="set data.sample_rate to one that has more divisors in common with the file's",
        )


def read_audio(
    path: str | Path,
    *,
    sample_rate: int,
    start: int = 0,
    frames: int | None = None,
    resample: bool = True,
    beyond_one: bool = False,
) -> Samples:
    """Read a file or a part of it: (n,) from −1 to 1, two channels averaged.

    Only the part is decoded, with what the resampling filter needs at its sides, so a part has the values that the
    whole has there. Resampling is torchaudio's: a sinc under a Hann window of 6 zero crossings.

    Args:
        sample_rate: in Hz, of what is returned; `start` and `frames` count in it.
        start, frames: the part, as in a slice: what lies beyond the end is left out. None reads to the end.
        resample: allow files of another rate.
        beyond_one: leave samples beyond ±1 as they are. Otherwise they are refused in files of floating-point samples,
            and cut off where a codec or the resampling filter has overshot.

    Raises:
        UserError: what `audio_info` raises, more than two channels, another rate, NaN or infinite samples, samples
            beyond ±1, damaged or truncated data.
    """
    if start < 0 or (frames is not None and frames < 0):
        raise ValueError(f"start {start} and frames {frames} must not be negative")
    with _opened(Path(path)) as source:
        check_audio(path, source.info, sample_rate, resample)
        end = frames_at(source.info, sample_rate)
        end = end if frames is None else min(end, start + frames)
        if end <= start:
            return np.zeros(0, np.float32)
        if source.info.sample_rate == sample_rate:
            samples = _read_mono(source, start, end, beyond_one)
        else:
            resampler = Resampler(source.info.sample_rate, sample_rate)
            first, last = resampler.frames_for(start, end)
            mono = _read_mono(source, first, min(last, source.info.frames), beyond_one)
            samples = resampler(mono, start, end)
    return samples if beyond_one else np.clip(samples, -1, 1, out=samples)


def check_samples(path: str | Path, *, beyond_one: bool = False, mend: str = _SCALE) -> None:
    """Look for faults that `read_audio` would come upon late: of a file of floating-point samples, which alone can be
    NaN or beyond ±1, all is read, block by block; of any other the last frame, which is not there if it is cut short.

    Args:
        beyond_one: allow samples beyond ±1.
        mend: what to do about them.

    Raises:
        UserError: what `read_audio` raises for the samples.
    """
    with _opened(Path(path)) as source:
        frames = source.info.frames
        for start in range(0, frames, _BLOCK) if source.file.subtype in _FLOATS else [frames - 1]:
            _read_mono(source, start, min(frames, start + _BLOCK), beyond_one, mend)


def write_audio(path: str | Path, waveform: Samples, sample_rate: int) -> None:
    """Write 16-bit mono, as wav or flac by the suffix, whole or not at all.

    Multiples of 2^-15 come back from `read_audio` as they were; 1.0 itself becomes 1 − 2^-15.

    Args:
        waveform: (n,) from −1 to 1.

    Raises:
        UserError: another suffix, or what the disk does wrong.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITTEN:
        raise UserError(f"'{suffix}' cannot be written", where=path, mend=f"name it {' or '.join(_WRITTEN)}")
    # NaN is not ≤ 1 either.
    if waveform.ndim != 1 or not waveform.size or not np.abs(waveform).max() <= 1:
        raise ValueError(f"waveform must be (n,) with n > 0, from -1 to 1; it is {waveform.shape}")
    whole = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
    # Encoded in memory, so that a full disk is Python's to notice.
    encoded = io.BytesIO()
    _soundfile().write(encoded, whole, sample_rate, subtype="PCM_16", format=suffix[1:])
    with whole_file(path, "wb") as file:
        file.write(encoded.getbuffer())


def _soundfile() -> Any:
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:
        raise UserError(
            f"soundfile, which reads audio, cannot be imported ({shorten(str(error), 80)})",
            mend="install it, and libsndfile if your system has none",
        ) from None


class _Source(NamedTuple):
    """An open file: what messages call it, its SoundFile, its header, and see `Container`."""

    path: Path
    file: Any
    info: AudioInfo
    last_page: int | None

    def seek(self, frame: int) -> None:
        """Go to a frame, once in the life of the SoundFile: libsndfile's second seek in Vorbis may land elsewhere.

        So does one into the last page of a Vorbis file, which is therefore decoded from before that page.
        """
        # https://github.com/libsndfile/libsndfile/issues/885
        near = frame if self.last_page is None else max(0, min(frame, self.last_page - _RUN_UP))
        if near:
            self.file.seek(near)
        if near < frame:
            self.file.read(frame - near, dtype="float32")


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    soundfile = _soundfile()
    with file_faults(path), open(path, "rb") as raw:
        size = raw.seek(0, io.SEEK_END)
        if not size:
            raise UserError("the file is empty", where=path, mend="check how it was made")
        container = container_of(raw, size)
    if container.needed > size:
        raise UserError(f"truncated: {size:,} bytes of {container.needed:,}", where=path, mend=_COPY_AGAIN)
    try:
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
        yield _Source(path, file, info, container.last_page)


def _read_mono(source: _Source, start: int, end: int, beyond_one: bool, mend: str = _SCALE) -> Samples:
    """(end − start,) frames of the file, as they are but for the mean over channels; others as in `check_samples`."""
    mono = np.empty(end - start, np.float32)
    bounded = source.file.subtype in _FLOATS and not beyond_one
    done = 0
    try:
        source.seek(start)
        while done < len(mono):
            block = source.file.read(min(_BLOCK, len(mono) - done), dtype="float32", always_2d=True)
            if not len(block):
                raise UserError(
                    f"truncated: {start + done:,} frames of {source.info.frames:,}", where=source.path, mend=_COPY_AGAIN
                )
            _check_block(block, source.path, start + done, mend if bounded else None)
            mono[done : done + len(block)] = block[:, 0] if block.shape[1] == 1 else block.mean(1)
            done += len(block)
    except _soundfile().LibsndfileError as error:
        raise UserError(
            f"damaged or truncated ({shorten(error.error_string.rstrip('.'), 80)})", where=source.path, mend=_COPY_AGAIN
        ) from None
    return mono


def _check_block(block: Samples, path: Path, first: int, mend: str | None) -> None:
    """`mend` is what to do about samples beyond ±1; None: nothing, they may be there."""
    peak = np.abs(block).max()
    if peak <= 1:
        return
    if not np.isfinite(peak):
        frame = int(np.argmin(np.isfinite(block).all(1)))
        value = "NaN" if np.isnan(block[frame]).any() else "infinite"
        raise UserError(f"sample {first + frame:,} is {value}", where=path, mend="remove the file, or write it again")
    if mend is not None:
        raise UserError(f"samples reach {peak:.4g}, beyond ±1", where=path, mend=mend)
