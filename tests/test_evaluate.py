"""Evaluation as its user meets it: what is tested, what is read for it, and what is written."""

from __future__ import annotations

import csv
import errno
import importlib
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Trainer

from ssmbio.build import build_pipeline
from ssmbio.data.records import Record
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.errors import UserError
from ssmbio.files import new_file
from ssmbio.kmers import KmerBaseline
from ssmbio.training.results import write_metrics, write_predictions

SMALL = ("task=dna_classify", "run_dir=run", "model.d_model=8", "model.n_layers=1", "model.mixer.d_state=4")


def save_checkpoint(*data: str, labels=("a", "b"), max_length: int = 60, length: int | None = None) -> None:
    """model.ckpt: a tiny untrained classifier whose data are those of the overrides."""
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        config = compose("train", [*SMALL, *data])
    torch.manual_seed(0)
    facts = {
        "tokenizer": CharacterTokenizer().spec(),
        "labels": list(labels),
        "problem": "binary" if len(labels) == 2 else "multiclass",
        "max_length": max_length,
        "class_weights": None,
        "length": length,
    }
    pipeline = build_pipeline(config, facts)
    checkpoint = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, "model.ckpt")


def write_table(path: str, count: int, labels=("a", "b"), length: int = 30) -> None:
    drawn = random.Random(0)
    lines = ["".join(drawn.choices("ACGT", k=length)) + f",{labels[i % len(labels)]}\n" for i in range(count)]
    Path(path).write_text("sequence,label\n" + "".join(lines))


def write_genome(intervals: int) -> None:
    """genome.fa with one contig, and test.bed."""
    Path("genome.fa").write_text(">chr1\n" + "".join(random.Random(1).choices("ACGT", k=500)) + "\n")
    lines = [f"chr1\t{100 + 7 * i}\t{110 + 7 * i}\t{'ab'[i % 2]}\t0\t{'+-'[i % 2]}\n" for i in range(intervals)]
    Path("test.bed").write_text("".join(lines))


