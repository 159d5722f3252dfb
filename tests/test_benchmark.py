"""`python -m ssmbio.benchmark kernels`, at sizes that take no time: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import importlib
import json
import sys

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from ssmbio.benchmark import with_first_word
from ssmbio.benchmarking import kernels
from ssmbio.benchmarking.report import digits
from ssmbio.benchmarking.roofline import Peaks

PEAKS = Peaks(bytes=1e10, exponentials=1e9, products=1e11)
ALONG_LENGTH = (
    *("selective_scan", "causal_conv1d", "mamba", "bimamba"),
    *("lti_scan", "fft_convolution", "s4d"),
)
QUICK = ("kernels", "device=cpu", "repeats=2", "lengths=[8,32]", "out=result")
FAKE = """
import time
def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    time.sleep(0.05)
    parts = (delta, A, B, C, D, z, delta_bias)
    return u + sum(part.sum() for part in parts)
"""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the entry point as `python -m` does, in an empty folder; gives (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kernels, "measure_peaks", lambda device, dtype: PEAKS)

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


@pytest.fixture
def absent(monkeypatch):
    """No peer is installed, whatever this machine has."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("mamba_ssm", "fla", "causal_conv1d") else find(name, *rest),
    )


def as_csv(value) -> str:
    return "" if value is None else str(value)


def test_json_csv_and_lines_agree(command, tmp_path, absent):
    code, output, error = command(*QUICK)
    assert (code, error) == (0, "")
    result = json.loads((tmp_path / "result" / "kernels.json").read_text())
    rows = result["rows"]
    with open(tmp_path / "result" / "kernels.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{name: as_csv(value) for name, value in row.items()} for row in rows] == table

    ours = [row for row in rows if row["implementation"] == "ssmbio"]
    passes = ("forward", "forward+backward")
    assert [(row["op"], row["passes"]) for row in ours] == [
        *((op, each) for op in ALONG_LENGTH for _ in (8, 32) for each in passes),
        ("decode", "forward"),
    ]
    printed = [
        line for line in output.splitlines() if line.split()[0] in {row["op"] for row in ours} and " B1 " in line
    ]
    assert len(printed) == len(ours)
    for line, row in zip(printed, ours, strict=True):
        words = line.split()
        assert words[0] == row["op"]
        assert f"L{row['length']} " in line
        assert digits(row["ms"]) in words
        assert digits(row["gb_per_s"]) in words
        assert f"{row['share']:.0%}" in words
        assert row["bound"] in words
        beside = [r for r in rows if r["ratio"] is not None and all(r[k] == row[k] for k in ("op", "length", "passes"))]
        for peer in beside:
            assert f"{peer['implementation']} {digits(peer['ratio'])}×" in line
            assert peer["ratio"] == pytest.approx(peer["ms"] / row["ms"])
    assert (tmp_path / "result" / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kernels.csv", "kernels.json", "kernels.png", "result"]


def test_the_result_says_on_what_and_how(command, tmp_path):
    command(*QUICK, "ops=[causal_conv1d]", "peers=[]")
    result = json.loads((tmp_path / "result" / "kernels.json").read_text())
    assert result["command"] == (
        "python -m ssmbio.benchmark kernels device=cpu repeats=2 'lengths=[8,32]' out=result "
        "'ops=[causal_conv1d]' 'peers=[]'"
    )
    assert result["complete"] is True
    assert result["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert result["hardware"]["threads"] == torch.get_num_threads()
    assert result["hardware"]["processor"]
    assert result["date"].endswith("+00:00")
    assert result["peaks_per_second"] == PEAKS._asdict()
    assert {row["implementation"] for row in result["rows"]} == {"ssmbio"}


def test_the_loop_is_compared_on_a_cpu(command, tmp_path):
    command("kernels", "device=cpu", "ops=selective_scan", "peers=loop", "lengths=256", "repeats=3", "out=result")
    rows = json.loads((tmp_path / "result" / "kernels.json").read_text())["rows"]
    assert [(row["implementation"], row["passes"]) for row in rows] == [
        (name, passes) for passes in ("forward", "forward+backward") for name in ("ssmbio", "loop")
    ]
    assert all(row["ratio"] > 0 for row in rows if row["implementation"] == "loop")


def test_absent_peers_are_named(command, absent):
    _, output, _ = command(*QUICK, "ops=[selective_scan,causal_conv1d]")
    (line,) = (line for line in output.splitlines() if line.startswith("not installed"))
    assert line.endswith("mamba-ssm, flash-linear-attention, causal-conv1d")


def test_an_installed_peer_is_measured(command, tmp_path, monkeypatch):
    folder = tmp_path.parent / f"{tmp_path.name}_packages" / "mamba_ssm" / "ops"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (folder / "selective_scan_interface.py").write_text(FAKE)
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder.parent.parent))
    try:
        code, output, _ = command(*QUICK, "ops=[selective_scan]", "peers=[mamba-ssm]")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
    assert code == 0
    rows = json.loads((tmp_path / "result" / "kernels.json").read_text())["rows"]
    theirs = [row for row in rows if row["implementation"] == "mamba-ssm"]
    assert len(theirs) == 4
    assert all(row["status"] == "measured" and row["ms"] > 50 for row in theirs)
    assert "mamba-ssm" in output.splitlines()[2]
    assert "not installed" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["what to measure is not said", "ssmbio.benchmark kernels"]),
        (("kernel",), ["`kernel` cannot be measured", "did you mean python -m ssmbio.benchmark kernels"]),
        (("zzz",), ["`zzz` cannot be measured", "kernels and model"]),
        (("modle",), ["did you mean python -m ssmbio.benchmark model"]),
        (("kernels", "ops=[selectiv_scan]"), ["ops=selectiv_scan", "did you mean selective_scan"]),
        (("kernels", "ops=[]"), ["ops is empty"]),
        (("kernels", "ops=null"), ["ops is empty"]),
        (("kernels", "ops=5"), ["ops=5 does not exist"]),
        (("kernels", "ops=[[mamba]]"), ["does not exist"]),
        (("kernels", "peers=[mamba_ssm]"), ["peers=mamba_ssm", "did you mean mamba-ssm"]),
        (("kernels", "device=gpu"), ["device=gpu does not exist", "auto, cpu, cuda"]),
        (("kernels", "device=cdua"), ["did you mean cuda"]),
        (("kernels", "dtype=bf16"), ["dtype=bf16", "bfloat16"]),
        (("kernels", "lengths=[0]"), ["lengths=[0]"]),
        (("kernels", "lengths=long"), ["lengths=long"]),
        (("kernels", "lengths=[]"), ["lengths=[]"]),
        (("kernels", "repeats=0"), ["repeats=0"]),
        (("kernels", "repeats=true"), ["repeats=True"]),
        (("kernels", "seconds=-1"), ["seconds=-1"]),
        (("kernels", "seconds=abc"), ["seconds=abc"]),
        (("kernels", "out=null"), ["out=None"]),
        (("kernels", "length=[8]"), ["unknown key length", "did you mean lengths"]),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(command, arguments, words, tmp_path):
    code, output, error = command(*arguments)
    assert code == 1
    assert output == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(command, tmp_path):
    code, _, error = command("kernels", "device=cuda")
    assert (code, error) == (1, "error: device=cuda, and no CUDA GPU is seen here; choose device=cpu.\n")


