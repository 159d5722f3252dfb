"""The classifier of pixels as a function of an image: normalisation, order and channels are those of its facts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ssmbio.backbones import Stack
from ssmbio.data.images import Image
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.errors import UserError
from ssmbio.mixers import BiMamba, Mamba
from ssmbio.pipelines import DnaClassify, PixelClassify, SequenceClassify

LABELS = {"labels": ["a", "b", "c"], "problem": "multiclass", "class_weights": None}
LISTOPS = {**LABELS, "tokenizer": {"kind": "listops"}, "max_length": 100}


def facts(channels: int = 1, order: list[int] | None = None, scale: float = 1.0) -> dict:
    image = {
        "shape": [4, 5, channels],
        "size": None,
        "mean": [0.3 * scale] * channels,
        "std": [0.2 * scale] * channels,
        "order": order,
    }
    return {**LABELS, "image": image}


def classifier(mixer=BiMamba, **settings) -> PixelClassify:
    torch.manual_seed(0)
    return PixelClassify(Stack(8, 2, partial(mixer, d_state=4)), facts(**settings)).eval()


def images(count: int = 3, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 128, (count, 4, 5, channels), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_do_not_depend_on_what_else_is_in_the_batch(channels):
    model, batch = classifier(channels=channels), images(channels=channels)
    together = model(batch)
    assert together.shape == (3, 3)
    torch.testing.assert_close(together[1:2], model(batch[1:2]), rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_normalisation_is_what_the_facts_say():
    """Twice as bright, under a mean and a deviation twice as large, is the same image."""
    batch = images()
    torch.testing.assert_close(classifier(scale=2.0)(2 * batch), classifier()(batch), rtol=0, atol=1e-5)
    assert (classifier(scale=2.0)(batch) - classifier()(batch)).abs().max() > 1e-3
    model = classifier()
    seen = []
    model.embedding.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(batch)
    expected = (batch.double() / 255 - 0.3) / 0.2
    torch.testing.assert_close(seen[0].double(), expected.reshape(3, 20, 1), rtol=0, atol=1e-6)


def test_the_order_of_pixels_is_what_the_facts_say():
    """Reading in an order is reading the image, rearranged, row by row."""
    order = np.random.default_rng(0).permutation(20)
    batch = images()
    rearranged = batch.flatten(1, 2)[:, order].reshape(batch.shape)
    permuted = classifier(order=order.tolist())
    assert torch.equal(permuted(batch), classifier()(rearranged))
    assert (permuted(batch) - classifier()(batch)).abs().max() > 1e-4


def test_every_pixel_is_seen_and_a_causal_model_sees_them_in_order():
    model = classifier(partial(Mamba))
    batch = images(1)
    seen = []
    model.backbone.register_forward_hook(lambda module, given, out: seen.append(out[0].detach()))
    model(batch)
    for row, column in ((0, 0), (1, 2), (3, 4)):
        changed = batch.clone()
        changed[0, row, column] += 100
        model(changed)
        moved = (seen[-1] - seen[0]).abs().amax((0, 2)) > 1e-6
        first = 5 * row + column
        assert not moved[:first].any()
        assert moved[first]


def test_records_become_a_batch_in_their_order():
    model, batch = classifier(), images()
    records = [Image(str(i), pixels) for i, pixels in enumerate(batch.numpy())]
    collated = model.collate(records)
    assert torch.equal(collated["pixels"], batch)
    torch.testing.assert_close(model.infer(*model.inputs(collated)), model(batch), rtol=0, atol=0)


def test_the_embedding_is_float32_under_autocast():
    model = classifier()
    seen = []
    model.embedding.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images())
    assert seen == [torch.float32]


def test_data_of_another_kind_are_refused():
    stack = partial(Stack, 8, 1, partial(Mamba, d_state=4))
    dna = {**LABELS, "tokenizer": CharacterTokenizer().spec(), "max_length": 100}
    with pytest.raises(UserError, match="these data are sequences, not images"):
        PixelClassify(stack(), dna)
    for task in (DnaClassify, SequenceClassify):
        with pytest.raises(UserError, match="these data are images"):
            task(stack(), facts())
    with pytest.raises(UserError, match="not DNA; choose task=sequence_classify"):
        DnaClassify(stack(), LISTOPS)


def test_listops_tokens_go_through_packed_batches():
    torch.manual_seed(0)
    model = SequenceClassify(Stack(8, 2, partial(BiMamba, d_state=4)), LISTOPS).eval()
    rows = [torch.randint(7, 22, (n,)) for n in (5, 30, 12)]
    alone = torch.cat([model(row[None], torch.tensor([len(row)])) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=4)
    together = model(padded, torch.tensor([len(row) for row in rows]))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not hasattr(model, "both_strands")
