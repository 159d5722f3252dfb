"""Fused steps: they mean what the modules' steps mean, row by row, and lanes change nothing."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from fused_cases import EXACT, INEXACT, S4D6, ZERO, Deferred, make, net, some_codes
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.generation import SamplingSettings, clips, generate_clips, recurrent, stream_codes
from ssmbio.generation.fused import FusedModel, NotFused
from ssmbio.generation.fused_net import FusedState
from ssmbio.generation.fused_stage import WholeStage
from ssmbio.generation.lanes import Order
from ssmbio.generation.period_graph import PeriodGraph, own_tensors
from ssmbio.generation.recurrent import Decoder, Prefix, decode
from ssmbio.generation.sampling import ClipStreams

MODELS = EXACT | INEXACT
WHOLE = ("s4d", "dss", "one_pool_odd", "three_pools")
# Of each kind of block one, small enough for Triton's interpreter.
TINY = {
    "s4d": net(6, 2, pool=(2, 2), mixer=S4D6),
    "layers_both_ways": net(6, 1, pool=(2,), mixer=S4D6, unet=True),
    "mamba_centre": net(6, 1, pool=(2,), mixer=S4D6, mixers=EXACT["mamba_centre"].keywords["mixers"]),
    "stack_mamba": EXACT["stack_mamba"],
}


def walk(model: Any, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Single steps: logits (B, L, 256) and the state."""
    state = model.initial_state(len(codes)) if state is None else state
    made = []
    for code in codes.unbind(1):
        logits, state = model.step(code, state)
        made.append(logits)
    return torch.stack(made, 1), state


def assert_same_state(found: Any, right: Any, rtol: float, atol: float) -> None:
    assert pytree.tree_structure(found) == pytree.tree_structure(right)
    for one, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(right), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)])
