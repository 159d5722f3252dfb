"""Clips and settings of task=audio_generate that its tests share."""

from __future__ import annotations

import numpy as np
from audio_commands import RATE, write

LENGTH = 128
DATA = ("data=audio_folder", "data.root=clips")
AUDIO = ("task=audio_generate", *DATA, f"data.sample_rate={RATE}", f"data.length={LENGTH}", "data.batch_size=4")
CLIPS = ("callbacks.clips.n=2", "callbacks.clips.seconds=0.02")
STACK = ("model=stack", "model/mixer=s4d", "model.n_layers=1", "model.d_model=8", "model.mixer.d_state=4")
SASHIMI = ("model=sashimi_small", "model.n_layers=1", "model.d_model=8")
TINY = (*AUDIO, *CLIPS, *STACK, "trainer.max_epochs=1", "optimizer.lr=0.01")


def sound(seed: int, samples: int, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = 0.5 * np.sin(2 * np.pi * rng.uniform(100, 400) * np.arange(samples) / rate)
    return (tone + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def write_clips(root: str, rate: int = RATE) -> None:
    """train, val and test, of ragged clips of 0.05 to 0.09 seconds; one is flac, one has two channels."""
    for split, count in (("train", 20), ("val", 3), ("test", 5)):
        for i in range(count):
            seed = i + 100 * len(split)
            write(f"{root}/{split}/{i}.wav", sound(seed, (400 + 70 * (i % 5)) * rate // RATE, rate), rate)
    write(f"{root}/test/5.flac", sound(5, 300 * rate // RATE, rate), rate)
    stereo = np.stack([sound(6, 350 * rate // RATE, rate), sound(7, 350 * rate // RATE, rate)], 1)
    write(f"{root}/test/6.wav", stereo, rate)
