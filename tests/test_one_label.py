"""Multi-label with one label alone, through all commands: a column of 0 and 1 that is named for what it tells."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

DATA = ("data=table", "data.test=t.csv", "data.label_column=[pos]", "trainer.accelerator=cpu")
SMALL = ("task=dna_classify", "model.d_model=4", "model.n_layers=1", "trainer.max_epochs=1")
MEASURES = ("accuracy", "mcc", "auroc", "auprc", "f1")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("sequence,pos\n" + "ACGTACGTAA,1\nACGTTTGTAA,0\n" * 10)

    def command(name: str, *arguments: str) -> None:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = 0
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = exit_.code
        assert code == 0, capsys.readouterr().err

    return command


def test_one_label_is_trained_evaluated_and_predicted(run):
    run("train", *SMALL, *DATA, "data.train=t.csv", "data.class_weights=true", "run_dir=run")
    run("evaluate", "ckpt=run", *DATA, "run_dir=again")
    trained, again = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("run", "again"))
    for name in MEASURES:
        assert again[f"test/{name}"] == pytest.approx(trained[f"test/{name}"], abs=1e-6)
    assert trained["test/auroc"] is not None
    header, first, *_ = Path("run/test_predictions.tsv").read_text().splitlines()
    assert header.split("\t")[4:] == ["label", "p_pos", "true_label"]
    run("predict", "ckpt=run", "input=t.csv", "output=p.tsv", "device=cpu")
    lines = Path("p.tsv").read_text().splitlines()
    assert len(lines) == 21
    assert lines[1].split("\t")[5] == first.split("\t")[5]
