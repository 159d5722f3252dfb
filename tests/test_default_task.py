"""The embedded default can be learned, but not from k-mers, and not when its labels are shuffled."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))

    def command(name: str, *arguments: str) -> str:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        importlib.import_module(f"ssmbio.{name}").main()
        return capsys.readouterr().out

    return command


def test_kmers_cannot_solve_the_default(run):
    assert json.loads(run("baseline", "data=simulated_genome"))["test/auroc"] <= 0.80


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_model_learns_the_default(run):
    run("train", "task=dna_classify", "trainer.max_epochs=3", "run_dir=run", "callbacks.progress.enabled=false")
    assert json.loads(Path("run/metrics.json").read_text())["test/auroc"] >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shuffled_labels_teach_nothing(run):
    run(
        "train",
        "task=dna_classify",
        "data.shuffle_labels=true",
        "trainer.max_epochs=1",
        "run_dir=run",
        "callbacks.progress.enabled=false",
    )
    assert json.loads(Path("run/metrics.json").read_text())["test/auroc"] == pytest.approx(0.5, abs=0.05)
