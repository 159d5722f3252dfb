from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
from Bio import bgzf

from ssmbio.data import genome as genome_module
from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.bed import Interval
from ssmbio.data.genome import Genome, MemoryGenome
from ssmbio.data.intervals import MAX_WINDOW, IntervalRecords, window
from ssmbio.data.records import RecordSet
from ssmbio.data.sources import IntervalSource
from ssmbio.errors import UserError


def random_contig(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGTNacgtn"), length).tolist())


CONTIGS = {"chr1": random_contig(5003, 1), "chr2": random_contig(960, 2), "chr3": random_contig(7, 3)}


def fasta_text(contigs: dict[str, str], width: int = 60, end: str = "\n") -> str:
    lines = []
    for name, sequence in contigs.items():
        lines += [f">{name} note", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    return end.join(lines) + end


def write_fasta(path: Path, text: str) -> str:
    if path.suffix == ".gz":
        with bgzf.open(str(path), "wb") as stream:
            stream.write(text.encode())
    else:
        path.write_text(text, newline="")
    return str(path)


@pytest.fixture(params=["g.fa", "g.fa.gz", "crlf.fa", "oneline.fa.gz"])
def fasta(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    width, end = (10_000 if "oneline" in request.param else 60), ("\r\n" if "crlf" in request.param else "\n")
    return write_fasta(tmp_path / request.param, fasta_text(CONTIGS, width, end))


def bed(path: Path, *rows: str) -> str:
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows))
    return str(path)


def one_set(fasta: str, intervals: str, length: int | None = None, label_column: int | None = 4) -> RecordSet:
    return IntervalSource(fasta=fasta, intervals=intervals, length=length, label_column=label_column).splits()["train"]


def fault(run: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_genome_gives_every_range(fasta: str) -> None:
    genome = Genome(fasta)
    assert genome.lengths == {name: len(sequence) for name, sequence in CONTIGS.items()}
    draw = np.random.default_rng(0)
    for name, sequence in CONTIGS.items():
        ranges = [sorted(draw.choice(len(sequence) + 1, 2, replace=False).tolist()) for _ in range(200)]
        for start, end in [(0, len(sequence)), (0, 1), (len(sequence) - 1, len(sequence)), *ranges]:
            assert genome.fetch(name, start, end).decode() == sequence[start:end]


def test_bgzip_ranges_that_start_on_a_block(tmp_path: Path) -> None:
    # Biopython's blocks hold 65,536 bytes. The first letter of contig b, and letters of a, fall on the start of one.
    first = random_contig(2 * 65536 - len(">a\n\n>b\n"), 4)
    contigs = {"a": first, "b": random_contig(70_000, 5)}
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items())
    genome = Genome(write_fasta(tmp_path / "g.fa.gz", text))
    for name, sequence in contigs.items():
        for near in (0, 65536 - 3, 65536):
            for start in range(max(near - 3, 0), near + 4):
                assert genome.fetch(name, start, start + 500).decode() == sequence[start : start + 500], (name, start)


def test_intervals_on_their_strand(fasta: str, tmp_path: Path) -> None:
    records = one_set(fasta, bed(tmp_path / "x.bed", "chr1 0 50 a 0 +", "chr2 900 960 b 0 -", "chr3 2 3 a 0 ."))
    assert [record.label for record in records] == records.labels() == ["a", "b", "a"]
    assert records.lengths.tolist() == [50, 60, 1]
    assert records[0].sequence.decode() == CONTIGS["chr1"][:50]
    assert records[1].sequence == reverse_complement(CONTIGS["chr2"][900:].encode())
    second = records[1]
    assert (second.name, second.start, second.end, second.strand) == ("chr2", 900, 960, "-")
    assert records.where(1) == f"{tmp_path / 'x.bed'}, line 2"
    with pytest.raises(IndexError):
        records[3]


def test_windows_are_padded_with_n_beyond_the_contig(fasta: str, tmp_path: Path) -> None:
    records = one_set(
        fasta, bed(tmp_path / "x.bed", "chr3 0 2 a 0 +", "chr3 5 7 a 0 -", "chr2 100 900 a 0 +"), length=10
    )
    assert records.lengths.tolist() == [10, 10, 10]
    contig = CONTIGS["chr3"]
    assert records[0].sequence.decode() == "NNNN" + contig[:6]
    assert (records[0].start, records[0].end) == (-4, 6)
    assert records[1].sequence == reverse_complement((contig[1:] + "NNNN").encode())
    assert (records[1].start, records[1].end) == (1, 11)
    assert records[2].sequence.decode() == CONTIGS["chr2"][495:505]


def test_windows_reach_2_to_the_20(tmp_path: Path) -> None:
    genome = MemoryGenome({"c": (b"ACGT" * 10, "m")})
    records = IntervalRecords(genome, [Interval("c", 3, 4, "-", "a")], MAX_WINDOW, "m")
    assert len(records[0].sequence) == 2**20
    assert records[0].sequence.strip(b"N") == b"ACGT" * 10
    assert "length 1048577; give 1 to 1,048,576 bases" in fault(lambda: one_set("g.fa", "x.bed", MAX_WINDOW + 1))
    assert "length 0" in fault(lambda: one_set("g.fa", "x.bed", 0))


@pytest.mark.parametrize("length", [None, 1, 4, 7, 30])
def test_mirrored_intervals_get_mirrored_windows(length: int | None) -> None:
    # f(interval on −) of a genome = f(mirrored interval on +) of the genome's other strand.
    contig = CONTIGS["chr2"].encode()
    forward = MemoryGenome({"c": (contig, "m")})
    mirror = MemoryGenome({"c": (reverse_complement(contig), "m")})
    for start, end in [(100, 101), (100, 102), (100, 107), (0, 5), (958, 960)]:
        minus = IntervalRecords(forward, [Interval("c", start, end, "-")], length, "m")[0]
        plus = IntervalRecords(mirror, [Interval("c", 960 - end, 960 - start, "+")], length, "m")[0]
        assert minus.sequence == plus.sequence
        assert minus.end - minus.start == len(minus.sequence)
        assert window(start, end, "+", length) != window(0, 0, "+", length)


def test_records_travel_to_workers(fasta: str, tmp_path: Path) -> None:
    rows = [f"chr1 {start} {start + 40} a 0 +" for start in range(0, 4000, 40)]
    records = one_set(fasta, bed(tmp_path / "x.bed", *rows))
    expected = [record.sequence for record in records]
    assert [record.sequence for record in pickle.loads(pickle.dumps(records))] == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for _ in range(3):
            assert [
                record.sequence for record in pool.map(records.__getitem__, range(len(rows)), chunksize=1)
            ] == expected


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files as Linux shows them")
@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz"])
def test_a_forked_worker_opens_its_own_file(tmp_path: Path, name: str) -> None:
    own = os.path.realpath(write_fasta(tmp_path / name, fasta_text({"c": random_contig(300_000, 7)})))
    genome = Genome(own)
    genome.fetch("c", 0, 10)

    def places() -> set[tuple[str, int]]:
        """Every open file of this process that is the genome, with the place that a fork shares."""
        files = [int(file) for file in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{file}")]
        opened = [(os.readlink(f"/proc/self/fd/{file}"), file) for file in files]
        return {(path, os.lseek(file, 0, os.SEEK_CUR)) for path, file in opened if path == own}

    before = places()
    assert len(before) == 1
    worker = multiprocessing.get_context("fork").Process(target=genome.fetch, args=("c", 250_000, 290_000))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert places() == before


def test_place_faults_name_the_line(fasta: str, tmp_path: Path) -> None:
    def said(row: str) -> str:
        message = fault(lambda: one_set(fasta, bed(tmp_path / "x.bed", "chr1 0 5", row), label_column=None))
        assert message.startswith(f"{tmp_path / 'x.bed'}, line 2: ")
        return message

    assert "the end 961 is beyond chr2, which has 960 bases" in said("chr2 950 961")
    assert "no contig 'Chr2'; did you mean 'chr2'? there are chr1, chr2, chr3" in said("Chr2 1 2")
    assert "the start -1 is negative" in said("chr1 -1 5")
    assert "the start 5 is not before the end 5" in said("chr1 5 5")
    assert "the start 7 is not before the end 5" in said("chr1 7 5")


def test_fasta_faults(tmp_path: Path) -> None:
    intervals = bed(tmp_path / "x.bed", "c 0 5 a")
    path = tmp_path / "g.fa.gz"

    def said(content: bytes, path: Path = path) -> str:
        path.write_bytes(content)
        for index in tmp_path.glob("*.fai"):
            index.unlink()
        message = fault(lambda: one_set(str(path), intervals)[0])
        assert str(path) in message
        return message

    assert "plain gzip cannot be read at random; run `gunzip" in said(gzip.compress(b">c\nACGTACGT\n"))
    assert "bgzip" in said(gzip.compress(b">c\nACGTACGT\n"))
    assert "named as gzip, but not compressed; name it *.fa" in said(b">c\nACGTACGT\n")
    plain = tmp_path / "g.fa"
    assert "the file is empty" in said(b"", plain)
    assert "this is a binary file" in said(b">c\n\0\0", plain)
    assert "Duplicate key" in said(b">c\nACGTACGT\n>c\nACGTACGT\n", plain)
    assert "wrap all lines of a record to one length" in said(b">c\nACGT\nAC\nACGT\n", plain)
    assert "not a FASTA that can be indexed" in said(b"ACGT\n>c\nACGTACGT\n", plain)
    assert "g.fa, c:1-5 (" in said(b">c\nACX?ACGT\n", plain)
    assert "'X' at letter 3 of the sequence" in said(b">c\nACX?ACGT\n", plain)
    whole = Path(write_fasta(path, fasta_text({"c": random_contig(300_000, 6)}))).read_bytes()
    for cut in (5000, 28, 10):
        assert "g.fa.gz: the bgzip file ends too early (truncated)" in said(whole[:-cut])
    assert "the gzip file is damaged" in said(whole[:70_000] + b"\x55" * 30 + whole[70_030:])
    assert "not a FASTA that can be indexed ('utf-8'" in said(b">c\nACGT\xff\n", plain)
    assert "there is no such file" in fault(lambda: one_set(str(tmp_path / "no.fa"), intervals))


def test_index_is_written_whole_and_renewed(tmp_path: Path) -> None:
    path = Path(write_fasta(tmp_path / "g.fa", ">c\nACGTACGT\n"))
    assert Genome(path).lengths == {"c": 8}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.fa", "g.fa.fai"]
    write_fasta(path, ">c\nACGTACGT\n>d\nAC\n")
    os.utime(tmp_path / "g.fa.fai", (path.stat().st_mtime - 10,) * 2)
    assert Genome(path).lengths == {"c": 8, "d": 2}


def test_index_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fasta(tmp_path / "g.fa", fasta_text(CONTIGS))
    index = Path(path + ".fai")
    index.write_text("this is no index\n")
    assert f"{index}: the index is damaged; delete it" in fault(lambda: Genome(path))
    index.write_text("chr1\t9000\t11\t60\t61\n")
    assert f"chr1 ends early; the file or its index {index} is damaged" in fault(
        lambda: Genome(path).fetch("chr1", 0, 8000)
    )
    index.unlink()

    def full_disk(self: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pyfaidx.Faidx, "build_index", full_disk)
        assert "cannot be written (No space left on device); free some space" in fault(lambda: Genome(path))
    assert [file.name for file in tmp_path.iterdir()] == ["g.fa"]
    monkeypatch.setenv("SSMBIO_CACHE", path)
    monkeypatch.setattr(genome_module.os, "access", lambda *_: False)
    assert "for its index cannot be made" in fault(lambda: Genome(path))


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz"])
def test_index_goes_to_the_cache_where_the_folder_is_read_only(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(write_fasta(tmp_path / name, fasta_text(CONTIGS)))
    monkeypatch.setenv("SSMBIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(genome_module.os, "access", lambda *_: False)
    for _ in range(2):
        assert Genome(path).fetch("chr2", 10, 20).decode() == CONTIGS["chr2"][10:20]
    assert not list(tmp_path.glob("*.fai"))
    assert len(list((tmp_path / "cache").rglob("*.fai"))) == 1