def test_steps_are_those_of_the_modules(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """In logits over more than two periods, and in the state at every phase."""
    model = make(MODELS[name], dtype)
    fused, codes = FusedModel(model), some_codes(3, 2 * model.period + 7)
    # Some states are float32 also in a model of float64.
    theirs, ours = (own_tensors(one.initial_state(3), wide=dtype == torch.float64) for one in (model, fused))
    for code in codes.unbind(1):
        right, theirs = model.step(code, theirs)
        found, ours = fused.step(code, ours)
        torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance)
        assert_same_state(fused._net.of_backbone(ours), theirs, tolerance, tolerance)
    assert found.abs().max() > 1
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_may_be_split_anywhere(name: str) -> None:
    model = make(MODELS[name], torch.float64)
    fused, codes = FusedModel(model), some_codes(2, 2 * model.period + 9)
    right, end = walk(fused, codes)
    more, ends = walk(fused, some_codes(2, 20), end)[0], []
    for sizes in ([codes.shape[1]], [1, 5, codes.shape[1] - 6], [model.period, model.period, 9]):
        state, made = None, []
        for piece in codes.split(sizes, 1):
            before = None if state is None else pytree.tree_map(torch.clone, state)
            logits, after = fused.prefill(piece, state)
            if state is not None:
                assert_same_state(state, before, 0, 0)
            made.append(logits)
            state = after
        torch.testing.assert_close(torch.cat(made, 1), right, rtol=1e-6, atol=1e-6)
        ends.append(walk(fused, some_codes(2, 20), state)[0])
    for found in ends:
        torch.testing.assert_close(found, more, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_kernels_compute_the_steps_row_by_row(name: str) -> None:
    """In Triton: the modules' logits; and a row's are the same bits alone and in company."""
    model = make(TINY[name])
    fused, codes = FusedModel(model, "triton"), some_codes(3, 2 * model.period + 1)
    found, state = walk(fused, codes)
    torch.testing.assert_close(found, walk(model, codes)[0], rtol=2e-5, atol=2e-5)
    alone, state_alone = walk(fused, codes[1:2])
    assert torch.equal(alone, found[1:2])
    for one, many in zip(pytree.tree_leaves(state_alone), pytree.tree_leaves(state), strict=True):
        axis = next(i for i, (a, b) in enumerate(zip(one.shape, many.shape, strict=True)) if a != b)
        assert torch.equal(one, many.narrow(axis, 1, 1))


@pytest.mark.parametrize("name", MODELS)
def test_which_parts_are_exact(name: str) -> None:
    fused = FusedModel(make(MODELS[name]))
    assert (fused.inexact == []) == (name in EXACT)
    kinds = {type(stage) for stage in fused._net._stages.values()}
    assert (kinds == {WholeStage}) == (name in WHOLE)


def test_layers_that_differ_in_size_go_block_by_block() -> None:
    model = make(MODELS["s4d"])
    centre = model.backbone.stage("centre").blocks
    centre[1] = type(centre[1])(48, 1, 0.0).eval()
    fused, codes = FusedModel(model), some_codes(2, 20)
    assert type(fused._net._stages["centre"]) is not WholeStage
    torch.testing.assert_close(walk(fused, codes)[0], walk(model, codes)[0], rtol=2e-5, atol=2e-5)


def test_norms_of_another_eps_are_kept_apart() -> None:
    model = make(MODELS["s4d"], torch.float64)
    for block in model.backbone.stage("up_0").blocks[2:]:
        block.norm.eps = 0.1
    for block in model.backbone.stage("up_1").blocks:
        block.norm.eps = 0.2
    model.backbone.norm.eps = 0.3
    codes = some_codes(2, 20)
    torch.testing.assert_close(walk(FusedModel(model), codes)[0], walk(model, codes)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["s4d", "three_pools", "layers_both_ways", "mamba_centre", "h3_centre", "stack_mamba"])
def test_tasks_that_come_as_late_as_they_may_change_nothing(name: str) -> None:
    """So streams that keep the order of reads and writes give the same, however fast each is."""
    model = make(MODELS[name])
    fused, codes = FusedModel(model), some_codes(2, 3 * model.period)
    right, end = walk(fused, codes)
    fused._lanes = lanes = Deferred()
    found, state = walk(fused, codes)
    lanes.join()
    assert torch.equal(found, right)
    assert_same_state(state, end, 0, 0)
    assert lanes.most_put_off >= (2 if model.period > 1 else 0), "lower rates run beside the highest"


def test_tasks_that_forget_what_they_read_are_found_out() -> None:
    model = make(MODELS["s4d"])
    fused, codes = FusedModel(model), some_codes(2, 3 * model.period)
    right, _ = walk(fused, codes)
    fused._lanes = Deferred(forget=True)
    assert not torch.equal(walk(fused, codes)[0], right)


def test_order_waits_for_writers_and_readers_and_no_more() -> None:
    order = Order()

    def waits(lane: int, reads: str = "", writes: str = "") -> list[tuple[int, int]]:
        return [(mark.lane, mark.number) for mark in order.add(lane, reads, writes)[1]]

    assert waits(0, writes="x") == []
    assert waits(1, reads="x", writes="y") == [(0, 1)]
    assert waits(1, reads="x") == [], "its lane has waited for it"
    assert waits(2, reads="xy") == [(1, 1)], "lane 1 had waited for lane 0"
    assert waits(0, reads="x") == [], "nobody has to wait for other readers"
    assert set(waits(0, writes="x")) == {(1, 2), (2, 1)}
    assert waits(1, writes="y") == [(2, 1)]
    assert waits(2, reads="xy") == [(0, 3), (1, 3)]
    assert waits(1, reads="x") == [(0, 3)]


@pytest.mark.parametrize("name", ["s4d", "mamba_centre", "stack_mamba"])
def test_the_loop_draws_what_it_draws_from_the_modules(name: str) -> None:
    """The same codes, after a prompt and in pieces that end within a period."""
    model = make(MODELS[name], torch.float64)
    prompt = some_codes(1, 21)[0].numpy().astype(np.uint8)
    found = []
    for one in (model, FusedModel(model)):
        decoder = Decoder(one, 3, SamplingSettings(0.9, top_k=100), compiled=False)
        decoder.start(Prefix(one, prompt))
        parts = [decoder.advance(part) for part in ClipStreams(0, range(3), 21).next(70).split([3, 20, 47], 1)]
        found.append([torch.cat(of_parts, 1) for of_parts in zip(*parts, strict=True)])
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-6)


def replayed_on_the_cpu(graph: PeriodGraph) -> None:
    """In place of a capture: what a replay does is run, and its results are put where a graph would put them."""
    graph._codes, graph._bits = graph._run()

    class Replayed:
        def replay(self) -> None:
            for buffer, made in zip((graph._codes, graph._bits), graph._run(), strict=True):
                buffer.copy_(made)

    graph._graph = Replayed()  # type: ignore[assignment]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation from fused models in graphs, with a round under way while another is looked at."""
    monkeypatch.setattr(clips, "prepared", lambda model: model)
    monkeypatch.setattr(PeriodGraph, "_capture", replayed_on_the_cpu)
    monkeypatch.setattr(Decoder, "ahead", 1)
    graph = lambda self, *_: PeriodGraph(self._decode, self._previous, self._state, self.stride)  # noqa: E731
    monkeypatch.setattr(Decoder, "_fast_loop", graph)


