"""A trained model on data of another sample rate, as `predict` and `evaluate` take it with `rate`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from audio_commands import expect_one_line, inside, run, write
from hydra import compose, initialize_config_module

from ssmbio.build import build_pipeline

RATE, LENGTH = 8000, 4000
LABELS = ["high", "low"]


def save(path: str, mixer: str = "s4d", dt: float = 1e-3) -> None:
    """An untrained classifier of clips."""
    settings = ("model=stack", f"model/mixer={mixer}", "model.d_model=16", "model.n_layers=1", f"data.length={LENGTH}")
    slow = () if mixer == "mamba" else (f"model.mixer.dt_min={dt}", f"model.mixer.dt_max={10 * dt}")
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        data = ("data=audio_folder", "data/datamodule=audio_labels", "data.root=clips", f"data.sample_rate={RATE}")
        config = compose("train", ["task=audio_classify", "run_dir=run", *data, *settings, *slow])
    torch.manual_seed(1)
    facts = {"audio": {"sample_rate": RATE, "length": LENGTH}, "labels": LABELS, "problem": "binary"}
    pipeline = build_pipeline(config, {**facts, "class_weights": None})
    checkpoint = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


@pytest.fixture
def folder(tmp_path: Path):
    """Clips of half a second with nothing above 300 Hz, and a model."""
    with inside(tmp_path):
        time = np.arange(LENGTH) / RATE
        for i in range(6):
            tone = 0.4 * np.sin(2 * np.pi * (60 + 45 * i) * time) * np.hanning(LENGTH)
            write(f"clips/test/{LABELS[i % 2]}/{i}.wav", tone.astype(np.float32), RATE)
        save("model.ckpt")
        yield tmp_path


def scores(path: str) -> torch.Tensor:
    """Logits of the clips, by name."""
    with open(path) as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: Path(row["name"]).name)
    return torch.tensor([float(row["p_high"]) for row in rows]).logit()


def predicted(*settings: str) -> torch.Tensor:
    code, output = run("predict", "ckpt=model.ckpt", "input=clips", "output=out.tsv", *settings)
    assert code == 0, output
    return scores("out.tsv")


def test_half_the_rate_gives_about_the_opinion_of_the_whole(folder):
    expected, found = predicted(), predicted("rate=2")
    assert expected.std() > 0.02
    error = (found - expected).norm()
    # Read at 4 kHz as if it were 8 kHz, everything sounds twice as high.
    for path in Path("clips").rglob("*.wav"):
        path.rename(path.with_suffix(".old"))
        time = np.arange(LENGTH // 2) / RATE
        tone = 0.4 * np.sin(2 * np.pi * 2 * (60 + 45 * int(path.stem)) * time) * np.hanning(LENGTH // 2)
        write(str(path), tone.astype(np.float32), RATE)
    wrong = (predicted() - expected).norm()
    assert error < 0.05 * wrong


def test_evaluation_reads_at_the_rate_that_is_left(folder):
    expected = predicted("rate=2")
    assert (expected - predicted()).abs().max() > 1e-4
    for data in ((), ("data=audio_folder", "data.root=clips")):
        code, output = run("evaluate", "ckpt=model.ckpt", "rate=2", "run_dir=out", *data)
        assert code == 0, output
        torch.testing.assert_close(scores("out/test_predictions.tsv"), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("rate", ["0", "-2", "fast", "true", "null", "inf"])
def test_a_rate_that_is_none_is_one_line(folder, rate):
    for name, more in (("predict", ("input=clips",)), ("evaluate", ("run_dir=out",))):
        expect_one_line(run(name, "ckpt=model.ckpt", f"rate={rate}", *more), "is not a number above 0", "rate=")


def test_rates_that_no_audio_has_and_models_without_steps_are_one_line(folder):
    expect_one_line(run("predict", "ckpt=model.ckpt", "input=clips", "rate=3"), "2666.67 Hz", "whole Hz")
    save("model.ckpt", "mamba")
    expect_one_line(
        run("predict", "ckpt=model.ckpt", "input=clips", "rate=2"), "no mixer of this model", "leave rate out"
    )
