"""Prediction as its user meets it: whatever the file and however it is cut, the numbers are those of the pieces."""

from __future__ import annotations

import csv
import gzip
import importlib
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

import ssmbio.predict
from ssmbio.build import build_pipeline
from ssmbio.checkpoints import load_pipeline
from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.batches import Batch
from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.records import Record
from ssmbio.data.sources import IntervalSource, TableSource
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.prediction import Predictor, windows
from ssmbio.training.results import prediction_header, prediction_row

LABELS = ["off", "on", "other"]
FACTS = {
    "tokenizer": CharacterTokenizer().spec(),
    "labels": LABELS,
    "problem": "multiclass",
    "max_length": 60,
    "class_weights": None,
    "length": 30,
}


def model(**facts):
    """A tiny untrained classifier whose probabilities differ clearly from sequence to sequence."""
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        small = ("model.d_model=8", "model.n_layers=1", "model.mixer.d_state=4")
        config = compose("train", ["task=dna_classify", "run_dir=run", *small])
    torch.manual_seed(0)
    pipeline = build_pipeline(config, {**FACTS, **facts})
    with torch.no_grad():
        pipeline.head.linear.weight.mul_(5)
    return pipeline.eval()


def save(pipeline, path: str) -> None:
    checkpoint = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def bases(count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=count))


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path):
    """Run the command; gives its exit code, its standard output and its standard error."""
    monkeypatch.chdir(tmp_path)
    save(model(), "model.ckpt")

    def command(*arguments: str, name: str = "predict", ckpt: str = "model.ckpt") -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        given = [f"ckpt={ckpt}", "device=cpu"] if name == "predict" else []
        monkeypatch.setattr(sys, "argv", [name, *given, *arguments])
        code = 0
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return command


def rows_of(path: str) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
        return list(csv.DictReader(file, delimiter="\t"))


def alone(sequences: list[str], ckpt: str = "model.ckpt", both_strands: bool = False) -> torch.Tensor:
    """Each sequence in a batch of its own: (B, C)."""
    predictor = Predictor(load_pipeline(ckpt), "cpu", both_strands=both_strands)
    return torch.cat([predictor([Record("x", sequence.encode())]) for sequence in sequences])


def scores(rows: list[dict[str, str]]) -> torch.Tensor:
    return torch.tensor([[float(row[f"p_{label}"]) for label in LABELS] for row in rows])


def place(row: dict[str, str]) -> tuple[int, int]:
    return int(row["start"]), int(row["end"])


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert len(expected) == 1 or (expected[0] - expected[1]).abs().max() > 1e-4  # the sequences do differ


def test_windows_have_their_place_and_the_numbers_of_the_piece_alone(predict):
    long, short = bases(47), bases(9, 1)
    Path("in.fa").write_text(f">long\n{long}\n>short\n{short}\n")
    code, _, error = predict("input=in.fa", "output=out.tsv", "window=20", "stride=10", "batch_size=3")
    assert code == 0, error
    rows = rows_of("out.tsv")
    assert [row["name"] for row in rows] == ["long"] * 4 + ["short"]
    assert [place(row) for row in rows] == [(0, 20), (10, 30), (20, 40), (27, 47), (0, 9)]
    pieces = [(long if row["name"] == "long" else short)[slice(*place(row))] for row in rows]
    same(scores(rows), alone(pieces))
    assert [row["label"] for row in rows] == [LABELS[i] for i in scores(rows).argmax(1)]


def test_windows_of_an_interval_on_the_reverse_strand_run_backwards(predict):
    genome = bases(200)
    Path("genome.fa").write_text(f">chr1\n{genome}\n")
    Path("in.bed").write_text("chr1\t50\t97\tx\t0\t-\nchr1\t50\t97\tx\t0\t+\n")
    settings = ("input=in.bed", "fasta=genome.fa", "output=out.tsv", "length=47", "window=20", "stride=10")
    code, _, error = predict(*settings)
    assert code == 0, error
    rows = rows_of("out.tsv")
    assert [row["strand"] for row in rows] == ["-"] * 4 + ["+"] * 4
    assert [place(row) for row in rows[:4]] == [(77, 97), (67, 87), (57, 77), (50, 70)]
    assert [place(row) for row in rows[4:]] == [(50, 70), (60, 80), (70, 90), (77, 97)]
    pieces = [genome[slice(*place(row))] for row in rows]
    turned = [reverse_complement(piece.encode()).decode() for piece in pieces[:4]]
    same(scores(rows), alone(turned + pieces[4:]))


def test_windows_cover_a_record_without_gaps():
    for length in range(1, 40):
        pieces = list(windows(Record("x", bases(length).encode()), 10, 7))
        covered = {i for piece in pieces for i in range(piece.start, piece.end)}
        assert covered == set(range(length))
        assert all(len(piece.sequence) == min(10, length) for piece in pieces)
        assert len({piece.start for piece in pieces}) == len(pieces)


