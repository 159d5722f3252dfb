"""The classifier as a function of sequences: what stands beside them changes nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ssmbio.backbones import Stack
from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.records import Record
from ssmbio.data.tokenizers import BpeTokenizer, CharacterTokenizer, KmerTokenizer, Tokenizer
from ssmbio.mixers import BiMamba, Mamba
from ssmbio.pipelines import DnaClassify

BACKBONES = {
    "mamba": partial(Stack, mixer=partial(Mamba, d_state=4)),
    "bimamba": partial(Stack, mixer=partial(BiMamba, d_state=4)),
    "bidirectional_mamba": partial(Stack, mixer=partial(Mamba, d_state=4), bidirectional=True),
}


def classifier(backbone: str = "bimamba", pooling: str = "mean", labels=("a", "b", "c"), problem="multiclass"):
    torch.manual_seed(0)
    facts = {"tokenizer": CharacterTokenizer().spec(), "labels": list(labels), "problem": problem, "max_length": 1000}
    return DnaClassify(BACKBONES[backbone](8, 2), facts, pooling=pooling).eval()


def batch_of(sequences: list[torch.Tensor], padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    ids = torch.full((len(sequences), int(lengths.max()) + padding), 4)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "attention"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_are_the_same_alone_beside_longer_ones_and_for_any_padding(backbone, pooling):
    model = classifier(backbone, pooling)
    sequences = [torch.randint(7, 11, (n,)) for n in (1, 9, 130, 40)]
    alone = torch.cat([model(*batch_of([sequence])) for sequence in sequences])
    together = model(*batch_of(sequences))
    padded = model(*batch_of(sequences, padding=37))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)
    assert (alone[1] - alone[2]).abs().max() > 1e-3  # the logits do depend on the sequence


@pytest.mark.parametrize("both_strands", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_full_rows_need_no_lengths(backbone, both_strands):
    model = classifier(backbone)
    model.set_both_strands(both_strands)
    ids, lengths = batch_of([torch.randint(7, 11, (33,)) for _ in range(3)])
    assert torch.equal(model(ids), model(ids, lengths))
    assert torch.equal(model.infer(ids), model.infer(ids, lengths))


@pytest.mark.parametrize(("sizes", "full"), [((9, 9), True), ((9, 8), False), ((1,), True)])
def test_only_batches_without_padding_are_the_same_work_every_time(sizes, full):
    model = classifier()
    batch = model.collate([Record(name=str(n), sequence=b"A" * n) for n in sizes])
    assert batch["full"] is full
    assert len(model.inputs(batch)) == (1 if full else 2)
    assert model.static_forward(batch) is full


def test_gradients_do_not_see_padding():
    model = classifier()
    sequences = [torch.randint(7, 11, (n,)) for n in (5, 30)]
    gradients = []
    for padding in (0, 20):
        model.zero_grad()
        model(*batch_of(sequences, padding)).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    pad_row = model.embedding.weight.grad[4]
    assert pad_row.abs().max() == 0


def test_probabilities_fit_the_problem():
    from ssmbio.training.metrics import probabilities

    batch = batch_of([torch.randint(7, 11, (20,))])
    binary = probabilities(classifier(labels=("no", "yes"), problem="binary")(*batch), "binary")
    several = probabilities(classifier(problem="multilabel")(*batch), "multilabel")
    torch.testing.assert_close(binary.sum(1), torch.ones(1))
    assert several.shape == (1, 3)
    assert ((several > 0) & (several < 1)).all()


def letters(count: int, seed: int) -> bytes:
    return bytes(b"ACGTN"[int(i)] for i in torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("kind", ["character", "words", "overlapping words", "byte pairs"])
def test_the_mean_of_both_strands_is_the_same_from_either_with_every_tokenizer(kind):
    sequences = [letters(n, n) for n in (1, 7, 40, 33)]
    tokenizer: Tokenizer = {
        "character": CharacterTokenizer,
        "words": lambda: KmerTokenizer(3),
        "overlapping words": lambda: KmerTokenizer(3, overlapping=True),
        "byte pairs": lambda: BpeTokenizer.train(sequences, 30),
    }[kind]()
    torch.manual_seed(0)
    facts = {"tokenizer": tokenizer.spec(), "labels": ["a", "b"], "problem": "binary", "max_length": 1000}
    model = DnaClassify(BACKBONES["mamba"](8, 2), facts).eval()

    def infer(sequences: list[bytes]) -> torch.Tensor:
        rows = [torch.from_numpy(tokenizer.encode(sequence)).long() for sequence in sequences]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)
        return model.infer(ids, torch.tensor([len(row) for row in rows]))

    turned = [reverse_complement(sequence) for sequence in sequences]
    one, other = infer(sequences), infer(turned)
    assert (one - other)[1:].abs().max() > 1e-3  # one strand alone is not symmetric
    model.set_both_strands(True)
    torch.testing.assert_close(infer(sequences), (one + other) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(infer(turned), infer(sequences), rtol=0, atol=1e-6)
