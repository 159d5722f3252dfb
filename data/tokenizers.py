"""Letters to ids and back: characters, k-mers, and byte-pair encoding.

All share the first seven ids (Caduceus's), and differ in what follows. `encode` adds no special ids; `decode` leaves
them out. Case is not kept, U becomes T and the other IUPAC codes become N, so `decode(encode(s)) == s` holds over
upper-case A C G T N. A checkpoint carries `spec()`, from which `tokenizer_from_spec` builds the same tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from ssmbio.data.alphabet import base_table, reverse_complement
from ssmbio.data.nearest import shorten
from ssmbio.data.text_files import read_lines
from ssmbio.errors import UserError

Ids = npt.NDArray[Any]

SPECIALS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
CLS, SEP, BOS, MASK, PAD, RESERVED, UNK = range(len(SPECIALS))
BASES = b"ACGTN"
"""The letters that follow the special ids: A 7, C 8, G 9, T 10, N 11."""

_FIRST_BASE = len(SPECIALS)
_FIRST_KMER = _FIRST_BASE + len(BASES)


class Tokenizer(ABC):
    """What every tokenizer does. `vocab_size` ids, of which `pad_id` fills a batch."""

    vocab_size: int
    pad_id: int = PAD
    unit: str = "bases"
    """What the letters of a sequence are, for messages."""

    @abstractmethod
    def encode(self, sequence: bytes) -> Ids:
        """Letters to ids, a new writable array. Bytes that are no letters of the alphabet become UNK, with BPE N."""

    @abstractmethod
    def decode(self, ids: npt.ArrayLike) -> bytes:
        """Ids to upper-case letters; special ids are left out, UNK becomes N. ValueError for ids out of range."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """All that `tokenizer_from_spec` needs, as plain values that JSON can hold."""

    def reverse_complement_ids(self, ids: npt.ArrayLike) -> Ids:
        """Ids of the other strand, of ids without special ones."""
        return self.encode(reverse_complement(self.decode(ids)))

    def _checked(self, ids: npt.ArrayLike) -> Ids:
        array = np.asarray(ids)
        if array.size and not (array.min() >= 0 and array.max() < self.vocab_size):
            raise ValueError(f"ids must lie in [0, {self.vocab_size}), got {array.min()} to {array.max()}")
        return array.astype(np.int64, copy=False)


def _letter_ids() -> bytes:
    """Table of 256 bytes, letter to id of the 12-id alphabet."""
    letters = base_table(unknown=b"?")
    return letters.translate(bytes(_FIRST_BASE + BASES.index(b) if b in BASES else UNK for b in range(256)))


_LETTER_IDS = _letter_ids()
_TO_BASES = base_table(unknown=b"N")
_IS_LOWER = bytes(97 <= letter <= 122 for letter in range(256))


class CharacterTokenizer(Tokenizer):
    """One id a letter, uint8: the 12 ids of Caduceus (A 7, C 8, G 9, T 10, N 11)."""

    vocab_size = _FIRST_KMER
    complement_ids = np.array([*range(_FIRST_BASE), 10, 9, 8, 7, 11], np.uint8)
    """Id to the id of the complement; special ids stay."""

    def encode(self, sequence: bytes) -> Ids:
        # bytes.translate is three times as fast as numpy.take; the bytearray makes the array writable.
        return np.frombuffer(bytearray(sequence).translate(_LETTER_IDS), np.uint8)

    def encode_with_weights(self, sequence: bytes, soft_masked_weight: float) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Ids, and a weight for each: `soft_masked_weight` for lower-case letters, 1 for the others."""
        lower = np.frombuffer(sequence.translate(_IS_LOWER), np.bool_)
        return self.encode(sequence), np.where(lower, np.float32(soft_masked_weight), np.float32(1))

    def decode(self, ids: npt.ArrayLike) -> bytes:
        letters = self._checked(ids).astype(np.uint8).tobytes()
        return letters.translate(b"......N" + BASES + bytes(244), delete=bytes(range(UNK)))

    def reverse_complement_ids(self, ids: npt.ArrayLike) -> Ids:
        return self.complement_ids[self._checked(ids)[..., ::-1]]

    def spec(self) -> dict[str, Any]:
        return {"kind": "character"}


