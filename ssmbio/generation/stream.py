"""Raw audio on standard output while it is made."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress

import numpy as np

from ssmbio.data.audio_codes import Encoding
from ssmbio.errors import UserError

CHUNK_SECONDS = 0.02
_STDOUT, _STDERR = 1, 2


@contextmanager
def audio_output() -> Iterator[int]:
    """A file descriptor of standard output for audio alone: what else would be printed there goes to standard error.

    The other end may be closed at any time: that ends the block without an error.

    Raises:
        UserError: standard output is a terminal.
    """
    if os.isatty(_STDOUT):
        raise UserError(
            "stream=true would write raw audio to this terminal",
            mend="pipe it on, as in … stream=true | aplay -f S16_LE",
        )
    sys.stdout.flush()
    output = os.dup(_STDOUT)
    # Libraries, and programs that they start, print to the descriptor too and not through `sys.stdout`.
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr), suppress(BrokenPipeError):
            yield output
    finally:
        os.dup2(output, _STDOUT)
        os.close(output)


def how_to_play(sample_rate: int) -> str:
    """A line that says what comes, and two commands that play it."""
    return (
        f"raw audio: 16-bit little-endian, mono, {sample_rate:,} Hz; to hear it: "
        f"… | aplay -r {sample_rate} -f S16_LE -c 1, or "
        f"… | ffplay -nodisp -f s16le -ar {sample_rate} -ch_layout mono -"
    )


def write_stream(output: int, pieces: Iterable[np.ndarray], encoding: Encoding, sample_rate: int) -> int:
    """Write pieces of codes as raw PCM, 20 ms or more at a time; returns the samples written.

    Args:
        output: a file descriptor.
        pieces: codes, (n,) each.

    Raises:
        BrokenPipeError: the other end was closed.
    """
    least = math.ceil(CHUNK_SECONDS * sample_rate)
    waiting: list[np.ndarray] = []
    written = held = 0
    for piece in pieces:
        waiting.append(piece)
        held += len(piece)
        if held >= least:
            _write_all(output, pcm16(encoding.decode(np.concatenate(waiting))))
            waiting, written, held = [], written + held, 0
    if waiting:
        _write_all(output, pcm16(encoding.decode(np.concatenate(waiting))))
    return written + held


def pcm16(waveform: np.ndarray) -> bytes:
    """(L,) from −1 to 1 → 16-bit little-endian PCM, the same samples that `write_audio` writes."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype("<i2").tobytes()


def _write_all(output: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(output, rest) :]