def test_both_strands_are_the_mean_of_their_logits_and_alike_from_either():
    pipeline = model()
    sequences = [bases(n, n).encode() for n in (12, 30, 5)]
    turned = [reverse_complement(sequence) for sequence in sequences]
    forward, backward = ([Record("x", s) for s in side] for side in (sequences, turned))
    one = Predictor(pipeline, "cpu", both_strands=False)
    plain, other = one(forward), one(backward)
    assert (plain - other).abs().max() > 1e-3  # one strand alone is not symmetric
    both = Predictor(pipeline, "cpu", both_strands=True)
    torch.testing.assert_close(both(forward), both(backward), rtol=0, atol=1e-6)
    # log p is the logits less a constant of the record, which the softmax takes away again.
    torch.testing.assert_close(both(forward), ((plain.log() + other.log()) / 2).softmax(1), rtol=0, atol=1e-6)


def test_a_bed_gets_the_windows_of_training_unless_told_otherwise(predict):
    genome = bases(200)
    Path("genome.fa").write_text(f">chr1\n{genome}\n")
    Path("in.bed").write_text("chr1\t100\t104\tx\t0\t+\nchr1\t60\t90\nchr1\t2\t6\n")
    bed = ("input=in.bed", "fasta=genome.fa")
    assert predict(*bed, "output=out.tsv")[0] == 0
    rows = rows_of("out.tsv")
    assert [place(row) for row in rows] == [(87, 117), (60, 90), (-11, 19)]
    same(scores(rows), alone([genome[87:117], genome[60:90], "N" * 11 + genome[:19]]))

    assert predict(*bed, "output=out.tsv", "length=10")[0] == 0
    assert [place(row) for row in rows_of("out.tsv")] == [(97, 107), (70, 80), (-1, 9)]

    old = model()
    del old.recipe["facts"]["length"]  # a checkpoint from before lengths were kept
    save(old, "old.ckpt")
    assert predict(*bed, "output=out.tsv", ckpt="old.ckpt")[0] == 0
    assert [place(row) for row in rows_of("out.tsv")] == [(100, 104), (60, 90), (2, 6)]


def test_a_checkpoint_carries_the_window_of_its_intervals():
    intervals = IntervalSource(fasta="genome.fa", intervals="in.bed", length=30)
    assert ClassificationData(intervals, CharacterTokenizer()).facts()["length"] == 30
    table = TableSource(train="train.csv")
    assert ClassificationData(table, CharacterTokenizer()).facts()["length"] is None


def test_every_format_gives_the_same_numbers(predict):
    sequences = [bases(n, n) for n in (10, 33, 21)]
    fasta = "".join(f">row{i}\n{sequence}\n" for i, sequence in enumerate(sequences, 1))
    Path("in.fa").write_text(fasta)
    Path("zipped.fa.gz").write_bytes(gzip.compress(fasta.encode()))
    Path("in.tsv").write_text("sequence\n" + "\n".join(sequences) + "\n")
    pq.write_table(pa.table({"dna": sequences, "id": ["row1", "row2", "row3"]}), "in.parquet")
    results = []
    for name, output, *more in (
        ("in.fa", "fasta.tsv"),
        ("zipped.fa.gz", "zipped.tsv.gz"),
        ("in.tsv", "tsv.tsv"),
        ("in.parquet", "parquet.tsv", "sequence_column=dna", "name_column=id"),
    ):
        code, _, error = predict(f"input={name}", f"output={output}", *more)
        assert code == 0, error
        results.append(rows_of(output))
    assert Path("zipped.tsv.gz").read_bytes().startswith(b"\x1f\x8b")
    assert [row["name"] for row in results[0]] == ["row1", "row2", "row3"]
    assert all(result == results[0] for result in results[1:])
    same(scores(results[0]), alone(sequences))


def test_records_are_read_no_further_ahead_than_a_batch(predict, monkeypatch):
    read = written = furthest = 0

    def endless(path, **_):
        nonlocal read, furthest
        for i in range(100):
            read += 1
            furthest = max(furthest, read - written)
            yield Record(f"r{i}", b"ACGTACGT")

    original = ssmbio.predict.prediction_row

    def counted(*arguments):
        nonlocal written
        written += 1
        return original(*arguments)

    monkeypatch.setattr(ssmbio.predict, "iter_records", endless)
    monkeypatch.setattr(ssmbio.predict, "prediction_row", counted)
    assert predict("input=in.fa", "output=out.tsv", "batch_size=7")[0] == 0
    assert (read, written, furthest) == (100, 100, 7)
    assert len(rows_of("out.tsv")) == 100


