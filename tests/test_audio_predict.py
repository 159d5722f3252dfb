"""Prediction of audio looks all of a file through, as training does, though it judges the middle alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_commands import RATE, expect_one_line, inside, run

from ssmbio.build import rebuild_pipeline

LENGTH = 100
MODEL = {
    "_target_": "ssmbio.backbones.Stack",
    "d_model": 4,
    "n_layers": 1,
    "mixer": {"_target_": "ssmbio.mixers.S4D", "_partial_": True, "d_state": 4},
}
FACTS = {
    "audio": {"sample_rate": RATE, "length": LENGTH},
    "labels": ["high", "low"],
    "problem": "binary",
    "class_weights": None,
}


@pytest.fixture
def folder(tmp_path: Path):
    """A folder with the checkpoint of a tiny untrained model and five clips four times as long as it takes."""
    with inside(tmp_path):
        recipe = {"config": {"model": MODEL, "task": {"_target_": "ssmbio.pipelines.AudioClassify"}}, "facts": FACTS}
        pipeline = rebuild_pipeline(recipe).eval()
        checkpoint = {"state_dict": pipeline.state_dict()}
        pipeline.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, "tiny.ckpt")
        Path("clips").mkdir()
        for i in range(5):
            save(f"clips/{i}.wav", np.full(4 * LENGTH, 0.1 * i))
        yield tmp_path


def save(path: str, wave: np.ndarray, subtype: str = "FLOAT") -> None:
    soundfile.write(path, wave, RATE, subtype=subtype)


def predict() -> tuple[int, str]:
    return run("predict", "ckpt=tiny.ckpt", "input=clips", "output=out.tsv", "batch_size=1")


@pytest.mark.parametrize("at", [5, 4 * LENGTH - 1])
def test_faults_outside_of_the_middle(folder: Path, at: int) -> None:
    for value, words in ((np.nan, f"sample {at} is NaN; remove the file"), (1.5, "samples reach 1.5, beyond ±1")):
        wave = np.zeros(4 * LENGTH)
        wave[at] = value
        save("clips/3.wav", wave)
        expect_one_line(predict(), "clips/3.wav: ", words)


def test_clipped_clips_are_told_in_one_line(folder: Path) -> None:
    assert "clipping" not in predict()[1]
    for i in (2, 4):
        save(f"clips/{i}.wav", np.sign(np.sin(np.arange(4 * LENGTH) / 9)), "PCM_16")
    code, output = predict()
    assert code == 0
    assert output.count("clipping") == 1
    assert "2 of 5 clips are cut off at full scale (clipping), clips/2.wav first" in output


def test_an_input_that_does_not_exist_may_have_been_a_folder(folder):
    words = "nowhere: there is no such file or folder; check the path."
    expect_one_line(run("predict", "ckpt=tiny.ckpt", "input=nowhere", "output=out.tsv"), words)