class KmerTokenizer(Tokenizer):
    """Words of k letters, int32: after the 12 ids of the character tokenizer, the 4^k words over ACGT in their order.

    Not overlapping, a run of ACGT is cut into words from its start; its last letters, fewer than k, and each N are
    single letters. Overlapping, there is one id a position: the word that starts there, or the letter where an N or the
    end is nearer than k. Both give the letters back exactly.

    Args:
        k: 2 to 8.
        overlapping: one id a letter instead of about one every k.
    """

    def __init__(self, k: int, overlapping: bool = False) -> None:
        if not isinstance(k, int) or not 2 <= k <= 8:
            raise UserError(
                f"k = {k!r} for k-mers", mend="give a whole number from 2 to 8; the character tokenizer is k = 1"
            )
        self.k = k
        self.overlapping = overlapping
        self.vocab_size = _FIRST_KMER + 4**k

    def encode(self, sequence: bytes) -> Ids:
        single = np.frombuffer(sequence.translate(_LETTER_IDS), np.uint8).astype(np.int32)
        is_base = (single >= _FIRST_BASE) & (single < _FIRST_BASE + 4)
        words, is_word = self._words_at(single, is_base)
        if self.overlapping:
            return np.where(is_word, words, single)
        # Position within its run of bases; 0 at the first base after the start or a break.
        position = np.arange(len(single))
        after_break = np.maximum.accumulate(np.where(is_base, 0, position + 1)) if len(single) else position
        starts = is_word & ((position - after_break) % self.k == 0)
        covered = np.zeros(len(single), np.bool_)
        for offset in range(1, self.k):
            covered[offset:] |= starts[: max(len(single) - offset, 0)]
        return np.where(starts, words, single)[~covered]

    def _words_at(self, single: Ids, is_base: npt.NDArray[np.bool_]) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The id of the word that starts at each position, and whether there is one."""
        n = len(single)
        whole = max(n - self.k + 1, 0)
        words, is_word = np.zeros(n, np.int32), np.zeros(n, np.bool_)
        is_word[:whole] = True
        for offset in range(self.k):
            words[:whole] *= 4
            words[:whole] += single[offset : offset + whole] - _FIRST_BASE
            is_word[:whole] &= is_base[offset : offset + whole]
        return words + _FIRST_KMER, is_word

    def decode(self, ids: npt.ArrayLike) -> bytes:
        array = self._checked(ids)
        array = array[array >= UNK]
        is_word = array >= _FIRST_KMER
        words = array[is_word] - _FIRST_KMER
        # A row a token; the first letter of each is enough where they overlap.
        letters = np.zeros((len(array), 1 if self.overlapping else self.k), np.uint8)
        letters[:, 0] = np.frombuffer(b"N" + BASES, np.uint8)[np.where(is_word, 0, array - UNK)]
        for column in range(letters.shape[1]):
            base = words // 4 ** (self.k - 1 - column) % 4
            letters[is_word, column] = np.frombuffer(BASES, np.uint8)[base]
        return letters.tobytes().translate(None, delete=b"\0")

    def spec(self) -> dict[str, Any]:
        return {"kind": "kmer", "k": self.k, "overlapping": self.overlapping}


class BpeTokenizer(Tokenizer):
    """Byte-pair encoding by Hugging Face `tokenizers`, int32.

    Args:
        json: a tokenizer as `tokenizers` writes it (``tokenizer.json``), with a padding token [PAD] or <pad>. Letters
            come back exactly where its vocabulary holds A, C, G, T and N, as those that `train` makes do.
        where: the file it came from, for messages.
    """

    def __init__(self, json: str, where: str | Path | None = None) -> None:
        try:
            model = tokenizers.Tokenizer.from_str(json)
        except Exception as error:  # the library raises no narrower one
            raise UserError(
                f"not a tokenizer of Hugging Face `tokenizers` ({shorten(str(error), 80)})",
                where=where,
                mend="give its tokenizer.json",
            ) from None
        model.no_truncation()
        model.no_padding()
        pads = [i for i in map(model.token_to_id, ("[PAD]", "<pad>")) if i is not None]
        if not pads:
            raise UserError("the tokenizer has no padding token", where=where, mend="add [PAD] to its vocabulary")
        self.pad_id = pads[0]
        self.vocab_size = max(model.get_vocab().values()) + 1
        self._model = model
        self._letters = [_letters_of(model.id_to_token(i)) for i in range(self.vocab_size)]

    @classmethod
    def from_file(cls, path: str | Path) -> BpeTokenizer:
        """Read a ``tokenizer.json``."""
        return cls("".join(read_lines(path)), where=path)

    @classmethod
    def train(cls, sequences: Iterable[bytes], vocab_size: int) -> BpeTokenizer:
        """Learn the merges from `sequences`; `vocab_size` counts all ids, the special ones and the five letters too."""
        if vocab_size < _FIRST_KMER:
            raise UserError(f"vocab_size {vocab_size} for BPE", mend=f"give {_FIRST_KMER} or more")
        model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=list(BASES.decode()),
            show_progress=False,
        )
        model.train_from_iterator(_pieces(sequences, 512), trainer)
        return cls(model.to_str())

    def encode(self, sequence: bytes) -> Ids:
        text = sequence.translate(_TO_BASES).decode()
        return np.array(self._model.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: npt.ArrayLike) -> bytes:
        return b"".join([self._letters[i] for i in self._checked(ids).tolist()])

    def spec(self) -> dict[str, Any]:
        return {"kind": "bpe", "json": self._model.to_str()}


def _pieces(sequences: Iterable[bytes], size: int) -> Iterator[str]:
    """Sequences in pieces of at most `size` letters: without spaces each is one word, kept whole in training."""
    for sequence in sequences:
        text = sequence.translate(_TO_BASES).decode()
        for start in range(0, len(text), size):
            yield text[start : start + size]


def _letters_of(token: str | None) -> bytes:
    """What a token stands for: none for special ones and gaps, N for the unknown one."""
    if token is None:
        return b""
    if token in ("[UNK]", "<unk>"):
        return b"N"
    if token.startswith(("[", "<")):
        return b""
    return bytes(letter for letter in token.encode() if letter in BASES)


def tokenizer_from_spec(spec: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `spec()` this is.

    Raises:
        UserError: an unknown kind, or a field that is missing, too many or wrong.
    """
    from ssmbio.data.listops_source import ListopsTokenizer  # it is built on this module

    fields = dict(spec)
    kind = fields.pop("kind", None)
    kinds: dict[Any, tuple[Callable[..., Tokenizer], set[str]]] = {
        "character": (CharacterTokenizer, set()),
        "kmer": (KmerTokenizer, {"k", "overlapping"}),
        "bpe": (BpeTokenizer, {"json"}),
        "listops": (ListopsTokenizer, set()),
    }
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"tokenizer of the unknown kind {kind!r}", mend=f"known are {', '.join(kinds)}")
    build, expected = kinds[kind]
    if set(fields) != expected:
        raise UserError(
            f"tokenizer {kind} with the fields {sorted(fields)}", mend=f"it takes {sorted(expected)} and nothing else"
        )
    return build(**fields)
