from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from ssmbio.data.records import Record
from ssmbio.data.streams import iter_records
from ssmbio.errors import UserError


def write(path: Path, text: str) -> Path:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["x.fa", "x.FASTA.gz", "x.fna"])
def test_fasta(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ">a x\nACgt\r\nN\n>b\nG")
    assert list(iter_records(path)) == [Record("a", b"ACgtN"), Record("b", b"G")]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.txt"])
def test_table_needs_no_labels(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "id,sequence\na,ACGT\nb,G\n")
    assert list(iter_records(path)) == [Record("row1", b"ACGT"), Record("row2", b"G")]
    assert [record.name for record in iter_records(path, name_column="id")] == ["a", "b"]


def test_bed_on_its_genome(tmp_path: Path) -> None:
    genome = write(tmp_path / "g.fa", ">c\nACGTTTGG\n")
    path = write(tmp_path / "x.bed", "c\t0\t4\tname\t0\t-\nc\t6\t8\n")
    assert list(iter_records(path, fasta=genome)) == [
        Record("c", b"ACGT", None, 0, 4, "-"),
        Record("c", b"GG", None, 6, 8),
    ]
    assert [record.sequence for record in iter_records(path, fasta=genome, length=3)] == [b"CGT", b"GGN"]


def test_genbank(tmp_path: Path) -> None:
    locus = "LOCUS       R1                        6 bp    DNA     linear   UNK 01-JAN-1980\n"
    header = locus + "DEFINITION  .\nACCESSION   R1\n"
    path = write(tmp_path / "x.gbk", header + "VERSION     R1.1\nORIGIN\n        1 acgtnn\n//\n")
    assert [(record.name, record.sequence.upper()) for record in iter_records(path)] == [("R1.1", b"ACGTNN")]


def test_faults_come_at_once_or_at_their_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.bed: intervals need their genome; set fasta"):
        iter_records(tmp_path / "x.bed")
    with pytest.raises(UserError, match=r"the suffix '.fastq' tells no format; use one of .fa"):
        iter_records("x.fastq.gz")
    for name, text, place in (
        ("x.fa", ">a\nA\n>b\nA*\n", "record 'b': '[*]' at letter 2"),
        ("x.csv", "sequence\nA\nA*\n", "line 3: '[*]' at letter 2"),
        ("y.csv", "sequence,n\nA,1\n,1\n", "line 3: the sequence is empty"),
    ):
        records = iter_records(write(tmp_path / name, text))
        assert next(records).sequence == b"A"
        with pytest.raises(UserError, match=f"{name}, {place}"):
            next(records)
    genome = write(tmp_path / "g.fa", ">c\nACGTTTGG\n")
    records = iter_records(write(tmp_path / "z.bed", "c\t0\t4\nc\t5\t9\n"), fasta=genome)
    assert next(records).sequence == b"ACGT"
    with pytest.raises(UserError, match=r"z.bed, line 2: the end 9 is beyond c, which has 8 bases"):
        next(records)


@pytest.mark.parametrize(
    ("name", "setting", "inputs"),
    [
        *(("x.fa", setting, "FASTA files") for setting in ("fasta", "sequence_column", "name_column")),
        *(("x.gb.gz", setting, "GenBank files") for setting in ("fasta", "sequence_column", "name_column")),
        *(("x.bed", setting, "BED files") for setting in ("sequence_column", "name_column")),
        ("x.csv", "fasta", "tables"),
    ],
)
def test_settings_of_another_format_are_refused_before_the_reading(name: str, setting: str, inputs: str) -> None:
    with pytest.raises(UserError, match=f"^{setting}=zz has no meaning for {inputs}; leave {setting} out.$"):
        iter_records(name, **{"fasta": "g.fa" if name == "x.bed" else None, setting: "zz"})


def test_the_window_that_a_model_brings_is_for_intervals_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.fa", ">a\nACGT\n")
    assert list(iter_records(path, length=2)) == [Record("a", b"ACGT")]


@pytest.mark.parametrize("name", ["x.fa.gz", "x.csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    # 64 MB of letters in records of 64 kB; what is held at once is some blocks of 4 MB.
    count, letters = 1000, "ACGTTGCA" * 8000
    with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt") as stream:
        stream.write("" if ".fa" in name else "sequence\n")
        stream.writelines(f">r{i}\n{letters}\n" if ".fa" in name else f"{letters}\n" for i in range(count))
    tracemalloc.start()
    total = sum(len(record.sequence) for record in iter_records(tmp_path / name))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == count * len(letters)
    assert peak < 24e6
