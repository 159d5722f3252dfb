"""Every fault of a file, met through the commands: one line that names file, place and mend; exit code 1; no litter."""

from __future__ import annotations

import gzip
import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

GOOD = "sequence,label\n" + "ACGTACGTAA,a\nACGTTTGTAA,b\n" * 6
FASTA = ">chr1\n" + "ACGTACGTAC\n" * 10
SMALL = ("task=dna_classify", "model.d_model=4", "model.n_layers=1", "trainer.max_epochs=1", "trainer.accelerator=cpu")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(GOOD)
    Path("genome.fa").write_text(FASTA)

    def command(name: str, *arguments: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = 0
        try:
            importlib.import_module(f"ssmbio.{name}").main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, capsys.readouterr().err

    return command


def expect_one_line(result: tuple[int, str], *words: str) -> None:
    code, error = result
    assert code == 1, error
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    for word in words:
        assert word in lines[0]


TABLES = {
    "missing": (None, ["bad.csv", "no such file"]),
    "empty": (b"", ["bad.csv", "empty"]),
    "header only": (b"sequence,label\n", ["bad.csv"]),
    "binary": (bytes(range(256)) * 8, ["bad.csv", "binary"]),
    "no such column": (b"seq,label\nACGT,a\n", ["bad.csv", "line 1", "'sequence'", "there are seq, label"]),
    "empty sequence": (b"sequence,label\nACGT,a\n,b\n", ["bad.csv", "line 3", "empty"]),
    "letters outside IUPAC": (b"sequence,label\nACGT,a\nACXT,b\n", ["bad.csv", "line 3", "X", "3"]),
    "one class only": (b"sequence,label\nACGT,a\nACCT,a\n", ["one class"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_faults_of_a_training_table(run, case):
    content, words = TABLES[case]
    if content is not None:
        Path("bad.csv").write_bytes(content)
    expect_one_line(run("train", *SMALL, "data=table", "data.train=bad.csv", "run_dir=out"), *words)
    assert not Path("out").exists()


def test_truncated_gzip(run):
    whole = gzip.compress((GOOD * 50).encode())
    Path("cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    expect_one_line(run("train", *SMALL, "data=table", "data.train=cut.csv.gz"), "cut.csv.gz", "truncated")


def test_a_label_that_train_lacks(run):
    Path("val.csv").write_text("sequence,label\nACGT,a\nACCT,c\n")
    result = run("train", *SMALL, "data=table", "data.train=good.csv", "data.val=val.csv", "run_dir=out")
    expect_one_line(result, "val.csv, line 3", "'c'")
    assert not Path("out").exists()


SETTINGS_OF_MIXERS = {
    "s4": ("dropout=nan", "dropout must be a number from 0 to 1; got nan"),
    "s4d": ("lr=-1", "lr must be null, or at least 0 and finite; got -1"),
    "dss": ("dt_max=inf", "dt_min and dt_max must be finite numbers with 0 < dt_min <= dt_max; got (0.001, inf)"),
    "s5": ("bidirectional=7", "bidirectional must be true or false; got 7"),
    "gss": ("d_state=8.0", "d_state must be even, whole and at least 2, for states come in conjugate pairs; got 8.0"),
    "h3": ("d_shift=abc", "d_shift must be at least 1 and whole; got 'abc'"),
    "hyena": ("l_max=20.5", "l_max must be at least 1 and whole; got 20.5"),
    "mamba": ("dt_rank=0", "dt_rank must be at least 1 and whole; got 0"),
    "bimamba": ("expand=-1", "expand must be positive and finite; got -1"),
}


@pytest.mark.parametrize("mixer", SETTINGS_OF_MIXERS)
def test_settings_of_a_mixer_name_themselves_and_their_range(run, mixer):
    setting, told = SETTINGS_OF_MIXERS[mixer]
    arguments = ("data=table", "data.train=good.csv", f"model/mixer={mixer}", f"model.mixer.{setting}", "run_dir=out")
    expect_one_line(run("train", *SMALL, *arguments), told)
    assert not Path("out").exists()


BEDS = {
    "off the end": ("chr1\t90\t120\ta\n", ["line 1", "chr1", "100"]),
    "unknown contig": ("chr2\t0\t10\ta\n", ["line 1", "chr2", "chr1"]),
    "start after end": ("chr1\t20\t10\ta\n", ["line 1", "20", "10"]),
    "negative": ("chr1\t-5\t10\ta\n", ["line 1", "-5"]),
    "not a number": ("chr1\tx\t10\ta\n", ["line 1", "x"]),
}


@pytest.mark.parametrize("case", BEDS)
def test_faults_of_intervals(run, case):
    text, words = BEDS[case]
    Path("bad.bed").write_text(text)
    arguments = ("data=fasta_bed", "data.fasta=genome.fa", "data.intervals=bad.bed", "run_dir=out")
    expect_one_line(run("train", *SMALL, *arguments), "bad.bed", *words)
    assert not Path("out").exists()


def test_plain_gzip_where_bgzip_is_needed(run):
    Path("genome.fa.gz").write_bytes(gzip.compress(FASTA.encode()))
    Path("ok.bed").write_text("chr1\t0\t10\ta\nchr1\t5\t15\tb\n")
    result = run("train", *SMALL, "data=fasta_bed", "data.fasta=genome.fa.gz", "data.intervals=ok.bed")
    expect_one_line(result, "genome.fa.gz", "bgzip")


@pytest.fixture
def trained(run):
    code, error = run("train", *SMALL, "data=table", "data.train=good.csv", "run_dir=run", "data.max_length=50")
    assert code == 0, error
    return "ckpt=run"


FASTAS = {
    "letters outside IUPAC": (b">a\nACGT\n>b\nAC!T\n", ["bad.fa", "'b'", "!"]),
    "duplicate names": (b">a\nACGT\n>a\nACGT\n", ["bad.fa", "'a'"]),
    "sequence before a header": (b"ACGT\n>a\nACGT\n", ["bad.fa", "line 1"]),
    "longer than the model's maximum": (b">a\n" + b"A" * 51 + b"\n", ["51", "50", "window="]),
    "empty": (b"", ["bad.fa", "empty"]),
}


@pytest.mark.parametrize("case", FASTAS)
def test_faults_of_a_file_to_predict(run, trained, case):
    content, words = FASTAS[case]
    Path("bad.fa").write_bytes(content)
    before = set(Path().iterdir())
    expect_one_line(run("predict", trained, "input=bad.fa", "output=out.tsv"), *words)
    assert set(Path().iterdir()) == before


def test_settings_of_prediction(run, trained):
    Path("ok.fa").write_text(FASTA)
    expect_one_line(run("predict", trained, "input=ok.fa", "window=0"), "window=0")
    expect_one_line(run("predict", trained, "input=ok.fa", "stride=5"), "stride", "window")
    expect_one_line(run("predict", trained, "input=ok.xyz"), ".xyz")
    expect_one_line(run("predict", trained, "input=ok.fa", "device=tpu"), "device=tpu")


def test_windows_line_ends_and_a_missing_last_newline_just_work(run, trained):
    Path("crlf.fa").write_bytes(b">a\r\nACGT\r\nAC\r\n>b\r\nACGTAA")
    Path("lf.fa").write_bytes(b">a\nACGT\nAC\n>b\nACGTAA\n")
    for name in ("crlf", "lf"):
        assert run("predict", trained, f"input={name}.fa", f"output={name}.tsv")[0] == 0
    assert Path("crlf.tsv").read_bytes() == Path("lf.tsv").read_bytes()
    assert Path("lf.tsv").read_text().splitlines()[1].startswith("a\t0\t6\t+\t")


def test_a_disk_that_fills_leaves_nothing_half_written(run, trained):
    """The kernel refuses to let a file grow past 64 KiB, as a full disk refuses any growth."""
    Path("many.fa").write_text("".join(f">record{i}\nACGTACGTACGT\n" for i in range(3000)))
    before = set(Path().iterdir())

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    command = [sys.executable, "-m", "ssmbio.predict", trained, "input=many.fa", "output=out.tsv", "batch_size=500"]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files)
    expect_one_line((result.returncode, result.stderr), "out.tsv", "cannot be written")
    assert set(Path().iterdir()) == before
