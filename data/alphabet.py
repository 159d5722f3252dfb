"""The nucleotide alphabet: one table for A, C, G, T, U, N and the IUPAC codes, with their complements.

Sequences are ASCII `bytes`. Lower case means soft-masked (repeats, in most genomes) and survives everything here. All
work is a table look-up by `bytes.translate`, which runs at gigabytes a second.
"""

from __future__ import annotations

from pathlib import Path

from ssmbio.errors import UserError

# Code, complement, and what the code stands for (NC-IUB 1984, Nucleic Acids Research 13:3021).
_TABLE = (
    ("A", "T", "adenine"),
    ("C", "G", "cytosine"),
    ("G", "C", "guanine"),
    ("T", "A", "thymine"),
    ("U", "A", "uracil; the complement of A is T, in RNA too"),
    ("R", "Y", "A or G"),
    ("Y", "R", "C or T"),
    ("S", "S", "C or G"),
    ("W", "W", "A or T"),
    ("K", "M", "G or T"),
    ("M", "K", "A or C"),
    ("B", "V", "not A"),
    ("V", "B", "not T"),
    ("D", "H", "not C"),
    ("H", "D", "not G"),
    ("N", "N", "any base"),
)

_CODES = "".join(code for code, _, _ in _TABLE).encode()
_COMPLEMENTS = "".join(complement for _, complement, _ in _TABLE).encode()

LETTERS = _CODES + _CODES.lower()
"""Every letter a sequence may hold, in both cases."""

COMPLEMENT = bytes.maketrans(LETTERS, _COMPLEMENTS + _COMPLEMENTS.lower())
"""Table of 256 bytes, letter to complement, case kept; any other byte maps to itself."""


def base_table(unknown: bytes) -> bytes:
    """Table of 256 bytes that brings a letter to one of A C G T N: upper case, U as T, other IUPAC codes as N.

    Args:
        unknown: the one byte that anything outside `LETTERS` becomes.
    """
    bases = bytes(code if code in b"ACGTN" else ord("T") if code == ord("U") else ord("N") for code in _CODES)
    table = bytearray(unknown * 256)
    for letter, base in zip(LETTERS, bases + bases, strict=True):
        table[letter] = base
    return bytes(table)


def reverse_complement(sequence: bytes) -> bytes:
    """The other strand, read 5' to 3'; case is kept."""
    return sequence.translate(COMPLEMENT)[::-1]


def first_bad_letter(sequence: bytes) -> int | None:
    """The 0-based position of the first letter outside IUPAC, or None where all letters are good."""
    # What is left when all good letters are deleted keeps its order, so its first byte is the first bad one.
    bad = sequence.translate(None, LETTERS)
    return sequence.index(bad[:1]) if bad else None


def show_letter(letter: int) -> str:
    """A byte as an error message shows it: the letter in quotes, or its number where it cannot be printed."""
    return f"'{chr(letter)}'" if 32 < letter < 127 else f"byte 0x{letter:02x}"


def check_letters(sequence: bytes, where: str | Path) -> None:
    """Raise `UserError` that names the first letter outside IUPAC and its position, if there is one.

    Args:
        where: the file with its line or record, for the message.
    """
    position = first_bad_letter(sequence)
    if position is not None:
        raise bad_letter_error(sequence[position], position, where)


def bad_letter_error(letter: int, position: int, where: str | Path) -> UserError:
    """The error for `letter` (a byte) at a 0-based `position`; it counts from 1 as people do."""
    return UserError(
        f"{show_letter(letter)} at letter {position + 1} of the sequence is not a nucleotide code",
        where=where,
        mend="use A C G T U N or the IUPAC codes R Y S W K M B D H V",
    )