@pytest.fixture
def evaluate(monkeypatch, capsys, tmp_path):
    """Run the command on model.ckpt; gives its exit code, its standard output and its standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        given = ["ckpt=model.ckpt", "run_dir=out", "trainer.accelerator=cpu"]
        monkeypatch.setattr(sys, "argv", ["evaluate", *given, *arguments])
        code = 0
        try:
            importlib.import_module("ssmbio.evaluate").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return command


def metrics() -> dict[str, float | None]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(Path("out/metrics.json").read_text(), parse_constant=refuse)


def predictions() -> list[dict[str, str]]:
    with open("out/test_predictions.tsv") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def expect_one_line(result: tuple[int, str, str], *words: str) -> None:
    code, _, error = result
    assert code == 1, error
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert not Path("out").exists()


def test_several_classes(evaluate):
    save_checkpoint("data=table", labels=("a", "b", "c"))
    write_table("test.csv", 21, labels=("a", "b", "c"))
    code, output, error = evaluate("data=table", "data.test=test.csv")
    assert code == 0, error
    assert "model.ckpt: test set" in output
    assert re.search(r"test/records\W+21\b", output)
    found = metrics()
    assert found["test/records"] == len(predictions()) == 21
    right = sum(row["label"] == row["true_label"] for row in predictions())
    assert found["test/accuracy"] == pytest.approx(right / 21)
    p_true = torch.tensor([float(row[f"p_{row['true_label']}"]) for row in predictions()])
    assert found["test/loss"] == pytest.approx(float(-p_true.log().mean()), abs=1e-5)


def test_every_interval_of_a_bed_is_tested_with_the_windows_of_training(evaluate):
    save_checkpoint("data=table", length=20)
    write_genome(30)
    bed = ("data=fasta_bed", "data.fasta=genome.fa", "data.intervals=test.bed")
    assert evaluate(*bed)[0] == 0
    assert metrics()["test/records"] == 30
    assert [(int(row["start"]), row["strand"]) for row in predictions()[:2]] == [(95, "+"), (102, "-")]
    assert all(int(row["end"]) - int(row["start"]) == 20 for row in predictions())

    assert evaluate(*bed, "data.length=12", "data.split.test=0.2")[0] == 0  # what the user says counts
    assert metrics()["test/records"] == 6
    assert all(int(row["end"]) - int(row["start"]) == 12 for row in predictions())

    by_split = ("data=fasta_bed", "data.fasta=genome.fa", "data.intervals={train: absent.bed, test: test.bed}")
    assert evaluate(*by_split)[0] == 0
    assert metrics()["test/records"] == 30


def test_the_own_data_of_a_checkpoint_keep_their_split(evaluate):
    save_checkpoint("data=fasta_bed", "data.fasta=genome.fa", "data.intervals=test.bed", "data.split.test=0.2")
    write_genome(30)
    code, _, error = evaluate()
    assert code == 0, error
    assert metrics()["test/records"] == 6


def test_only_the_test_file_is_read(evaluate):
    write_table("test.csv", 10)
    settings = ("data=table", "data.train=absent.csv", "data.val=absent.csv", "data.test=test.csv")
    save_checkpoint(*settings)
    assert evaluate()[0] == 0
    assert metrics()["test/records"] == 10
    assert evaluate(*settings)[0] == 0

    for name in "ab":
        Path(f"{name}.fa").write_text(">1\nACGTACGT\n>2\nACGGACGG\n")
    code, _, error = evaluate("data=fasta", "data.train=absent.fa", "data.test=[a.fa,b.fa]")
    assert code == 0, error
    assert metrics()["test/records"] == 4
    Path("labels.csv").write_text("name,label\n1,a\n2,b\n")
    tables = "data.labels={train: absent.csv, test: labels.csv}"
    assert evaluate("data=fasta", "data.train=absent.fa", "data.test=a.fa", tables)[0] == 0
    assert metrics()["test/records"] == 2


def test_a_missing_test_set_says_which_key_to_set(evaluate):
    save_checkpoint("data=table", "data.train=train.csv")
    write_table("train.csv", 10)
    for group in ("table", "fasta", "genbank"):
        expect_one_line(evaluate(f"data={group}"), "data.test is not set", "add data.test=")
        expect_one_line(
            evaluate(f"data={group}", "data.train=train.csv"), "data.test is not set", "what evaluate tests"
        )
    expect_one_line(evaluate("data=fasta_bed", "data.fasta=g.fa"), "data.intervals is not set")
    beds = "data.intervals={train: test.bed}"
    expect_one_line(evaluate("data=fasta_bed", "data.fasta=g.fa", beds), "data.intervals.test is not set")
    expect_one_line(evaluate(), "the checkpoint have no test set", "data=table data.test=")
    Path("local/300_tata").mkdir(parents=True)
    write_table("local/300_tata/train.csv", 4)
    code, _, error = evaluate("data=gue", "data.root=local")
    assert code == 1
    assert "has no test set" in error
    assert "data.test is not set" not in error


def test_the_longest_record_is_that_of_the_model(evaluate):
    save_checkpoint("data=table", max_length=25)
    write_table("test.csv", 4, length=25)
    table = ("data=table", "data.test=test.csv")
    assert evaluate(*table)[0] == 0
    with open("test.csv", "a") as file:
        file.write("C" * 26 + ",a\n")
    Path("out/metrics.json").unlink()
    code, _, error = evaluate(*table, "data.max_length=1000")
    assert code == 1
    for word in ("test.csv, line 6", "row5", "26", "25", "data.truncate=true"):
        assert word in error
    assert not Path("out/metrics.json").exists()

    seen = predicted_from(evaluate, *table, "data.truncate=true")
    Path("test.csv").write_text(Path("test.csv").read_text().replace("C" * 26, "C" * 25))
    assert predicted_from(evaluate, *table) == seen


def predicted_from(evaluate, *arguments: str) -> list[str]:
    assert evaluate(*arguments)[0] == 0
    return [row["p_a"] for row in predictions()]


def test_measures_that_one_class_leaves_undefined(evaluate):
    save_checkpoint("data=table")
    write_table("test.csv", 8, labels=("a",))
    code, output, error = evaluate("data=table", "data.test=test.csv")
    assert code == 0, error
    assert re.search(r"test/auroc\W+nan\b", output)
    assert metrics()["test/auroc"] is None
    assert metrics()["test/mcc"] is None
    assert metrics()["test/accuracy"] == sum(row["label"] == "a" for row in predictions()) / 8


def test_the_baseline_gives_a_class_it_never_saw_no_probability():
    model = KmerBaseline(1, 2).fit([b"AAAA", b"CCCC"] * 4, np.array([0, 2] * 4), [b"AAAA", b"GGGG"], np.array([0, 1]))
    scores = model.scores([b"AAAA", b"CCCC"])
    assert scores.shape == (2, 3)
    assert scores.argmax(1).tolist() == [0, 2]
    assert scores[:, 1].tolist() == [0, 0]
    np.testing.assert_allclose(scores.sum(1), 1)


def test_measures_are_json(tmp_path):
    write_metrics(tmp_path / "m.json", {"a": float("nan"), "b": float("inf"), "c": 0.5, "d": 3})
    assert (tmp_path / "m.json").read_text() == '{\n  "a": null,\n  "b": null,\n  "c": 0.5,\n  "d": 3\n}\n'


def test_only_the_first_process_writes(evaluate, monkeypatch):
    save_checkpoint("data=table")
    write_table("test.csv", 4)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    code, output, error = evaluate("data=table", "data.test=test.csv")
    assert code == 0, error
    assert "results in" not in output
    assert not Path("out").exists()


def test_predictions_take_one_record_at_a_time(tmp_path):
    path = tmp_path / "p.tsv"
    alive: list[int] = []

    class Watched(bytes):
        def __del__(self) -> None:
            alive.remove(0)

    def records():
        for i in range(20):
            alive.append(0)
            assert len(alive) <= 3
            yield Record(f"r{i}", Watched(b"ACGT"))

    write_predictions(path, records(), torch.full((20, 2), 0.5), torch.zeros(20, dtype=torch.long), "ab", "binary")
    assert path.read_text().count("\n") == 21


@pytest.mark.parametrize(
    ("number", "mend", "not_"),
    [
        (errno.ENOSPC, "free some space", "write to"),
        (errno.EACCES, "choose a folder you can write to", "free"),
        (errno.EROFS, "choose a folder you can write to", "free"),
        (errno.EISDIR, "a folder of that name is in the way", "free"),
        (errno.ENOTDIR, "a file stands where a folder is needed", "free"),
    ],
)
def test_the_mend_fits_what_the_disk_did(tmp_path, number, mend, not_):
    with pytest.raises(UserError, match=mend) as caught, new_file(tmp_path / "x"):
        raise OSError(number, "…")
    assert not_ not in str(caught.value).partition(")")[2].replace("(SSMBIO_CACHE", "")


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="a folder of that name is in the way"), new_file(tmp_path / "x"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
