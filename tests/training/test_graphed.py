"""Training by CUDA graphs is training: `pytest -m gpu`; without a GPU nothing is changed."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssmbio.backbones import Stack, UNet
from ssmbio.data.audio_clips import AudioBatch
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.mixers import S4, S4D, S5, BiMamba, Mamba
from ssmbio.pipelines import AudioGenerate, DnaClassify, PixelClassify
from ssmbio.training.graphed import GraphedTraining, graph_forward

FACTS = {
    "audio": {"sample_rate": 8000, "length": 512, "encoding": {"kind": "mu_law", "bits": 8, "rescale": False}},
}


half_precision = partial(torch.autocast, "cuda", torch.bfloat16, cache_enabled=False)


def model(dropout: float = 0.0) -> AudioGenerate:
    torch.manual_seed(0)
    mixers = {"centre": partial(Mamba, d_state=16)}
    return AudioGenerate(UNet(32, 2, mixer=partial(S4D, d_state=16), mixers=mixers, dropout=dropout), FACTS)


def batch(rows: int, seed: int, device: str) -> AudioBatch:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (rows, 512), generator=random, dtype=torch.uint8)
    lengths = torch.full((rows,), 512)
    return AudioBatch(
        codes=codes.to(device), lengths=lengths.to(device), index=torch.arange(rows), start=0 * lengths, full=True
    )


def trained(graphed: bool, dropout: float = 0.0) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of six steps, one of them of a smaller batch, and the weights after them."""
    net = model(dropout).cuda().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    losses = []
    for step, rows in enumerate((4, 4, 4, 3, 4, 4)):
        given = batch(rows, step, "cuda")
        if graphed and step == 0:
            graph_forward(net, net.inputs(given), half_precision)
        with half_precision():
            torch.manual_seed(step)
            loss = net.loss(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, net.state_dict()


@pytest.mark.gpu
def test_losses_and_weights_are_those_of_plain_training():
    (losses, weights), (expected, expected_weights) = trained(True), trained(False)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[0] != losses[1]
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.gpu
def test_dropout_draws_anew_at_every_step_and_repeats_with_the_seed():
    net = model(dropout=0.5).cuda().train()
    given = batch(4, 0, "cuda")
    graph_forward(net, net.inputs(given), nullcontext)
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(net(*net.inputs(given)).detach().clone())
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[1])


@pytest.mark.gpu
def test_evaluation_runs_without_the_graph():
    net, given = model().cuda().train(), batch(4, 0, "cuda")
    with torch.no_grad():
        expected = net.eval()(*net.inputs(given))
    graph_forward(net.train(), net.inputs(given), nullcontext)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(*net.inputs(given)), expected)


def classifier() -> DnaClassify:
    torch.manual_seed(0)
    facts = {"tokenizer": CharacterTokenizer().spec(), "labels": ["a", "b"], "problem": "binary", "max_length": 200}
    return DnaClassify(Stack(32, 2, partial(BiMamba, d_state=8)), facts, pooling="max")


def labelled(rows: int, lengths: tuple[int, ...], seed: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(7, 11, (rows, 96), generator=random)
    made = torch.tensor(lengths).repeat(rows)[:rows]
    ids[torch.arange(96) >= made[:, None]] = CharacterTokenizer().pad_id
    full = bool((made == 96).all())
    return {"ids": ids, "lengths": made, "index": torch.arange(rows), "labels": (ids == 7).sum(1) % 2, "full": full}


def classified(graphed: bool) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """Losses of steps through the callback, the first and one more of padded rows; the weights; graphed steps."""
    net = classifier().cuda().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    precision = SimpleNamespace(forward_context=half_precision)
    callback, trainer = GraphedTraining(), SimpleNamespace(world_size=1, precision_plugin=precision)
    losses, graphs = [], 0
    for step, lengths in enumerate(((96, 50), (96,), (96,), (30, 96), (96,))):
        given = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in labelled(8, lengths, step).items()}
        if graphed:
            callback.on_train_batch_start(trainer, net, given, step)  # type: ignore[arg-type]
            graphs += "forward" in net.__dict__
        with precision.forward_context():
            loss = net.loss(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        del loss  # as the trainer does: nothing can be captured while the graph of an earlier step is held
    return losses, net.state_dict(), graphs


@pytest.mark.gpu
def test_rows_without_padding_are_graphed_and_others_train_as_ever():
    (losses, weights, graphs), (expected, expected_weights, _) = classified(True), classified(False)
    assert graphs == 3  # from the second batch without padding on
    assert losses == pytest.approx(expected, rel=1e-3)
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("mixer", [S4D, S4, S5])
def test_what_runs_in_float32_has_float32_gradients(mixer):
    """The embedding of pixels leaves autocast; so must its backward pass, graphed or not."""
    image = {"shape": (8, 8, 1), "size": None, "mean": [0.5], "std": [0.25], "order": None}
    facts = {"image": image, "labels": ["a", "b"], "problem": "binary"}
    pixels = torch.randint(0, 256, (16, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).cuda()
    gradients = []
    for graphed in (True, False):
        torch.manual_seed(0)
        net = PixelClassify(Stack(32, 1, partial(mixer, d_state=16)), facts).cuda().train()
        if graphed:
            graph_forward(net, (pixels,), half_precision)
        with half_precision():
            loss = net(pixels).float().square().sum()
        loss.backward()
        gradients.append(net.embedding.weight.grad.clone())
    assert ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item() < 1e-4


def test_without_a_gpu_the_model_stays_as_it_is():
    net = model()
    callback, trainer = GraphedTraining(), SimpleNamespace(world_size=1)
    callback.on_train_batch_start(trainer, net, batch(2, 0, "cpu"), 0)  # type: ignore[arg-type]
    assert "forward" not in net.__dict__
    callback.on_train_end(trainer, net)  # type: ignore[arg-type]


@pytest.mark.parametrize(("epoch", "told"), [(0, True), (1, False)])
def test_a_run_that_replays_nothing_says_so_once(epoch: int, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    trainer = SimpleNamespace(world_size=1, current_epoch=epoch, is_global_zero=True)
    callback, net = GraphedTraining(), model()
    for step in range(2):
        callback.on_train_batch_start(trainer, net, batch(2, step, "cpu"), step)  # type: ignore[arg-type]
    callback.on_train_epoch_end(trainer, net)  # type: ignore[arg-type]
    assert ("no steps are replayed" in caplog.text) is told
