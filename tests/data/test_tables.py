from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ssmbio.data.records import Record
from ssmbio.data.sources import TableSource
from ssmbio.data.tables import Columns, load_table, read_rows
from ssmbio.errors import UserError

ROWS = [("ACGTacgt", "yes"), ("GGN", "no"), ("T", "yes")]
RECORDS = [Record(f"row{i}", sequence.encode(), label) for i, (sequence, label) in enumerate(ROWS, 1)]


def write(path: Path, text: str) -> Path:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def fault(path: Path, **columns: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_table(path, Columns(**columns))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path.parent) + "/")


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz", "t.tsv", "t.tab.gz", "t.txt", "t.txt.gz", "t.tsv.bgz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_text_tables(tmp_path: Path, name: str, end: str, last_end: bool) -> None:
    separator = "," if ".csv" in name.lower() else "\t"
    lines = [separator.join(row) for row in [("sequence", "label"), *ROWS]]
    path = write(tmp_path / name, end.join(lines) + (end if last_end else ""))
    assert list(load_table(path, Columns())) == RECORDS


def test_txt_may_have_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "sequence,label\nACGT,1\n")
    assert list(load_table(path, Columns())) == [Record("row1", b"ACGT", "1")]


@pytest.mark.parametrize("name", ["t.parquet", "t.parquet.gz"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_parquet(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    sequences, labels = zip(*ROWS, strict=True)
    table = pa.table({"label": labels, "other": [1, 2, 3], "sequence": pa.array(sequences).cast(kind)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    records = load_table(tmp_path / name, Columns())
    assert list(records) == RECORDS
    assert records.where(2) == f"{tmp_path / name}, row 3"


def test_parquet_numbers_become_the_text_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for values in ([0, 1], [0.0, 1.0], ["0", "1"]):
        parquet.write_table(pa.table({"sequence": ["A", "C"], "label": values}), path)
        assert load_table(path, Columns()).labels() == ["0", "1"]


def test_quotes_blank_lines_spaces_and_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'id, label ,note,sequence\n\nx,a,"1, 2\n3",  ACGT \n\ny,b,,"GG"\n')
    records = load_table(path, Columns(name="id"))
    assert list(records) == [Record("x", b"ACGT", "a"), Record("y", b"GG", "b")]
    assert [records.where(i) for i in range(2)] == [f"{path}, line 3", f"{path}, line 6"]


def test_long_sequences_and_text_after_them(tmp_path: Path) -> None:
    sequence = "ACGTN" * 100_000  # the csv module stops at 131,072 letters unless told otherwise
    records = load_table(write(tmp_path / "t.csv", f"sequence,label\n{sequence},1\nA,0\n"), Columns())
    assert records.lengths.tolist() == [500_000, 1]


def test_several_labels_in_one_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sequence,label\nA,b;a\nC,\nG, a ;;a\n")
    assert load_table(path, Columns(separator=";")).labels() == [("a", "b"), (), ("a",)]


def test_a_column_for_each_label(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sequence,b,a\nA,1,0\nC,0,0\nG,True,1.0\n")
    source = TableSource(train=str(path), label_column=["b", "a"])
    assert source.splits()["train"].labels() == [("b",), (), ("a", "b")]
    write(path, "sequence,b,a\nA,1,0\nC,0,2\n")
    assert "line 3: '2' in column 'a'; a column for one label holds 1 or 0" in fault(path, label=("b", "a"))


def test_splits_are_those_that_were_given(tmp_path: Path) -> None:
    path = str(write(tmp_path / "t.csv", "seq,y\nACGT,1\n"))
    splits = TableSource(train=path, test=path, sequence_column="seq", label_column=None).splits()
    assert list(splits) == ["train", "test"]
    assert splits["test"][0] == Record("row1", b"ACGT", None)
    with pytest.raises(UserError, match="no data is given"):
        TableSource()


def test_rows_stream(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sequence,label\nA,1\nC,0\nG\n")
    rows = read_rows(path, Columns())
    assert [next(rows).sequence, next(rows).sequence] == [b"A", b"C"]  # the fault lies further on
    with pytest.raises(UserError, match="line 4"):
        next(rows)


def test_missing_column_lists_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "Sequence,labels,note\nA,1,x\n")
    assert (
        fault(path) == "t.csv, line 1: there is no column 'sequence'; name the column to use; "
        "did you mean 'Sequence'? there are Sequence, labels, note."
    )
    assert "did you mean 'labels'?" in fault(path, sequence="Sequence")
    parquet.write_table(pa.table({"seq": ["A"], "label": ["1"]}), tmp_path / "t.parquet")
    assert "there is no column 'sequence'; name the column to use; there are seq, label" in fault(
        tmp_path / "t.parquet"
    )


def test_header_faults(tmp_path: Path) -> None:
    assert "add a header line" in fault(write(tmp_path / "a.csv", "ACGTACGTACGT,1\nACGTACGTACGA,0\n"))
    assert "a tsv file has tabs" in fault(write(tmp_path / "b.csv", "sequence\tlabel\nA\t1\n"))
    assert "two columns are named 'label'; rename one" in fault(
        write(tmp_path / "c.csv", "sequence,label,label\nA,1,1\n")
    )
    assert "the table has no rows" in fault(write(tmp_path / "d.csv", "sequence,label\n"))


def test_row_faults_name_the_line(tmp_path: Path) -> None:
    head = "sequence,label\nACGT,1\n\n"
    path = tmp_path / "t.csv"
    assert "t.csv, line 4: 1 cells where the header has 2" in fault(write(path, head + "ACGT\n"))
    assert "t.csv, line 4: 3 cells where the header has 2" in fault(write(path, head + "ACGT,1,1\n"))
    assert "t.csv, line 4: the sequence is empty; remove" in fault(write(path, head + " ,1\nA,1\n"))
    assert "t.csv, line 4: 'X' at letter 2 of the sequence" in fault(write(path, head + "AXGT,1\n"))
    assert "t.csv, line 4: byte 0xc3 at letter 1" in fault(write(path, head + "ä,1\n"))
    assert "t.csv, line 4: the cell in column 'label' is empty" in fault(write(path, head + "A, \n"))
    assert "t.csv, line 4: unexpected end of data; close its quotes" in fault(write(path, head + 'A,"1\nC,1\n'))
    parquet.write_table(pa.table({"sequence": ["A", None], "label": ["1", "0"]}), tmp_path / "t.parquet")
    assert "t.parquet, row 2: the sequence is empty" in fault(tmp_path / "t.parquet")


def test_file_faults(tmp_path: Path) -> None:
    assert "there is no such file" in fault(tmp_path / "absent.csv")
    assert "'.xlsx' is not the suffix of a table; use .csv .tsv" in fault(tmp_path / "t.xlsx")
    whole = write(tmp_path / "t.csv.gz", "sequence,label\n" + "ACGTTGCA,1\n" * 9999).read_bytes()
    (tmp_path / "t.csv.gz").write_bytes(whole[:-20])
    assert "the gzip file ends too early" in fault(tmp_path / "t.csv.gz")
    assert "not a parquet table" in fault(write(tmp_path / "text.parquet", "sequence,label\nA,1\n"))
    parquet.write_table(pa.table({"sequence": ["ACGT"] * 99, "label": ["1"] * 99}), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-30])
    assert "not a parquet table" in fault(tmp_path / "cut.parquet")
    (tmp_path / "p.csv").write_bytes(b"PAR1\0\0\0")
    assert "this is a parquet file, not text; name it *.parquet" in fault(tmp_path / "p.csv")
