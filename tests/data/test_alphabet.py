from __future__ import annotations

import pytest
from Bio.Seq import Seq

from ssmbio.data.alphabet import COMPLEMENT, LETTERS, base_table, check_letters, first_bad_letter, reverse_complement
from ssmbio.errors import UserError


def test_complements_are_biopythons() -> None:
    # Biopython keeps the complement of A as T, and takes U for T, as we do.
    assert LETTERS.translate(COMPLEMENT) == bytes(Seq(LETTERS).complement())


def test_reverse_complement_undoes_itself_and_keeps_case() -> None:
    letters = b"ACGTNRYSWKMBDHVacgtnryswkmbdhv"
    assert reverse_complement(b"AAcgN") == b"NcgTT"
    assert reverse_complement(letters) != letters
    assert reverse_complement(reverse_complement(letters)) == letters
    assert reverse_complement(b"") == b""


def test_base_table_makes_five_letters() -> None:
    assert b"acgtuRYSWKMBDHVn-".translate(base_table(unknown=b"?")) == b"ACGTT" + b"N" * 11 + b"?"


@pytest.mark.parametrize(
    ("sequence", "position"), [(LETTERS, None), (b"", None), (b"ACX-X", 2), (b"-A", 0), (b"A\xc3", 1)]
)
def test_first_bad_letter(sequence: bytes, position: int | None) -> None:
    assert first_bad_letter(sequence) == position


def test_bad_letter_names_letter_position_and_place() -> None:
    with pytest.raises(UserError, match=r"^x.fa, record 'r': 'X' at letter 3 of the sequence .* IUPAC"):
        check_letters(b"ACXT", "x.fa, record 'r'")
    with pytest.raises(UserError, match="byte 0x20 at letter 2"):
        check_letters(b"A C", "x.fa")
    check_letters(LETTERS, "x.fa")