@pytest.mark.parametrize("name", ["s4d", "mamba_centre", "stack_mamba"])
@pytest.mark.parametrize("length", [0, 21, 160])
def test_graphs_make_what_the_plain_loop_makes(as_on_a_gpu: None, name: str, length: int) -> None:
    """Over several graphs, one that is used in part, and a second batch, which begins where the first began."""
    model = FusedModel(make(MODELS[name], torch.float64))
    prompt = some_codes(1, length)[0].numpy().astype(np.uint8) if length else None
    ask = {"n": 3, "batch_size": 2, "samples": length + 3 * model.stride + 30, "seed": 2, "prompt": prompt}
    one, other = (list(generate_clips(model, **ask, compiled=compiled)) for compiled in (None, False))
    for graph, plain in zip(one, other, strict=True):
        assert np.array_equal(graph.codes, plain.codes)
        assert graph.nll_bits == pytest.approx(plain.nll_bits, abs=1e-9)
    assert not np.array_equal(one[0].codes, one[1].codes)
    stream = stream_codes(model, seed=2, prompt=prompt, samples=ask["samples"])
    assert np.array_equal(np.concatenate(list(stream)), one[0].codes[length:])


@pytest.mark.parametrize(("length", "plainly"), [(0, []), (3, [13]), (21, [11]), (160, []), (250, [6])])
def test_only_the_rest_of_a_period_runs_outside_graphs(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch, length: int, plainly: list[int]
) -> None:
    model, plain = FusedModel(make(MODELS["s4d"], torch.float64)), Decoder._plain
    found: list[int] = []

    def noted(self: Decoder, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        found.append(uniforms.shape[1])
        return plain(self, uniforms)

    monkeypatch.setattr(Decoder, "_plain", noted)
    prompt = some_codes(1, length)[0].numpy().astype(np.uint8) if length else None
    (clip,) = generate_clips(model, n=1, samples=length + 500, prompt=prompt)
    assert len(clip.codes) == length + 500
    assert found == plainly


def test_likelihood_is_that_of_one_forward_pass(as_on_a_gpu: None) -> None:
    model = make(MODELS["s4d"], torch.float64)
    for clip in generate_clips(FusedModel(model), n=2, samples=300, seed=1):
        codes = torch.from_numpy(clip.codes.astype(np.int64))
        logits, _ = model.prefill(torch.cat([torch.tensor([ZERO]), codes[:-1]])[None])
        bits = -logits[0].log_softmax(-1).gather(1, codes[:, None]).mean().item() / np.log(2)
        assert clip.nll_bits == pytest.approx(bits, abs=1e-7)


def test_a_graph_copies_no_state_that_steps_overwrite(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FusedModel(make(MODELS["s4d"]))
    state = model.initial_state(2)
    graph = PeriodGraph(
        lambda *given: decode(model, SamplingSettings(), *given), torch.full((2,), ZERO), state, model.period
    )
    copied: list[int] = []
    monkeypatch.setattr(torch, "_foreach_copy_", lambda buffers, new: copied.append(len(buffers)))
    graph(torch.rand(2, 2 * model.period, dtype=torch.float64))
    assert copied == []


def test_what_the_steps_are_not_made_for_is_refused() -> None:
    class Other(nn.Module):
        causal, period, d_model = True, 1, 4

    model = make(MODELS["s4d"])
    model.backbone = Other()  # type: ignore[assignment]
    with pytest.raises(NotFused, match="its backbone is a Other"):
        FusedModel(model)
    model = make(MODELS["s4d"])
    model.head = nn.Sequential(model.head)  # type: ignore[assignment]
    with pytest.raises(NotFused, match="it is not an embedding, a backbone and a linear head"):
        FusedModel(model)
    model = make(MODELS["s4d"])
    model.backbone.stage("up_0").blocks[0] = nn.Identity()
    with pytest.raises(NotFused, match="must be a Block or a FeedForwardBlock; got Identity"):
        FusedModel(model)


@pytest.mark.parametrize(("name", "said"), [("s4d", []), ("s4", ["LowRankSSM behind LayerNorm has no fused step"])])
def test_it_says_where_clips_may_depend_on_the_batch(
    name: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    recurrent._note.cache_clear()
    with caplog.at_level(logging.WARNING):
        fused = recurrent._fused(make(MODELS[name]))
    assert isinstance(fused, FusedModel)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == said


def test_states_are_leaves_of_tensors_with_the_phase_outside() -> None:
    fused = FusedModel(make(MODELS["s4d"]))
    state = fused.initial_state(2)
    assert all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(state))
    _, after = fused.step(torch.tensor([1, 2]), state)
    assert isinstance(after, FusedState)
    assert after.phase == 1
    assert all(a is b for a, b in zip(pytree.tree_leaves(after), pytree.tree_leaves(state), strict=True))
