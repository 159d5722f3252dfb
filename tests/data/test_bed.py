from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ssmbio.data.bed import Interval, read_bed
from ssmbio.errors import UserError


def write(path: Path, text: str) -> str:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def fault(path: Path, text: str, label_column: int | str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        list(read_bed(write(path, text), label_column))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["x.bed", "x.bed.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_six_columns(tmp_path: Path, name: str, end: str) -> None:
    lines = [
        "browser position chr1",
        "track name=x",
        "# a comment",
        "chr1\t0\t5\tgene one\t0\t-",
        "",
        "chr2\t3\t4\tb\t.\t.",
    ]
    path = write(tmp_path / name, end.join(lines))
    first, second = read_bed(path, 4)
    assert first == Interval("chr1", 0, 5, "-", "gene one", 4)
    assert second == Interval("chr2", 3, 4, "+", "b", 6)


def test_three_columns_parted_by_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bed", "chr1 10 20\nchr2  1   2\n")
    assert list(read_bed(path, None)) == [Interval("chr1", 10, 20, line=1), Interval("chr2", 1, 2, line=2)]


@pytest.mark.parametrize(
    "header", ["#chrom\tstart\tend\tname\tclass\tstrand", "chrom\tchromStart\tchromEnd\tn\tclass\tstrand"]
)
def test_header_names_the_columns(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "x.bed", f"{header}\nc\t1\t2\tn\tb;a\t-\nc\t2\t3\tn\t\t+\n")
    assert [interval.label for interval in read_bed(path, "class", separator=";")] == [("a", "b"), ()]
    assert [interval.strand for interval in read_bed(path, 4)] == ["-", "+"]


def test_strand_is_column_six_only_without_a_header(tmp_path: Path) -> None:
    row = "c\t1\t2\tn\t7\tother\n"
    path = write(tmp_path / "x.bed", "#chrom\tstart\tend\tname\tscore\tnote\n" + row)
    assert [interval.strand for interval in read_bed(path, 4)] == ["+"]
    assert ", line 1: 'other' as strand; column 6 of BED holds" in fault(tmp_path / "x.bed", row)


def test_faults_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    good = "c\t1\t2\ta\n"
    assert ", line 2: 2 columns; BED needs contig, start and end" in fault(path, good + "c\t1\n")
    assert ", line 2: the start '1.5' is not a whole number" in fault(path, good + "c\t1.5\t2\n")
    assert ", line 1: the end 'x' is not a whole number" in fault(path, "c\t1\tx\n")
    assert ", line 2: 3 columns, but the label is column 4" in fault(path, good + "c\t1\t2\n", 4)
    assert ", line 2: no label in column 4" in fault(path, good + "c\t1\t2\t \n", 4)
    assert ": no header line names the column 'class'" in fault(path, good, "class")
    assert "there is no column 'clas'; did you mean 'class'?" in fault(path, "#c\tstart\tend\tclass\n" + good, "clas")
    assert ": there are no intervals" in fault(path, "# nothing\n")
    with pytest.raises(UserError, match="label column 0; columns count from 1"):
        list(read_bed(write(path, good), 0))
