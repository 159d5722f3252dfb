"""Clips of codes from a model, each with its likelihood: a number of them, or one that does not end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ssmbio.errors import UserError
from ssmbio.generation.arriving import Arriving
from ssmbio.generation.recurrent import CodeModel, Decoder, Prefix, prepared
from ssmbio.generation.sampling import ClipStreams, SamplingSettings, check_seed

_ROUND = 256  # positions, about, between two looks at the results: for progress, and what a stream hands out


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip.

    Args:
        number: k; its codes were drawn with the stream (seed, k).
        codes: (L,) uint8, those of the prompt first.
        nll_bits: minus log2 of the probability of the generated codes, mean of a sample; of the model's own
            distribution (temperature 1, all codes), whatever they were drawn with.
        prompt_samples: how many codes are the prompt's.
        seed: of the whole run.
    """

    number: int
    codes: np.ndarray
    nll_bits: float
    prompt_samples: int
    seed: int


def generate_clips(
    model: CodeModel,
    *,
    n: int,
    samples: int,
    settings: SamplingSettings | None = None,
    seed: int = 0,
    prompt: np.ndarray | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int], None] | None = None,
    compiled: bool | None = None,
) -> Iterator[Clip]:
    """Clips 0 … n-1, each yielded as soon as its batch is done.

    Clip k depends on the model, the settings, the seed, the prompt and the device, and neither on `n` nor on
    `batch_size`; nor does its beginning on `samples`.

    Args:
        model: where it is, there it decodes; it is not changed.
        n: how many clips.
        samples: length of each clip, with the prompt.
        settings: how codes are drawn; None: from the model's own distribution.
        seed: 0 to 2^64 - 1.
        prompt: (P,) uint8 codes that every clip begins with.
        batch_size: at most so many clips side by side.
        on_progress: called with the number of samples generated since the last call.
        compiled: see `Decoder`.

    Raises:
        UserError: a number out of range, a prompt that fills the clip, a model that gives NaN.
    """
    for name, value in (("n", n), ("samples", samples), ("batch_size", batch_size)):
        _check_count(name, value)
    check_seed(seed)
    length = _check_prompt(prompt, samples)
    # Batches of equal size, for a graph is of one size; the last one is filled up.
    rows = -(-n // -(-n // batch_size))

    def clips() -> Iterator[Clip]:
        own = prepared(model)
        prefix = Prefix(own, prompt)
        decoder = Decoder(own, rows, settings or SamplingSettings(), compiled)
        for first in range(0, n, rows):
            numbers = range(first, min(first + rows, n))
            whole, total, done = np.empty((rows, samples), np.uint8), np.zeros(rows), length
            if prompt is not None:
                whole[:, :length] = prompt
            decoder.start(prefix)
            for codes, bits in _rounds(decoder, ClipStreams(seed, range(first, first + rows), length), length, samples):
                whole[:, done : done + codes.shape[1]] = codes
                total, done = total + bits, done + codes.shape[1]
                if on_progress is not None:
                    on_progress(codes.shape[1] * len(numbers))
            for row, number in enumerate(numbers):
                yield Clip(number, whole[row].copy(), float(total[row] / (samples - length)), length, seed)

    return clips()


def stream_codes(
    model: CodeModel,
    *,
    settings: SamplingSettings | None = None,
    seed: int = 0,
    prompt: np.ndarray | None = None,
    samples: int | None = None,
    compiled: bool | None = None,
) -> Iterator[np.ndarray]:
    """Clip 0 of `generate_clips` in pieces (about 256,) uint8, without the prompt's, as they are made.

    Args: as there; `samples` None goes on for ever.

    Raises:
        UserError: as there.
    """
    if samples is not None:
        _check_count("samples", samples)
    check_seed(seed)
    length = _check_prompt(prompt, samples)

    def pieces() -> Iterator[np.ndarray]:
        own = prepared(model)
        decoder = Decoder(own, 1, settings or SamplingSettings(), compiled)
        decoder.start(Prefix(own, prompt))
        for codes, _ in _rounds(decoder, ClipStreams(seed, [0], length), length, samples):
            yield codes[0]

    return pieces()


def _rounds(
    decoder: Decoder, streams: ClipStreams, position: int, end: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes (B, n) and the sums of their bits (B,), from `position` to `end`."""
    under_way: deque[tuple[int, Arriving]] = deque()
    size = max(1, _ROUND // decoder.stride) * decoder.stride
    next_count = _first_round(decoder, size, position)
    while position != end or under_way:
        if position != end:
            count = next_count if end is None else min(next_count, end - position)
            next_count = size
            codes, bits = decoder.advance(streams.next(count), ends=position + count == end)
            position += count
            under_way.append((position, Arriving(codes, bits.sum(1))))
            if len(under_way) <= decoder.ahead:
                continue
        reached, results = under_way.popleft()
        found, sums = results.wait()
        if not bool(torch.isfinite(sums).all()):
            raise UserError(
                f"the model gives no probabilities (NaN) before sample {reached:,}",
                mend="take another checkpoint: the weights of this one are not finite, or it has diverged",
            )
        yield found.numpy(), sums.numpy()


def _first_round(decoder: Decoder, size: int, position: int) -> int:
    """About to where the first round from a clip's start would end: whole strides from the end of the period on."""
    lead = -position % decoder.period
    strides = (size - position % size - lead) // decoder.stride
    return lead + strides * decoder.stride or decoder.stride


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}={value}", mend="give a whole number from 1 up")


def _check_prompt(prompt: np.ndarray | None, samples: int | None) -> int:
    if prompt is None:
        return 0
    if prompt.ndim != 1 or prompt.dtype != np.uint8:
        raise ValueError(f"prompt must be (P,) uint8; got {prompt.shape} {prompt.dtype}")
    if samples is not None and len(prompt) >= samples:
        raise UserError(
            f"the prompt has {len(prompt):,} samples, and the clips are to have {samples:,} with it",
            mend="ask for longer clips, or give a shorter prompt",
        )
    return len(prompt)
