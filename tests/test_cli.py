"""The command line: help that helps, and one line for every mistake."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from ssmbio.cli import one_line_errors


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs an entry point as `python -m` does, in an empty folder; gives (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = 0
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = exit_.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=dna_classify", "trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean trainer.max_epochs"]),
        (["task=dna_classify", "optimizer.learning_rat=3"], ["unknown key optimizer.learning_rat"]),
        (["task=dna_classify", "trainr.max_epochs=3"], ["did you mean trainer.max_epochs"]),
        (["task=dna_classify", "modle=stack"], ["modle", "did you mean model"]),
        (["task=dna_clasify"], ["task=dna_clasify does not exist", "did you mean task=dna_classify"]),
        (["task=dna_classify", "model/mixer=mambo"], ["did you mean model/mixer=mamba"]),
        ([], ["task is not set", "task=dna_classify"]),
        (["task=dna_classify", "data=table"], ["data.train is not set", "data.train=…"]),
        (["task=dna_classify", "trainer.max_epochs"], ["trainer.max_epochs"]),
        (["task=dna_classify", "model.bidirectional=true"], ["model.bidirectional=false"]),
        (["task=dna_classify", "task.pooling=median"], ["mean, last, max, attention"]),
        (["task=dna_classify", "callbacks=null"], ["a group cannot be null"]),
        (["task=dna_classify", "optimizer.lr=abc"], ["optimizer and scheduler"]),
        (["task=dna_classify", "scheduler.warmup=-1"], ["warmup must not be negative"]),
        (["task=dna_classify", "seed=-1"], ["seed=-1 is no seed"]),
        (["task=dna_classify", "data.num_workers=-1"], ["data: "]),
        (["task=dna_classify", "trainer.accelerator=gpu2"], ["trainer: ", "gpu2"]),
        (["task=dna_classify", "trainer.devices=0"], ["trainer: "]),
        (["task=dna_classify", "callbacks.monitor=val/los"], ["did you mean 'val/loss'"]),
        (["task=dna_classify", "model.n_layers=0"], ["n_layers must be at least 1"]),
        (["task=dna_classify", "model.mixer.d_conv=9"], ["d_conv must be from 2 to 8"]),
        (["task=dna_classify", "task.label_smoothing=3"], ["label_smoothing"]),
        (["ckpt=last", "run_dir=nowhere"], ["nowhere", "run_dir"]),
        (["ckpt=last"], ["run_dir"]),
        (["task=dna_classify", "init_from=nothing.ckpt"], ["nothing.ckpt", "no such checkpoint"]),
    ],
)
def test_mistakes_on_the_command_line_get_one_line(command, arguments, words, tmp_path):
    code, _, error = command("train", *arguments)
    lines = [line for line in error.splitlines() if line.strip()]
    assert code == 1
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_data_before_data_are_chosen(command):
    code, _, error = command("evaluate", "ckpt=x", "data.test=y.csv")
    assert code == 1
    assert "choose data=<group> too" in error


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "generate", "baseline", "benchmark"])
def test_help_names_the_command_and_every_key(command, name):
    code, output, _ = command(name, "--help")
    assert code == 0
    assert f"python -m ssmbio.{name}" in output
    tasks = "task: audio_classify, audio_generate, dna_classify, pixel_classify, sequence_classify"
    expected = {
        "train": ("run_dir", "init_from", tasks),
        "evaluate": ("trust", "task=audio_quality"),
        "predict": ("window", "both_strands"),
        "generate": ("temperature", "prompt_seconds", "stream"),
    }
    for key in expected.get(name, ()):
        assert key in output


def test_cfg_job_prints_the_whole_configuration(command, tmp_path):
    code, output, _ = command("train", "task=dna_classify", "model.d_model=48", "--cfg", "job")
    assert code == 0
    assert "d_model: 48" in output
    assert "_target_: ssmbio.mixers.BiMamba" in output
    assert list(tmp_path.iterdir()) == []


def test_python_dash_m_prints_no_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "ssmbio.train", "task=dna_clasify"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "did you mean task=dna_classify" in result.stderr


def test_a_reader_that_leaves_is_no_fault() -> None:
    command = f"set -o pipefail; {sys.executable} -m ssmbio.train --help | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")


def test_another_pipe_that_breaks_is_one(capsys) -> None:
    with pytest.raises(SystemExit), one_line_errors("train"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "events")
    assert capsys.readouterr().err.startswith("error: events: Broken pipe")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            MemoryError("Unable to allocate 9 PiB for an array"),
            "Unable to allocate 9 PiB for an array; make fewer clips",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
            "allocate 2 GiB; make fewer",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory:\n9 bytes"),
            "memory: 9 bytes; make fewer",
        ),
    ],
)
def test_memory_that_ran_out_is_told_in_one_line(error, told, capsys) -> None:
    with pytest.raises(SystemExit), one_line_errors("generate"):
        raise error
    message = capsys.readouterr().err
    assert message.startswith("error: out of memory: ")
    assert told in message
    assert message.count("\n") == 1


def test_other_faults_of_ours_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="shapes"), one_line_errors("train"):
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize(("number", "space"), [(errno.ENOSPC, True), (errno.ENOENT, False)])
def test_more_space_is_asked_for_where_there_is_none(number, space, capsys) -> None:
    with pytest.raises(SystemExit), one_line_errors("train"):
        raise OSError(number, os.strerror(number), "out.tsv")
    assert ("free some space" in capsys.readouterr().err) is space


@pytest.mark.parametrize("target", ["nope.Such", "ssmbio.data.tokenizers.Nope", "null"])
def test_a_class_that_is_not_there_is_one_line(tmp_path, target):
    arguments = ("task=dna_classify", f"data.tokenizer._target_={target}", "run_dir=run")
    command = [sys.executable, "-m", "ssmbio.train", *arguments]  # apart, for what libraries log
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "tokenizer._target_ names no class that can be imported" in result.stderr
    assert list(tmp_path.iterdir()) == []
