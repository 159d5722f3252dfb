from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.tokenizers import (
    MASK,
    PAD,
    SPECIALS,
    UNK,
    BpeTokenizer,
    CharacterTokenizer,
    KmerTokenizer,
    Tokenizer,
    tokenizer_from_spec,
)
from ssmbio.errors import UserError


def random_sequence(length: int, seed: int = 0, letters: bytes = b"ACGTN") -> bytes:
    weights = [1.0] * (len(letters) - 1) + [0.05]
    draw = np.random.default_rng(seed).choice(len(letters), length, p=np.array(weights) / sum(weights))
    return np.frombuffer(letters, np.uint8)[draw].tobytes()


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer.train([random_sequence(3000, seed) for seed in range(4)], vocab_size=64)


@pytest.fixture(params=["character", "kmer-2", "kmer-3", "kmer-8", "overlap-3", "overlap-6", "bpe"])
def tokenizer(request: pytest.FixtureRequest, bpe: BpeTokenizer) -> Tokenizer:
    kind, _, k = request.param.partition("-")
    if kind == "character":
        return CharacterTokenizer()
    return bpe if kind == "bpe" else KmerTokenizer(int(k), overlapping=kind == "overlap")


SEQUENCES = [
    b"",
    b"A",
    b"N",
    b"AC",
    b"NNNN",
    b"ACGTACGTACGT",
    b"NACGTTNNACGN",
    *(random_sequence(n, n) for n in (63, 500)),
]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_round_trip_over_acgtn(tokenizer: Tokenizer, sequence: bytes) -> None:
    ids = tokenizer.encode(sequence)
    assert tokenizer.decode(ids) == sequence
    assert ids.flags.writeable
    assert not len(ids) or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size


def test_other_letters_become_acgtn(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(b"acgurykMSwbdhvnA")) == b"ACGTNNNNNNNNNNNA"


def test_spec_survives_json_and_pickle(tokenizer: Tokenizer) -> None:
    sequence = random_sequence(300)
    for copy in (tokenizer_from_spec(json.loads(json.dumps(tokenizer.spec()))), pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert copy.vocab_size == tokenizer.vocab_size
        np.testing.assert_array_equal(copy.encode(sequence), tokenizer.encode(sequence))


def test_reverse_complement_of_ids(tokenizer: Tokenizer) -> None:
    sequence = random_sequence(200)
    turned = tokenizer.reverse_complement_ids(tokenizer.encode(sequence))
    assert tokenizer.decode(turned) == reverse_complement(sequence)


def test_special_ids_are_left_out_and_ids_out_of_range_are_refused(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(b"ACGTNACGT")
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.pad_id]) == b"ACGTNACGT"
    for bad in ([tokenizer.vocab_size], [-1]):
        with pytest.raises(ValueError, match="ids must lie in"):
            tokenizer.decode(bad)


def test_character_ids_are_caduceus() -> None:
    tokenizer = CharacterTokenizer()
    assert SPECIALS.index("[MASK]") == MASK == 3
    assert SPECIALS.index("[PAD]") == PAD == tokenizer.pad_id == 4
    assert SPECIALS.index("[UNK]") == UNK == 6
    assert tokenizer.vocab_size == 12
    ids = tokenizer.encode(b"ACGTNacgtnUR-")
    assert ids.dtype == np.uint8
    assert ids.tolist() == [7, 8, 9, 10, 11, 7, 8, 9, 10, 11, 10, 11, UNK]
    assert tokenizer.complement_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11]


def test_reverse_complement_of_a_batch_of_ids() -> None:
    tokenizer = CharacterTokenizer()
    rows = [b"ACGTN", b"TTTCA"]
    turned = tokenizer.reverse_complement_ids(np.stack([tokenizer.encode(row) for row in rows]))
    assert [tokenizer.decode(row) for row in turned] == [reverse_complement(row) for row in rows]


def test_soft_masked_letters_weigh_less() -> None:
    ids, weights = CharacterTokenizer().encode_with_weights(b"ACgtNn", 0.1)
    assert ids.tolist() == [7, 8, 9, 10, 11, 11]
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.float32([1, 1, 0.1, 0.1, 1, 0.1]))


def test_kmer_ids_follow_the_order_of_words() -> None:
    tokenizer = KmerTokenizer(2)
    assert tokenizer.vocab_size == 12 + 16
    assert tokenizer.encode(b"AAACTTA").tolist() == [12, 13, 27, 7]  # AA AC TT, and A alone
    assert tokenizer.encode(b"ANCGN").tolist() == [7, 11, 12 + 4 + 2, 11]  # a run of bases starts anew after N


def test_overlapping_kmers_have_one_id_a_letter() -> None:
    ids = KmerTokenizer(3, overlapping=True).encode(b"AACGNT")
    assert ids.tolist() == [12 + 1, 12 + 6, 8, 9, 11, 10]  # AAC ACG, then no whole word fits


@pytest.mark.parametrize("k", [0, 1, 9, "6", 2.0])
def test_kmer_length_is_checked(k: Any) -> None:
    with pytest.raises(UserError, match="from 2 to 8"):
        KmerTokenizer(k)


def test_bpe_learns_what_repeats(bpe: BpeTokenizer, tmp_path: Path) -> None:
    repeated = BpeTokenizer.train([b"GATTACA" * 50], vocab_size=30)
    assert len(repeated.encode(b"GATTACA" * 40)) < 70  # from 280 letters
    assert bpe.vocab_size == 64
    assert bpe.pad_id == PAD
    file = tmp_path / "tokenizer.json"
    file.write_text(bpe.spec()["json"])
    np.testing.assert_array_equal(BpeTokenizer.from_file(file).encode(b"ACGTTGCAN"), bpe.encode(b"ACGTTGCAN"))


def test_bpe_cuts_no_long_sequence(bpe: BpeTokenizer) -> None:
    cut = json.loads(bpe.spec()["json"])
    cut["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    sequence = random_sequence(400)
    assert BpeTokenizer(json.dumps(cut)).decode(bpe.encode(sequence)) == sequence
    np.testing.assert_array_equal(BpeTokenizer(json.dumps(cut)).encode(sequence), bpe.encode(sequence))


def test_bpe_faults(bpe: BpeTokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text('{"no": "tokenizer"}')
    with pytest.raises(UserError, match=r"tokenizer.json: not a tokenizer of Hugging Face"):
        BpeTokenizer.from_file(file)
    with pytest.raises(UserError, match="no padding token"):
        BpeTokenizer(bpe.spec()["json"].replace("[PAD]", "[GAP]"))
    with pytest.raises(UserError, match="vocab_size 3 for BPE; give 12 or more"):
        BpeTokenizer.train([b"ACGT"], vocab_size=3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "unknown kind None"),
        ({"kind": "os.system"}, "unknown kind 'os.system'; known are character, kmer, bpe"),
        ({"kind": ["character"]}, "unknown kind"),
        ({"kind": "kmer", "k": 3}, "it takes .'k', 'overlapping'. and nothing else"),
        ({"kind": "character", "where": "x"}, "tokenizer character with the fields .'where'."),
        ({"kind": "kmer", "k": 99, "overlapping": False}, "k = 99"),
    ],
)
def test_bad_specs_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokenizer_from_spec(spec)


def test_encoding_is_fast() -> None:
    tokenizer = CharacterTokenizer()
    sequence = random_sequence(4_000_000)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        tokenizer.encode(sequence)
        seconds.append(time.perf_counter() - start)
    # About 1 GB/s on one core; a loop over letters makes 0.02.
    assert len(sequence) / min(seconds) > 300e6
