"""The likelihood that a generating model gives to real clips."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ssmbio.data.audio_clips import AudioCollate, AudioPieces, ClipReader
from ssmbio.data.audio_set import AudioSet
from ssmbio.packing import valid_positions
from ssmbio.pipelines import AudioGenerate


@torch.inference_mode()
def mean_bits(
    model: AudioGenerate,
    clips: AudioSet,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda done: None,
) -> float:
    """Minus the logarithm to base 2 of the clips' likelihood, mean over all samples: NLL in bits.

    Clips longer than the pieces of training are read in such pieces, each from a fresh state, as the task's own test
    does; the network runs in float32.

    Args:
        model: on `device`, in evaluation mode.
        clips: at the model's sample rate.
        batch_size: pieces at a time.
        advance: told how many pieces are done after each batch.

    Raises:
        UserError: a file that is damaged.
    """
    pieces = AudioPieces(ClipReader(clips, model.encoding), model.facts["audio"]["length"])
    collate = AudioCollate(model.encoding, pad_to=1)
    total, samples = 0.0, 0
    for start in range(0, len(pieces), batch_size):
        batch = collate([pieces[i] for i in range(start, min(start + batch_size, len(pieces)))])
        codes, lengths = batch["codes"].long().to(device), batch["lengths"].to(device)
        bits = model.bits(codes)
        total += float((bits.double() * valid_positions(lengths, codes.shape[1])).sum())
        samples += int(lengths.sum())
        advance(len(codes))
    return total / samples