def test_nothing_is_written_over_what_is_read(predict):
    Path("q.fa").write_text(">a\nACGT\n")
    Path("linked.fa").symlink_to("q.fa")
    Path("q.bed").write_text("chr1\t0\t4\n")
    Path("genome.fa").write_text(">chr1\nACGTACGT\n")
    ckpt = Path("model.ckpt").read_bytes()
    for arguments, word in (
        (("input=q.fa", "output=q.fa"), "input"),
        (("input=q.fa", "output=./linked.fa"), "input"),
        (("input=q.bed", "fasta=genome.fa", "output=genome.fa"), "fasta"),
        (("input=q.fa", "output=model.ckpt"), "ckpt"),
    ):
        code, _, error = predict(*arguments)
        assert code == 1
        assert len(error.splitlines()) == 1
        assert f"is the {word} itself" in error
    assert Path("q.fa").read_text() == ">a\nACGT\n"
    assert Path("genome.fa").read_text() == ">chr1\nACGTACGT\n"
    assert Path("model.ckpt").read_bytes() == ckpt


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("window=abc", ("window=abc", "set window to")),
        ("stride=abc", ("stride=abc", "set stride to")),
        ("length=0", ("length=0", "set length to")),
        ("batch_size=2.5", ("batch_size=2.5", "set batch_size to")),
        ("batch_size=null", ("batch_size=None", "set batch_size to")),
        ("both_strands=7", ("both_strands=7", "true, false")),
        ("output=folder", ("output=folder", "is a folder", "folder/predictions.tsv")),
    ],
)
def test_bad_settings_are_one_line(predict, setting, words):
    Path("folder").mkdir()
    Path("q.fa").write_text(">a\nACGT\n")
    code, output, error = (
        predict("input=q.fa", "output=out.tsv", setting) if "output" not in setting else predict("input=q.fa", setting)
    )
    assert code == 1
    assert output == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not Path("out.tsv").exists()


def test_the_result_is_one_line(predict):
    Path("q.fa").write_text(">a\nACGT\n")
    assert predict("input=q.fa", "output=out.tsv") == (0, "1 predictions in out.tsv\n", "")


@pytest.mark.parametrize(
    "setting", ["largest=0", "smallest=abc", "largest=40", "smallest=5 largest=4", "both_strands=yea"]
)
def test_bad_sizes_of_the_baseline_are_one_line(predict, setting):
    Path("t.csv").write_text("sequence,label\nACGT,a\nACCT,b\n")
    code, _, error = predict("data=table", "data.train=t.csv", *setting.split(), name="baseline")
    assert code == 1
    assert error.count("\n") == 1
    assert setting.split()[0] in error
    assert "set " in error


def test_the_baseline_refuses_images_in_one_line(predict):
    assert predict("data=shapes", name="baseline") == (
        1,
        "",
        "error: these data are neither sequences nor audio; choose others, as data=table data.train=<file>.\n",
    )


def test_names_stay_in_their_cells():
    assert prediction_header(["a\tb"]).split("\t")[-1] == "p_a b\n"
    row = prediction_row(Record("x\ty\n z", b"AC"), "a\tb", [0.25, 1.0])
    assert row == "x y z\t0\t2\t+\ta b\t0.25\t1\n"


@pytest.mark.parametrize("problem", ["multiclass", "multilabel"])
def test_class_weights_of_the_data_reach_the_loss(problem):
    weights = [0.5, 4.0, 1.5]
    pipeline = model(class_weights=weights, problem=problem)
    plain = model(problem=problem)
    ids = torch.randint(7, 11, (4, 12), generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 1, 2, 1])
    labels = torch.nn.functional.one_hot(classes, 3).float() if problem == "multilabel" else classes
    batch = Batch(ids=ids, lengths=torch.full((4,), 12), index=torch.arange(4), full=True, labels=labels)
    with torch.no_grad():
        logits = pipeline(batch["ids"], batch["lengths"])
        found, unweighted = pipeline.loss(batch), plain.loss(batch)
    if problem == "multiclass":
        weight = torch.tensor(weights)[classes]
        expected = -(weight * logits.log_softmax(1)[torch.arange(4), classes]).sum() / weight.sum()
    else:
        gain, lost = logits.sigmoid().log(), (-logits).sigmoid().log()
        expected = -(torch.tensor(weights) * labels * gain + (1 - labels) * lost).mean()
    torch.testing.assert_close(found, expected)
    assert abs(float(found - unweighted)) > 1e-3


def test_a_record_beyond_the_maximum_says_which_window_would_do(predict):
    Path("q.fa").write_text(f">ok\n{bases(60)}\n>long\n{bases(61)}\n")
    code, _, error = predict("input=q.fa", "output=out.tsv")
    assert code == 1
    for word in ("long", "61", "60", "window=60"):
        assert word in error
    assert predict("input=q.fa", "output=out.tsv", "window=60")[0] == 0