def test_a_result_is_not_overwritten(command, tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "kernels.csv").write_text("mine")
    code, _, error = command(*QUICK)
    assert code == 1
    assert "result: it holds a result already" in error
    assert (tmp_path / "result" / "kernels.csv").read_text() == "mine"


def test_an_output_that_cannot_be_is_found_out_at_once(command, tmp_path):
    (tmp_path / "file").touch()
    code, output, error = command("kernels", "device=cpu", "out=file/below")
    assert (code, output) == (1, "")
    assert "is a file" in error


def test_what_was_measured_outlives_a_failure(command, tmp_path, monkeypatch):
    """The second op fails with a bug: the first one's figures are written, and marked as not all."""
    measure = kernels.measure

    def failing(op, case, *rest):
        if case.op == "causal_conv1d":
            raise RuntimeError("a bug")
        return measure(op, case, *rest)

    monkeypatch.setattr(kernels, "measure", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        command(*QUICK, "ops=[selective_scan,causal_conv1d]", "peers=[]")
    result = json.loads((tmp_path / "result" / "kernels.json").read_text())
    assert result["complete"] is False
    assert {row["op"] for row in result["rows"]} == {"selective_scan"}


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["kernels", "device=cpu"], ["what=kernels", "device=cpu"]),
        (["--help"], ["--help"]),
        (["device=cpu", "kernels"], ["device=cpu", "kernels"]),
        ([], []),
    ],
)
def test_only_the_first_word_is_what(arguments, passed_on):
    assert with_first_word(arguments) == passed_on


def test_help(command):
    code, output, _ = command("--help")
    assert code == 0
    assert "python -m ssmbio.benchmark kernels" in output
    for key in ("ops", "peers", "lengths", "repeats", "seconds", "dtype", "out"):
        assert f"\n{key}:" in output


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_on_a_gpu_every_op_has_times_memory_and_a_roofline(command, tmp_path, dtype):
    arguments = ("device=cuda", "lengths=[4096,16384]", "repeats=3", "peers=[]", f"dtype={dtype}", "out=result")
    code, _, error = command("kernels", *arguments)
    assert (code, error) == (0, "")
    rows = json.loads((tmp_path / "result" / "kernels.json").read_text())["rows"]
    assert {row["op"] for row in rows} == {*ALONG_LENGTH, "decode"}
    for row in rows:
        assert row["status"] == "measured", row
        assert row["ms"] > 0
        assert row["peak_gib"] is not None
