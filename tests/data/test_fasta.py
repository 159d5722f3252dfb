from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from ssmbio.data import text_files
from ssmbio.data.fasta import read_fasta
from ssmbio.data.records import Record
from ssmbio.data.sources import FastaSource
from ssmbio.errors import UserError


def write(path: Path, text: str) -> str:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def fault(text: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        FastaSource(train=write(path, text)).splits()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


TEXT = ">one first record\nACGT\nacgtNR\n>two\nGG\n\n>three|x;y\nT\n"
ENTRIES = [("one", b"ACGTacgtNR"), ("two", b"GG"), ("three|x;y", b"T")]


@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_records(tmp_path: Path, name: str, end: str, last_end: bool) -> None:
    text = TEXT if last_end else TEXT.rstrip("\n")
    assert list(read_fasta(write(tmp_path / name, text.replace("\n", end)))) == ENTRIES


@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz"])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_a_byte_order_mark_is_not_part_of_the_text(
    tmp_path: Path, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", block)
    assert list(read_fasta(write(tmp_path / name, "\ufeff" + TEXT))) == ENTRIES
    with pytest.raises(UserError, match=r"line 1: text before the first header"):
        list(read_fasta(write(tmp_path / name, "\ufeff\ufeff" + TEXT)))
    with pytest.raises(UserError, match=r"there are no records"):
        list(read_fasta(write(tmp_path / name, "\ufeff")))


@pytest.mark.parametrize("block", [1, 2, 3, 7, 16])
def test_blocks_may_end_anywhere(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", block)
    path = write(tmp_path / "x.fa", "\n" + TEXT.replace("\n", "\r\n"))
    assert list(read_fasta(path)) == ENTRIES
    assert list(read_fasta(write(tmp_path / "x.fa", ">a\nAC>GT\n"))) == [("a", b"AC>GT")]
    with pytest.raises(UserError, match=r"x.fa, line 9: a second record is named 'two'"):
        list(read_fasta(write(tmp_path / "x.fa", TEXT + ">two\nA\n")))


def test_many_records_take_time_in_proportion(tmp_path: Path) -> None:
    # 60,000 records in one block: a count of lines for each would take minutes.
    path = write(tmp_path / "x.fa", "".join(f">r{i}\nACGTACGTAC\n" for i in range(60_000)))
    assert sum(len(sequence) for _, sequence in read_fasta(path)) == 600_000


def test_faults_name_line_or_record(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    assert fault("\n\nACGT\n>a\nA\n", path).startswith(", line 3: text before the first header; a FASTA record starts")
    assert fault(">a\nA\n>b\nC\n>a x\nG\n", path).startswith(", line 5: a second record is named 'a'; give")
    assert fault(">a\nA\n> \nC\n", path).startswith(", line 3: a header without a name")
    assert fault(">a\n>b\nC\n", path).startswith(", record 'a': the sequence is empty")
    assert fault(">a\nA\n>b", path).startswith(", record 'b': the sequence is empty")
    assert fault(">a\nAC\nGTX\n>b\n?\n", path).startswith(", record 'a': 'X' at letter 5 of the sequence")
    assert fault(">a\nAC-T\n", path).startswith(", record 'a': '-' at letter 3")
    assert fault("\n\n", path).startswith(": there are no records")
    assert fault("", path).startswith(": the file is empty")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "x.fa.gz", TEXT * 1000))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"x.fa.gz: the gzip file ends too early"):
        list(read_fasta(path, remembered_names=0))


def test_names_are_remembered_up_to_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.fa", ">a\nA\n>b\nC\n>b\nG\n>a\nT\n")
    records = read_fasta(path, remembered_names=1)
    assert [next(records)[0] for _ in range(3)] == ["a", "b", "b"]
    with pytest.raises(UserError, match="a second record is named 'a'"):
        next(records)


def test_labels_from_a_table(tmp_path: Path) -> None:
    train = write(tmp_path / "a.fa", ">x\nAC\n>y\nG\n")
    test = write(tmp_path / "b.fa", ">z\nT\n")
    labels = write(tmp_path / "l.tsv", "name\tclass\nz\tp\ny\tp;q\nx\tq\nunused\tp\n")
    source = FastaSource(train=train, test=test, labels=labels, label_column="class", label_separator=";")
    splits = source.splits()
    assert list(splits["train"]) == [Record("x", b"AC", ("q",)), Record("y", b"G", ("p", "q"))]
    assert splits["test"].labels() == [("p",)]
    one_each = FastaSource(train=train, test=test, labels={"train": labels}, label_column="class").splits()
    assert one_each["train"].labels() == ["q", "p;q"]
    assert one_each["test"].labels() == [None]


def test_label_table_faults(tmp_path: Path) -> None:
    train = write(tmp_path / "a.fa", ">x1\nAC\n>x2\nG\n")
    labels = write(tmp_path / "l.csv", "name,label\nx1,p\nx22,q\n")
    with pytest.raises(UserError, match=r"a.fa: record 'x2' is not in the table of labels; did you mean 'x22'"):
        FastaSource(train=train, labels=labels).splits()
    write(tmp_path / "l.csv", "name,label\nx1,p\nx2,q\nx1,q\n")
    with pytest.raises(UserError, match=r"l.csv, line 4: 'x1' has another label above"):
        FastaSource(train=train, labels=labels).splits()
    write(tmp_path / "l.csv", "id,label\nx1,p\n")
    with pytest.raises(UserError, match=r"l.csv, line 1: there is no column 'name'; .* there are id, label"):
        FastaSource(train=train, labels=labels).splits()


def test_one_file_a_class_in_sorted_order(tmp_path: Path) -> None:
    b = write(tmp_path / "b.class.fa.gz", ">r\nAA\n")
    a = write(tmp_path / "a.fasta", ">r\nCC\n>s\nG\n")
    names = ("one", "two")
    forms: Sequence[tuple[object, tuple[str, str]]] = [
        ({"two": b, "one": a}, names),
        ({"one": a, "two": b}, names),
        ([b, a], ("a", "b.class")),
        ([a, b], ("a", "b.class")),
    ]
    for files, classes in forms:
        records = FastaSource(train=files).splits()["train"]  # type: ignore[arg-type]
        assert records.labels() == [classes[0], classes[0], classes[1]]
        assert records[2] == Record("r", b"AA", classes[1])
        assert records.where(2) == f"{b}, record 'r'"
    with pytest.raises(UserError, match="'train' has a file a class, and labels has them too"):
        FastaSource(train=[a, b], labels="l.csv")
