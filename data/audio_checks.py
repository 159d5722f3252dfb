"""What both datamodules of audio check: their settings, and whether clips are what a checkpoint takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssmbio.data.audio_set import AudioSet
from ssmbio.data.labelled import check_settings, is_whole
from ssmbio.data.loaders import SplitLoaders
from ssmbio.errors import UserError

SHORTEST = 16
"""Samples that `length` must have at least."""


def check_clips(length: int, pad_to: int, keep_mib: int) -> None:
    check_settings(
        ("length", length, is_whole(length, SHORTEST), f"a whole number of samples, {SHORTEST} or more"),
        ("pad_to", pad_to, is_whole(pad_to, 1), "1 or more"),
        ("keep_mib", keep_mib, is_whole(keep_mib, 0), "0 or more"),
    )


def sample_rate_of(data: SplitLoaders) -> int:
    split = data.test if data.train is None else data.train
    assert split is not None, "setup() comes first"
    return split.records.sample_rate


def check_rate(clips: AudioSet, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of audio; raises UserError unless there are some, and the clips have their sample rate."""
    if "audio" not in facts:
        raise UserError("these data are audio, but the model was trained on others", mend="choose other data")
    audio, rate = facts["audio"], clips.sample_rate
    if audio["sample_rate"] != rate:
        raise UserError(
            f"the clips are at {rate} Hz, but the model was trained at {audio['sample_rate']} Hz",
            mend=f"set data.sample_rate={audio['sample_rate']}",
        )
    return audio
