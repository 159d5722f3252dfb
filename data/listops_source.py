"""ListOps as files: tables with the columns Source and Target, as the Long Range Arena has them, made here or given."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ssmbio.data.cache import cache_folder
from ssmbio.data.listops import SYMBOLS, VERSION, WORDS, draw_expressions
from ssmbio.data.nearest import shorten
from ssmbio.data.records import SPLITS, PackedRecords, Record, RecordSet
from ssmbio.data.tables import Columns, line_word, read_rows
from ssmbio.data.tokenizers import SPECIALS, Ids, Tokenizer
from ssmbio.errors import UserError
from ssmbio.files import new_folder

log = logging.getLogger(__name__)

SOURCE, TARGET = "Source", "Target"
# The round brackets that join arguments in pairs say nothing that the square ones do not: the paper's tokens lack them.
_LETTERS = {**WORDS, "(": "", ")": ""}
_WORD_OF = {ord(letter): word for word, letter in WORDS.items()}
_FIRST = len(SPECIALS)


class ListopsTokenizer(Tokenizer):
    """One id a token of ListOps, uint8: ten digits, four opening brackets with their operators, the closing bracket."""

    vocab_size = _FIRST + len(SYMBOLS)
    unit = "tokens"
    _ids = bytes.maketrans(SYMBOLS, bytes(range(_FIRST, _FIRST + len(SYMBOLS))))

    def encode(self, sequence: bytes) -> Ids:
        return np.frombuffer(bytearray(sequence).translate(self._ids), np.uint8)

    def decode(self, ids: npt.ArrayLike) -> bytes:
        array = self._checked(ids)
        return np.frombuffer(SYMBOLS, np.uint8)[array[array >= _FIRST] - _FIRST].tobytes()

    def spec(self) -> dict[str, Any]:
        return {"kind": "listops"}


class ListopsSource:
    """Expressions made by `draw_expressions`, or those in `root`.

    The first call writes ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv`` into the cache, as the Long
    Range Arena names them; they are read like a user's.

    Args:
        root: a folder with such files, also ``train.tsv``, also .gz; None makes them.
        train, val, test: how many of each.
        shortest, longest, depth, arguments: see `draw_expressions`.
        seed: of the expressions. It is apart from the seed of the run, so every run sees the same ones.
        folder: where to write; None for the cache.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        train: int = 96_000,
        val: int = 2_000,
        test: int = 2_000,
        shortest: int = 500,
        longest: int = 2000,
        depth: int = 10,
        arguments: int = 10,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        self.root = None if root is None else Path(root).expanduser()
        self.counts = {"train": train, "val": val, "test": test}
        self.settings = {"shortest": shortest, "longest": longest, "depth": depth, "arguments": arguments, "seed": seed}
        least = {**dict.fromkeys(self.counts, 1), "shortest": 0, "longest": 2, "depth": 2, "arguments": 2, "seed": 0}
        for name, value in {**self.counts, **self.settings}.items():
            if type(value) is not int or value < least[name]:
                raise UserError(f"{name} {value} of ListOps", mend=f"give a whole number, {least[name]} or more")
        address = json.dumps([VERSION, self.counts, self.settings], sort_keys=True)
        name = f"listops-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        self.folder = Path(folder) / name if folder else cache_folder(name)

    def splits(self) -> dict[str, RecordSet]:
        """Read the files; write them first unless they are there."""
        if self.root is None and not self.folder.is_dir():
            log.warning(
                "Making %s expressions in %s; this is done once.", f"{sum(self.counts.values()):,}", self.folder
            )
            with new_folder(self.folder) as partial:
                self._write(partial)
        place = self.root or self.folder
        found = {split: path for split in SPLITS if (path := _file_of(place, split)) is not None}
        if not found:
            what = "no basic_train.tsv, basic_val.tsv or basic_test.tsv in it" if place.is_dir() else "no such folder"
            raise UserError(
                what, where=place, mend="set data.root to a folder with such files, or to null to make them"
            )
        return {split: load_listops(path) for split, path in found.items()}

    def _write(self, folder: Path) -> None:
        expressions = draw_expressions(sum(self.counts.values()), **self.settings)
        for split, count in self.counts.items():
            with open(folder / f"basic_{split}.tsv", "w", encoding="ascii", newline="\n") as file:
                file.write(f"{SOURCE}\t{TARGET}\n")
                for expression, value in islice(expressions, count):
                    file.write(f"{' '.join(map(_WORD_OF.__getitem__, expression))}\t{value}\n")


def _file_of(folder: Path, split: str) -> Path | None:
    names = (f"{stem}.tsv{packed}" for stem in (f"basic_{split}", split) for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def load_listops(path: Path) -> PackedRecords:
    """A table of expressions, in memory as one byte a token.

    Raises:
        UserError: what `read_rows` raises, or a token that is none of ListOps.
    """
    rows = list(read_rows(path, Columns(SOURCE, TARGET)))
    return PackedRecords(
        names=[row.name.encode() for row in rows],
        sequences=[letters_of(row.sequence, f"{path}, line {row.place}") for row in rows],
        labels=[row.label for row in rows],
        files=[(str(path), 0)],
        lines=[row.place for row in rows],
        nucleotides=False,
    )


def iter_listops(path: str | Path, column: str, name_column: str | None) -> Iterator[Record]:
    """The expressions of a table one after the other, without labels; faults as `load_listops`, when met."""
    for row in read_rows(path, Columns(column, None, None, name_column)):
        yield Record(row.name, letters_of(row.sequence, f"{path}, {line_word(path)} {row.place}"))


def letters_of(expression: bytes, where: str) -> bytes:
    """``[MAX 2 9 [MIN 4 7 ] ]`` as one letter a token; round brackets are left out.

    Raises:
        UserError: another token, or none.
    """
    words = expression.decode().split()
    try:
        letters = "".join(map(_LETTERS.__getitem__, words)).encode()
    except KeyError as error:
        unknown = shorten(str(error.args[0]))
        raise UserError(
            f"'{unknown}' is no token of ListOps", where=where, mend="as in [MAX 2 9 [MIN 4 7 ] ]"
        ) from None
    if not letters:
        raise UserError("the expression is empty", where=where, mend="remove the row")
    return letters
