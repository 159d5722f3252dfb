"""The model of codes: what its likelihoods depend on, and that forward, prefill, steps and carried pieces agree."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack, UNet
from ssmbio.data.audio_clips import AudioBatch
from ssmbio.errors import UserError
from ssmbio.mixers import S4D, BiMamba, Mamba
from ssmbio.pipelines import AudioGenerate
from ssmbio.pipelines.base import CHECKPOINT_KEY

ENCODING = {"kind": "mu_law", "bits": 8, "rescale": False}
FACTS = {"audio": {"sample_rate": 8000, "length": 32, "encoding": ENCODING}}
BACKBONES = {
    "unet": lambda: UNet(
        8, 1, pool=(2, 2), mixer=partial(S4D, d_state=4), mixers={"centre": partial(Mamba, d_state=4)}
    ),
    "stack": lambda: Stack(8, 2, partial(S4D, d_state=4)),
}


def model(backbone: str = "unet", **settings) -> AudioGenerate:
    torch.manual_seed(0)
    return AudioGenerate(BACKBONES[backbone](), FACTS, **settings).double().eval()


def codes(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(seed))


def batch_of(codes: torch.Tensor, lengths: list[int], fresh: list[bool] | None = None) -> AudioBatch:
    rows = torch.arange(len(codes))
    batch = AudioBatch(
        codes=codes.to(torch.uint8), lengths=torch.tensor(lengths), index=rows, start=0 * rows, full=False
    )
    if fresh is not None:
        batch["fresh"] = torch.tensor(fresh)
    return batch


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_code_is_predicted_from_those_before_it_alone(backbone):
    net, clip = model(backbone), codes(1, 30)
    logits = net(clip)
    assert logits.shape == (1, 30, 256)
    changed = clip.clone()
    changed[:, 11] = (clip[:, 11] + 7) % 256
    other = net(changed)
    torch.testing.assert_close(other[:, :12], logits[:, :12], rtol=0, atol=1e-12)
    assert ((other[:, 12:] - logits[:, 12:]).abs().amax(-1) > 1e-9).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_forward_is_prefill_is_steps(backbone):
    net, clip = model(backbone), codes(2, 29)
    logits = net(clip)
    inputs = torch.cat([torch.full((2, 1), 128), clip[:, :-1]], 1)
    state = net.initial_state(2)
    stepped = []
    for t in range(29):
        one, state = net.step(inputs[:, t], state)
        stepped.append(one)
    torch.testing.assert_close(torch.stack(stepped, 1), logits.float(), rtol=1e-5, atol=1e-6)
    first, state = net.prefill(inputs[:, :11])
    second, _ = net.prefill(inputs[:, 11:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), logits.float(), rtol=1e-5, atol=1e-6)


def test_bits_are_minus_the_binary_logarithm_of_each_probability():
    net, clip = model(), codes(2, 20)
    expected = -net(clip).softmax(-1).gather(2, clip[..., None])[..., 0].log2()
    torch.testing.assert_close(net.bits(clip), expected)


def test_loss_is_the_mean_over_samples_and_blind_to_padding():
    net, clip = model(), codes(2, 32)
    bits = net.bits(clip)
    expected = (bits[0].sum() + bits[1, :19].sum()) / (32 + 19)
    torch.testing.assert_close(net.loss(batch_of(clip, [32, 19])), expected)
    other = clip.clone()
    other[1, 19:] = 5
    torch.testing.assert_close(net.loss(batch_of(other, [32, 19])), expected)


def test_carried_pieces_have_the_likelihood_of_the_whole():
    net, clip = model(carry=True), codes(2, 96)
    whole = net.bits(clip)
    for at in range(0, 96, 32):
        piece = batch_of(clip[:, at : at + 32], [32, 32], [at == 0] * 2)
        torch.testing.assert_close(net.loss(piece), whole[:, at : at + 32].mean())


def test_a_fresh_row_starts_anew_and_the_others_go_on():
    net, first, second = model(carry=True), codes(2, 32), codes(2, 32, seed=1)
    net.loss(batch_of(first, [32, 32], [True, True]))
    loss = net.loss(batch_of(second, [32, 32], [False, True]))
    went_on = net.bits(torch.cat([first, second], 1))[0, 32:]
    began = net.bits(second)[1]
    torch.testing.assert_close(loss, (went_on.sum() + began.sum()) / 64)


def test_no_gradient_crosses_from_a_piece_to_the_one_before():
    net = model(carry=True).train()
    net.loss(batch_of(codes(1, 32), [32], [True])).backward()
    net.loss(batch_of(codes(1, 32, seed=1), [32], [False])).backward()  # the first graph is freed by now
    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves(net._carried) if isinstance(leaf, torch.Tensor))


def test_a_batch_without_samples_has_loss_zero_and_no_nan():
    net = model(carry=True).train()
    loss = net.loss(batch_of(codes(2, 16), [0, 0], [True, True]))
    loss.backward()
    assert loss == 0
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_a_checkpoint_holds_what_is_carried():
    net, other, clip = model(carry=True), model(carry=True), codes(2, 64)
    net.loss(batch_of(clip[:, :32], [32, 32], [True, True]))
    checkpoint = {"state_dict": net.state_dict()}
    net.on_save_checkpoint(checkpoint)
    assert checkpoint[CHECKPOINT_KEY]["task"] == "audio_generate"
    other.on_load_checkpoint(checkpoint)
    rest = batch_of(clip[:, 32:], [32, 32], [False, False])
    torch.testing.assert_close(other.loss(rest), net.loss(rest))
    assert (model(carry=True).loss(rest) - net.loss(rest)).abs() > 1e-6


def test_bidirectional_backbones_and_other_data_are_refused():
    with pytest.raises(UserError, match=r"cannot generate.*causal mixer"):
        AudioGenerate(Stack(8, 1, partial(BiMamba, d_state=4)), FACTS)
    with pytest.raises(UserError, match=r"not audio, which audio_generate needs; choose data=audio_folder"):
        AudioGenerate(BACKBONES["stack"](), {"tokenizer": {}})
    with pytest.raises(UserError, match=r"no encoding, which audio_generate needs"):
        AudioGenerate(BACKBONES["stack"](), {"audio": {"sample_rate": 8000, "length": 32}})
    uneven = {"audio": {**FACTS["audio"], "length": 34}}
    with pytest.raises(UserError, match=r"data.length=34.*multiple of 4"):
        AudioGenerate(BACKBONES["unet"](), uneven, carry=True)
