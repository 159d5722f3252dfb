"""Multi-label with one label alone, through all commands: a column of 0 and 1 that is named for what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audio_commands import inside, run

DATA = ("data=table", "data.test=t.csv", "data.label_column=[pos]")
SMALL = ("task=dna_classify", "model.d_model=4", "model.n_layers=1", "trainer.max_epochs=1")
MEASURES = ("accuracy", "mcc", "auroc", "auprc", "f1")


@pytest.fixture
def folder(tmp_path):
    with inside(tmp_path):
        Path("t.csv").write_text("sequence,pos\n" + "ACGTACGTAA,1\nACGTTTGTAA,0\n" * 10)
        yield


def succeed(name: str, *arguments: str) -> None:
    code, told = run(name, *arguments)
    assert code == 0, told


def test_one_label_is_trained_evaluated_and_predicted(folder):
    succeed("train", *SMALL, *DATA, "data.train=t.csv", "data.class_weights=true", "run_dir=run")
    succeed("evaluate", "ckpt=run", *DATA, "run_dir=again")
    trained, again = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("run", "again"))
    for name in MEASURES:
        assert again[f"test/{name}"] == pytest.approx(trained[f"test/{name}"], abs=1e-6)
    assert trained["test/auroc"] is not None
    header, first, *_ = Path("run/test_predictions.tsv").read_text().splitlines()
    assert header.split("\t")[4:] == ["label", "p_pos", "true_label"]
    succeed("predict", "ckpt=run", "input=t.csv", "output=p.tsv")
    lines = Path("p.tsv").read_text().splitlines()
    assert len(lines) == 21
    assert lines[1].split("\t")[5] == first.split("\t")[5]
