"""`python -m ssmbio.benchmark model`, at sizes that take no time: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from ssmbio.benchmarking import model as module
from ssmbio.benchmarking.report import digits

ROOT = Path(__file__).parent.parent
TINY = (
    *("model", "device=cpu", "model.d_model=8", "model.n_layers=1", "lengths=[32,64]", "batch_sizes=[1,3]"),
    *("repeats=2", "seconds=0.1", "out=result"),
)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the entry point as `python -m` does, in an empty folder; gives (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
        code = 0
        try:
            importlib.import_module("ssmbio.benchmark").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run


def result(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "result" / "model.json").read_text())


def as_csv(value) -> str:
    return "" if value is None else str(value)


def test_json_csv_and_lines_agree(command, tmp_path):
    code, output, error = command(*TINY)
    assert (code, error) == (0, "")
    found = result(tmp_path)
    rows = found["rows"]
    with open(tmp_path / "result" / "model.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{name: as_csv(value) for name, value in row.items()} for row in rows] == table
    assert [(row["part"], row["way"], row["batch"]) for row in rows] == [
        ("training", "plain", 128),  # as many clips as make 4,096 samples
        ("training", "plain", 64),
        ("generation", "ssmbio", 1),
        ("generation", "loop", 1),
        ("generation", "ssmbio", 3),
        ("generation", "loop", 3),
    ]
    printed = [line.split() for line in output.splitlines() if line.startswith(("training ", "generation "))]
    ours = [row for row in rows if row["way"] != "loop"]
    assert len(printed) == len(ours)
    for words, row in zip(printed, ours, strict=True):
        assert words[:2] == [row["part"], f"B{row['batch']}"]
        assert digits(row["ms"]) in words
        assert digits(row["first_call_s"]) in words
    for words, peer in zip(printed[2:], rows[3::2], strict=True):
        assert words[-2:] == ["loop", f"{digits(peer['ratio'])}×"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.csv", "model.json", "result"]


def test_rows_are_complete_and_follow_from_their_times(command, tmp_path):
    command(*TINY)
    rows = result(tmp_path)["rows"]
    for row in rows:
        assert row["status"] == "measured"
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["calls"] == 2 or row["calls"] >= 3
        assert row["length"] in ((32, 64) if row["part"] == "training" else (1,))
        assert row["samples_per_s"] == pytest.approx(1e3 * row["batch"] * row["length"] / row["ms"])
        assert row["first_call_s"] > 0
        assert row["peak_gib"] is None
    for ours, loop in zip(rows[2::2], rows[3::2], strict=True):
        assert ours["real_time"] == pytest.approx(ours["samples_per_s"] / 16000)
        assert loop["ratio"] == pytest.approx(loop["ms"] / ours["ms"])
        assert loop["ratio"] > 2  # the packed step against Python


def test_the_result_says_of_what_and_how(command, tmp_path):
    mixer = "model/mixer@model.mixers.centre=mamba"
    arguments = (
        "model=sashimi_unet",
        mixer,
        "parts=training",
        "ways=[plain,checkpointing]",
        "clips=2",
        "sample_rate=8000",
    )
    code, output, error = command(*TINY, *arguments)
    assert (code, error) == (0, "")
    found = result(tmp_path)
    assert found["complete"] is True
    assert found["command"].startswith("python -m ssmbio.benchmark model device=cpu")
    assert mixer in found["command"]
    assert found["model"]["name"] == "sashimi_unet"
    assert found["model"]["settings"]["mixers"]["centre"]["_target_"] == "ssmbio.mixers.Mamba"
    assert found["model"]["settings"]["unet"] is True
    assert f"{found['model']['parameters']:,} parameters" in output
    assert found["sample_rate"] == 8000
    assert [(row["way"], row["batch"], row["length"]) for row in found["rows"]] == [
        *(("plain", 2, 32), ("checkpointing", 2, 32)),
        *(("plain", 2, 64), ("checkpointing", 2, 64)),
    ]
    assert "checkpointing: layers recomputed" in output


def test_checkpointing_is_that_of_the_model(command, monkeypatch):
    seen = []

    class Seen(module.TrainingStep):
        def __init__(self, pipeline, *rest):
            seen.append(pipeline.backbone.stage("centre").activation_checkpointing)
            super().__init__(pipeline, *rest)

    monkeypatch.setattr(module, "TrainingStep", Seen)
    command(*TINY, "parts=training", "ways=[plain,checkpointing]")
    assert seen == [False, True] * 2


@pytest.mark.parametrize("good", [0, 3])
def test_a_step_out_of_memory_is_a_line(command, monkeypatch, tmp_path, good):
    """At once, or while it is timed."""

    class Large(module.TrainingStep):
        made = 0

        def __call__(self):
            self.made += 1
            if self.made > good:
                raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "TrainingStep", Large)
    code, output, _ = command(*TINY, "parts=training")
    assert code == 0
    assert output.count("out of memory") == 2
    assert [(row["status"], row["ms"]) for row in result(tmp_path)["rows"]] == [("out of memory", None)] * 2


def test_what_was_measured_outlives_a_failure(command, monkeypatch, tmp_path):
    def failing(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "_generation", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        command(*TINY)
    found = result(tmp_path)
    assert found["complete"] is False
    assert {row["part"] for row in found["rows"]} == {"training"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model=sashmi",), ["model=sashmi does not exist", "did you mean model=sashimi"]),
        (("model/mixer@model.mixers.centre=mamda",), ["did you mean model/mixer=mamba"]),
        (("model=stack",), ["a bidirectional model cannot generate", "model/mixer=s4d"]),
        (("model.d_model=-1",), ["d_model", "-1"]),
        (("model.d_modle=8",), ["unknown key model.d_modle", "did you mean model.d_model"]),
        (("lengths=[8]",), ["lengths=8", "16"]),
        (("lengths=[15,32]",), ["lengths=15", "16"]),
        (("lengths=0",), ["lengths=0 is no list of lengths"]),
        (("lenghts=32",), ["unknown key lenghts", "did you mean lengths"]),
        (("batch_sizes=[0]",), ["batch_sizes=[0]"]),
        (("clips=0",), ["clips=0"]),
        (("sample_rate=slow",), ["sample_rate=slow"]),
        (("parts=train",), ["parts=train", "did you mean training"]),
        (("parts=[]",), ["parts is empty"]),
        (("ways=graphs",), ["ways=graphs", "CPU"]),
        (("ways=fast",), ["ways=fast", "plain, graphs, checkpointing"]),
        (("peers=[fla]",), ["peers=fla", "loop"]),
        (("dtype=float16",), ["dtype=float16", "bfloat16"]),
        (("optimizer.lr=-1",), ["optimizer", "-1"]),
        (("repeats=0",), ["repeats=0"]),
        (("seconds=0",), ["seconds=0"]),
        (("out=null",), ["out=None"]),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(command, arguments, words, tmp_path):
    code, output, error = command("model", "device=cpu", *arguments)
    assert code == 1
    assert output == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(command):
    code, _, error = command("model", "device=cuda")
    assert (code, error) == (1, "error: device=cuda, and no CUDA GPU is seen here; choose device=cpu.\n")


def test_a_result_is_not_overwritten_and_another_one_stays(command, tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "kernels.csv").write_text("of the ops")
    assert command(*TINY, "parts=training")[0] == 0
    code, _, error = command(*TINY, "parts=training")
    assert (code, "result: it holds a result already" in error) == (1, True)
    assert (tmp_path / "result" / "kernels.csv").read_text() == "of the ops"


def test_help(command):
    code, output, _ = command("model", "--help")
    assert code == 0
    for key in ("parts", "lengths", "batch_sizes", "ways", "peers", "model", "out"):
        assert f"\n{key}:" in output


def test_as_a_command_of_its_own(tmp_path):
    """In a process of its own, in another folder, with the model that a CPU gets by default."""
    small = ("device=cpu", "parts=generation", "batch_sizes=1", "peers=[]", "repeats=2", "out=result")
    words = [sys.executable, "-m", "ssmbio.benchmark", "model", *small]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    found = result(tmp_path)
    assert (found["model"]["name"], found["complete"]) == ("sashimi_small", True)
    assert [(row["part"], row["batch"], row["way"]) for row in found["rows"]] == [("generation", 1, "ssmbio")]
    assert "written to result: model.json, model.csv" in done.stdout


@pytest.mark.gpu
def test_on_a_gpu_every_way_has_times_and_memory(command, tmp_path):
    tiny = [word for word in TINY if word != "device=cpu"]
    code, _, error = command(*tiny, "device=cuda", "model=sashimi_small", "ways=all")
    assert (code, error) == (0, "")
    rows = result(tmp_path)["rows"]
    assert [row["way"] for row in rows[:3]] == ["plain", "graphs", "checkpointing"]
    for row in rows:
        assert row["status"] == "measured", row
        assert row["ms"] > 0
        assert row["peak_gib"] > 0
        assert row["dtype"] == {"ssmbio": None, "loop": "float32"}.get(row["way"], "bfloat16")
