from __future__ import annotations

import pickle

import numpy as np
import pytest

from ssmbio.data.records import PackedRecords, Record, RecordSubset
from ssmbio.errors import UserError


def packed(*sequences: bytes, lines: list[int] | None = None) -> PackedRecords:
    count = len(sequences)
    return PackedRecords(
        names=[b"n%d" % i for i in range(count)],
        sequences=sequences,
        labels=[("a", "b") if i % 2 else "a" for i in range(count)],
        files=[("one.fa", 0), ("two.fa", 2)],
        lines=lines,
    )


def test_end_follows_from_the_sequence() -> None:
    assert Record("r", b"ACGT").end == 4
    assert Record("r", b"ACGT", start=10).end == 14
    assert Record("r", b"ACGT", start=-2, end=2).end == 2


def test_packed_records_give_back_what_they_got() -> None:
    records = packed(b"ACGT", b"n", b"GGgaT")
    assert len(records) == 3
    assert list(records) == [Record("n0", b"ACGT", "a"), Record("n1", b"n", ("a", "b")), Record("n2", b"GGgaT", "a")]
    assert records[-1] == records[2]
    assert records.labels() == ["a", ("a", "b"), "a"]
    assert records.label_of(1) == ("a", "b")
    assert records.lengths.tolist() == [4, 1, 5]
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            records[beyond]
    assert list(pickle.loads(pickle.dumps(records))) == list(records)


def test_packed_records_pickle_to_little_more_than_their_letters() -> None:
    records = packed(*[b"ACGTACGTAC" * 10] * 10_000)
    assert len(pickle.dumps(records)) < 1.3 * 1_000_000


def test_where_names_file_and_place() -> None:
    assert packed(b"A", b"C", b"G").where(1) == "one.fa, record 'n1'"
    assert packed(b"A", b"C", b"G").where(2) == "two.fa, record 'n2'"
    assert packed(b"A", b"C", b"G", lines=[2, 5, 6]).where(1) == "one.fa, line 5"


def test_faults_name_the_record() -> None:
    with pytest.raises(UserError, match=r"two.fa, line 9: the sequence is empty"):
        packed(b"A", b"C", b"", b"", lines=[2, 3, 9, 10])
    with pytest.raises(UserError, match=r"one.fa, record 'n1': '!' at letter 3"):
        packed(b"ACGT", b"GG!!", b"?")
    with pytest.raises(UserError, match="record 'n2': 'X' at letter 1"):
        packed(b"ACGT", b"GG", b"X")


def test_subset_is_a_view_in_the_given_order() -> None:
    records = packed(b"A", b"CC", b"GGG")
    subset = RecordSubset(records, np.array([2, 0]))
    assert list(subset) == [records[2], records[0]]
    assert subset.lengths.tolist() == [3, 1]
    assert subset.labels() == ["a", "a"]
    assert subset.where(0) == records.where(2)
