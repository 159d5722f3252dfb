"""Audio files: wav, flac, ogg and mp3 through libsndfile, mixed to mono, resampled, and read by seeking."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ssmbio.data.audio_clipping import ClippingCount
from ssmbio.data.audio_resampling import Resampler, too_fine
from ssmbio.data.audio_source import BLOCK, AudioInfo, AudioSource, Samples, opened, soundfile_module
from ssmbio.errors import UserError
from ssmbio.files import whole_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
"""File names in folders that are taken for audio, upper case too; a file that is named itself may have any."""

_WRITTEN = (".wav", ".flac")
_FLOATS = ("FLOAT", "DOUBLE")  # libsndfile's names of encodings whose samples may lie beyond ±1
_WHOLE_NUMBERS = ("PCM_16", "PCM_24", "PCM_32")  # those of 8 bits reach full scale by rounding
_SCALE = "scale it to ±1"


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header alone.

    Raises:
        UserError: no such file, not audio, empty, of unknown length, or shorter than its header says.
    """
    with opened(Path(path)) as source:
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
            mend=f"save it at {sample_rate:,} Hz, or at a rate that has more divisors in common with that",
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
    with opened(Path(path)) as source:
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


def check_samples(path: str | Path, *, beyond_one: bool = False, mend: str = _SCALE) -> bool:
    """Look for faults that `read_audio` would come upon late, or never.

    Of a file of floating-point samples, which alone can be NaN or beyond ±1, all is read, block by block. Of one of
    whole numbers with 16 bits or more it is all up to `BLOCK` frames, and of a longer one as many in the middle, to see
    whether they clip; a codec smears that, so it is not looked for there. Of every file the last frame is read, which
    is not there if the file is cut short.

    Args:
        beyond_one: allow samples beyond ±1.
        mend: what to do about them.

    Returns:
        whether the waveform clips, see `ClippingCount`; False where samples beyond ±1 are allowed and may be there.

    Raises:
        UserError: what `read_audio` raises for the samples.
    """
    with opened(Path(path)) as source:
        bounded = _is_float(source) and not beyond_one
        clipping = ClippingCount()
        for start, end in _looked_at(source):
            for first, block in source.blocks(start, end):
                _check_block(block, source.path, first, mend if bounded else None)
                clipping.add(block)
        return clipping.clips and (bounded or source.file.subtype in _WHOLE_NUMBERS)


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
    soundfile_module().write(encoded, whole, sample_rate, subtype="PCM_16", format=suffix[1:])
    with whole_file(path, "wb") as file:
        file.write(encoded.getbuffer())


def _read_mono(source: AudioSource, start: int, end: int, beyond_one: bool) -> Samples:
    """(end − start,) frames of the file, as they are but for the mean over channels."""
    mono = np.empty(end - start, np.float32)
    mend = _SCALE if _is_float(source) and not beyond_one else None
    for first, block in source.blocks(start, end):
        _check_block(block, source.path, first, mend)
        mono[first - start : first - start + len(block)] = block[:, 0] if block.shape[1] == 1 else block.mean(1)
    return mono


def _is_float(source: AudioSource) -> bool:
    return source.file.subtype in _FLOATS


def _looked_at(source: AudioSource) -> list[tuple[int, int]]:
    """What `check_samples` reads of a file, as (start, end)."""
    frames = source.info.frames
    if _is_float(source):
        return [(0, frames)]
    if source.file.subtype not in _WHOLE_NUMBERS:
        return [(frames - 1, frames)]
    if frames <= BLOCK:
        return [(0, frames)]
    middle = (frames - BLOCK) // 2
    return [(middle, middle + BLOCK), (frames - 1, frames)]


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
