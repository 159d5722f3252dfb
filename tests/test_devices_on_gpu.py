"""One checkpoint, two devices: `pytest -m gpu` on a machine with a CUDA GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmbio.backbones import Stack
from ssmbio.data.alphabet import reverse_complement
from ssmbio.data.batches import Collate, Example
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.mixers import BiMamba, Mamba
from ssmbio.pipelines import DnaClassify

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

LENGTHS = (300, 1, 129, 64, 600, 17)


def batch(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (6, 600), lengths (6,), labels (6,): the class is whether a motif stands in the sequence."""
    tokenizer, examples = CharacterTokenizer(), []
    for index, length in enumerate(LENGTHS):
        sequence = bytes(np.frombuffer(b"ACGTN", np.uint8)[rng.integers(0, 5, length)])
        label = int(rng.integers(0, 2))
        if label and length > 20:
            sequence = sequence[: length // 2] + b"TATAAT" + sequence[length // 2 + 6 :]
        sequence = reverse_complement(sequence) if rng.random() < 0.5 else sequence
        examples.append(Example(tokenizer.encode(sequence), None, np.array(label), index))
    made = Collate(tokenizer.pad_id)(examples)
    return made["ids"], made["lengths"], made["labels"]


def classifier(mixer: type, bidirectional: bool, pooling: str, both_strands: bool = False) -> DnaClassify:
    backbone = Stack(64, 3, partial(mixer, d_state=16), bidirectional=bidirectional)
    facts = {"tokenizer": CharacterTokenizer().spec(), "labels": ["a", "b"], "problem": "binary", "max_length": 2000}
    return DnaClassify(backbone, facts, pooling=pooling, both_strands=both_strands)


def train_a_little(model: DnaClassify) -> None:
    """Eight steps on the CPU, so that the weights are no longer those it began with."""
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(8):
        ids, lengths, labels = batch(rng)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(ids, lengths), labels).backward()
        optimizer.step()


@pytest.fixture
def full_float32() -> Iterator[None]:
    """No TF32: its 10 bits of mantissa are another precision."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize(
    ("mixer", "bidirectional", "pooling"),
    [(BiMamba, False, "max"), (BiMamba, False, "mean"), (Mamba, True, "attention"), (Mamba, False, "last")],
    ids=["bimamba-max", "bimamba-mean", "bidirectional-attention", "mamba-last"],
)
def test_float32_logits_of_a_checkpoint_agree_between_cpu_and_gpu(
    tmp_path: Path, mixer: type, bidirectional: bool, pooling: str
) -> None:
    torch.manual_seed(0)
    model = classifier(mixer, bidirectional, pooling)
    train_a_little(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    ids, lengths, _ = batch(np.random.default_rng(1))
    for both_strands in (False, True):
        logits = {}
        for device in ("cpu", "cuda"):
            model = classifier(mixer, bidirectional, pooling, both_strands)
            model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True, map_location="cpu"))
            with torch.inference_mode():
                logits[device] = model.eval().to(device).infer(ids.to(device), lengths.to(device)).cpu()
        spread = logits["cpu"].amax(0) - logits["cpu"].amin(0)
        assert spread.max() > 1e-2  # the logits do depend on the sequence
        torch.testing.assert_close(logits["cuda"], logits["cpu"], rtol=0, atol=1e-4)
