"""Generated clips: their codes depend on what they should and on nothing else, their likelihoods are the model's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack, UNet
from ssmbio.errors import UserError
from ssmbio.generation import Clip, SamplingSettings, generate_clips, packed, recurrent, stream_codes
from ssmbio.generation.clips import _ROUND
from ssmbio.generation.recurrent import Decoder, Prefix, prepared
from ssmbio.generation.sampling import ClipStreams
from ssmbio.mixers import DSS, H3, S4, S4D, Hyena, Mamba

ZERO = 128


class CodesModel(nn.Module):
    """An embedding, a backbone and a head, with what generation asks for."""

    encoding = SimpleNamespace(zero=ZERO)

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.period = getattr(backbone, "period", 1)
        self.embedding = nn.Embedding(256, backbone.d_model)
        self.backbone = backbone
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(backbone.d_model, 256)

    def initial_state(self, batch_size: int) -> Any:
        return self.backbone.initial_state(batch_size)

    def step(self, codes: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.backbone.step(self.dropout(self.embedding(codes)), state)
        return self.head(y), state

    def prefill(self, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.backbone(self.dropout(self.embedding(codes)), state)
        return self.head(y), state


class Gated(nn.Module):
    """A recurrence that no compiled loop knows."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.cell = nn.GRUCell(d_model, d_model)

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        return {"h": self.cell.weight_hh.new_zeros(batch_size, self.d_model)}

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.cell(x, state["h"])
        return h, {"h": h}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        state, made = state or self.initial_state(len(x)), []
        for x_t in x.unbind(1):
            y, state = self.step(x_t, state)
            made.append(y)
        return torch.stack(made, 1), state


def small(mixer: Any, **other: Any) -> Any:
    return partial(UNet, **{"d_model": 12, "n_layers": 1, "mixer": mixer, **other})


PACKED = {
    "s4d": small(partial(S4D, d_state=6)),
    "three_rates": small(S4D, d_model=16, pool=(3, 2), expand=3, ff=1.5, n_layers=2),
    "s4": small(S4),
    "s4_of_rank_2": small(partial(S4, init="legt", d_state=10)),
    "dss": small(partial(DSS, d_state=8, l_max=64)),
    "mamba": small(partial(Mamba, d_state=5), ff=0),
    "layers_both_ways": small(S4D, unet=True, n_layers=2),
    "mixed": small(S4D, mixers={"centre": Mamba, "outer": S4}),
    "stack": partial(Stack, 20, 3, partial(Mamba, d_conv=2, expand=1.5)),
    "one_pool": small(S4D, pool=(4,)),
}
PLAIN = {"gated": partial(Gated, 10), "h3": small(H3), "hyena": partial(Stack, 8, 2, partial(Hyena, l_max=128))}
EITHER_WAY = [("s4d", True), ("s4d", False), ("mixed", True), ("mixed", False), ("gated", None), ("h3", None)]


def make(name: str) -> CodesModel:
    """A model whose distributions are neither flat nor certain."""
    torch.manual_seed(0)
    model = CodesModel((PACKED | PLAIN)[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.head.weight *= 3
    return model


def bits_in_parallel(model: CodesModel, codes: np.ndarray) -> Tensor:
    """Teacher forcing: (L,) bits of each code in one forward pass over its predecessors."""
    model = copy.deepcopy(model).eval()
    given = torch.from_numpy(codes.astype(np.int64))
    with torch.no_grad():
        logits, _ = model.prefill(torch.cat([torch.tensor([ZERO]), given[:-1]])[None])
    return -logits[0].log_softmax(-1).gather(1, given[:, None])[:, 0] / np.log(2)


def codes_of(clips: Iterator[Clip]) -> list[bytes]:
    return [clip.codes.tobytes() for clip in clips]


def some_codes(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(100, 156, count).astype(np.uint8)


@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings(0.8, 50, 0.9, 0.01)])
def test_likelihood_from_steps_is_that_of_one_forward_pass(name: str, settings: SamplingSettings) -> None:
    """Of the generated samples alone, and of the model's own distribution also when draws are from another."""
    model, prompt = make(name), some_codes(9)
    for given in (None, prompt):
        for clip in generate_clips(model, n=2, samples=83, settings=settings, seed=3, prompt=given):
            bits = bits_in_parallel(model, clip.codes)[clip.prompt_samples :]
            assert clip.prompt_samples == (0 if given is None else 9)
            assert 1 < clip.nll_bits < 9
            assert clip.nll_bits == pytest.approx(bits.mean().item(), abs=1e-4)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings(1.2, 50, 0.9, 0.01), SamplingSettings(0)])
def test_compiled_loop_makes_what_the_plain_one_makes(name: str, settings: SamplingSettings) -> None:
    ask = {"n": 3, "samples": 85, "settings": settings, "seed": 1, "prompt": some_codes(19)}
    for one, other in zip(
        generate_clips(make(name), **ask, compiled=True), generate_clips(make(name), **ask, compiled=False), strict=True
    ):
        assert np.array_equal(one.codes, other.codes)
        assert one.nll_bits == pytest.approx(other.nll_bits, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(), SamplingSettings(0.5), SamplingSettings(top_k=7), SamplingSettings(top_p=0.7),
        SamplingSettings(min_p=0.3), SamplingSettings(1.5, 100, 0.6, 0.1), SamplingSettings(top_p=1e-17),
        SamplingSettings(0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pattern", ["rounded", "half_impossible", "flat", "steep"])
def test_compiled_draws_are_those_of_the_plain_loop_also_at_ties(pattern: str, settings: SamplingSettings) -> None:
    model = make("stack")
    bias = 3 * torch.randn(256)
    patterns = {
        "rounded": bias.round(),
        "half_impossible": bias.round().masked_fill(torch.arange(256) < 128, -torch.inf),
        "flat": torch.zeros(256),
        "steep": torch.linspace(-200, 0, 256),
    }
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(patterns[pattern])
    for one, other in zip(
        *(generate_clips(model, n=3, samples=100, settings=settings, compiled=way) for way in (True, False)),
        strict=True,
    ):
        assert np.array_equal(one.codes, other.codes)
        assert one.nll_bits == pytest.approx(other.nll_bits, abs=1e-9)


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
def test_clip_k_is_the_same_whatever_the_batch_and_the_number_of_clips(name: str, compiled: bool | None) -> None:
    model = make(name)
    ask = {"samples": 150, "seed": 11, "prompt": some_codes(5), "compiled": compiled}
    whole = codes_of(generate_clips(model, n=5, batch_size=5, **ask))
    assert len(set(whole)) == 5
    for n, batch_size in ((5, 1), (5, 2), (5, 3), (2, 64), (1, 1)):
        assert codes_of(generate_clips(model, n=n, batch_size=batch_size, **ask)) == whole[:n]
    assert codes_of(generate_clips(model, n=1, **{**ask, "seed": 12})) != whole[:1]


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
def test_threads_do_not_matter(name: str, compiled: bool | None) -> None:
    model, threads = make(name), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(codes_of(generate_clips(model, n=3, samples=40, compiled=compiled)))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
def test_a_short_clip_is_the_beginning_of_a_long_one(name: str, compiled: bool | None) -> None:
    model = make(name)
    (long,) = generate_clips(model, n=1, samples=_ROUND + 40, compiled=compiled)
    for samples in (1, 16, 37, _ROUND, _ROUND + 1):
        (short,) = generate_clips(model, n=1, samples=samples, compiled=compiled)
        assert np.array_equal(short.codes, long.codes[:samples])


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 45])
def test_after_its_own_beginning_as_a_prompt_a_clip_goes_on_as_it_did(name, compiled, length: int) -> None:
    """So prompts end anywhere in a period; and a sample's number is that of its place in the clip."""
    model = make(name)
    (clip,) = generate_clips(model, n=1, samples=100, seed=2, compiled=compiled)
    prompt = clip.codes[:length].copy()
    (again,) = generate_clips(model, n=1, samples=100, seed=2, prompt=prompt, compiled=compiled)
    assert np.array_equal(again.codes, clip.codes)
    (other,) = generate_clips(model, n=1, samples=100, seed=2, prompt=255 - prompt, compiled=compiled)
    assert np.array_equal(other.codes[:length], 255 - prompt)
    assert not np.array_equal(other.codes[length:], clip.codes[length:])


@pytest.mark.parametrize("name", ["s4d", "mamba", "hyena"])
def test_a_long_prompt_goes_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = prepared(make(name)), some_codes(107)
    whole = Prefix(model, prompt)
    lengths: list[int] = []
    prefill = model.prefill

    def noted(codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        lengths.append(codes.shape[1])
        return prefill(codes, state)

    monkeypatch.setattr(model, "prefill", noted)
    monkeypatch.setattr(recurrent, "PREFILL_PIECE", 40)
    pieces = Prefix(model, prompt)
    assert lengths == ([32, 32, 32] if model.period == 16 else [40, 40, 27])
    assert len(pieces.rest) == 107 - sum(lengths) + 1
    for one, other in zip(pytree.tree_leaves(pieces.state), pytree.tree_leaves(whole.state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
def test_however_the_positions_are_shared_out_they_give_the_same(name: str, compiled: bool | None) -> None:
    model = prepared(make(name))
    decoder = Decoder(model, 2, SamplingSettings(), compiled)
    uniforms = ClipStreams(0, range(2)).next(70)
    codes, bits = decoder.advance(uniforms)
    assert (codes.dtype, bits.dtype, codes.shape) == (torch.uint8, torch.float64, (2, 70))
    for sizes in ([1] * 70, [3, 16, 20, 31], [64, 6]):
        decoder.start(Prefix(model))
        parts = [decoder.advance(part) for part in uniforms.split(sizes, 1)]
        assert torch.equal(torch.cat([part[0] for part in parts], 1), codes)
        torch.testing.assert_close(torch.cat([part[1] for part in parts], 1), bits)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_stream_is_clip_0_and_has_no_end(compiled: bool) -> None:
    model, prompt = make("s4d"), some_codes(21)
    (clip,) = generate_clips(model, n=1, samples=700, seed=4, prompt=prompt, compiled=compiled)
    pieces = list(stream_codes(model, seed=4, prompt=prompt, samples=700, compiled=compiled))
    assert np.array_equal(np.concatenate(pieces), clip.codes[21:])
    assert all(piece.dtype == np.uint8 and len(piece) <= _ROUND for piece in pieces)
    endless = stream_codes(model, seed=4, prompt=prompt, compiled=compiled)
    found = np.concatenate(list(itertools.islice(endless, 4)))
    assert np.array_equal(found[:679], clip.codes[21:])
    assert len(found) == 4 * _ROUND - 21
    endless.close()


def test_batches_come_out_as_they_are_done_and_progress_counts_what_is_made() -> None:
    made: list[int] = []
    samples, prompt = 2 * _ROUND + 10, some_codes(3)
    clips = generate_clips(
        make("s4d"), n=7, samples=samples, seed=0, prompt=prompt, batch_size=3, on_progress=made.append
    )
    assert made == [], "nothing is done before it is asked for"
    first = next(clips)
    assert made == [3 * (_ROUND - 3), 3 * _ROUND, 3 * 10]
    rest = list(clips)
    assert [clip.number for clip in (first, *rest)] == list(range(7))
    assert sum(made) == 7 * (samples - 3)
    assert {clip.seed for clip in rest} == {0}
    assert all(clip.codes.dtype == np.uint8 and clip.codes.shape == (samples,) for clip in rest)


@pytest.mark.parametrize("compiled", [True, False])
def test_ctrl_c_passes_out_after_the_finished_clips(compiled: bool) -> None:
    made = 0

    def progress(samples: int) -> None:
        nonlocal made
        made += samples
        if made > 3 * 40:
            raise KeyboardInterrupt

    clips = generate_clips(make("s4d"), n=6, samples=40, batch_size=2, on_progress=progress, compiled=compiled)
    finished: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        finished.extend(clip.number for clip in clips)
    assert finished == [0, 1]


@pytest.mark.parametrize(("name", "compiled"), EITHER_WAY)
def test_nothing_outside_changes(name: str, compiled: bool | None) -> None:
    """Neither the model, which stays in training mode and float32, nor torch's generator."""
    model = make(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    one, other = (codes_of(generate_clips(model, n=2, samples=30, compiled=compiled)) for _ in range(2))
    assert one == other, "dropout acts"
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["mamba", "s4d", "gated"])
def test_plain_states_on_a_cpu_are_not_rounded_to_float32(name: str) -> None:
    decoder = Decoder(prepared(make(name)), 1, SamplingSettings(), compiled=False)
    decoder.advance(ClipStreams(0, [0]).next(20))
    assert {leaf.dtype for leaf in pytree.tree_leaves(decoder._state)} <= {torch.float64, torch.complex128}


def test_settings_decide_what_is_drawn() -> None:
    model = make("s4d")
    likeliest = next(generate_clips(model, n=1, samples=50, settings=SamplingSettings(temperature=0)))
    usual = next(generate_clips(model, n=1, samples=50))
    assert likeliest.nll_bits < usual.nll_bits - 1
    by_one = next(generate_clips(model, n=1, samples=50, settings=SamplingSettings(top_k=1), seed=9))
    assert np.array_equal(by_one.codes, likeliest.codes)


@pytest.mark.parametrize("name", ["s4d", "gated"])
def test_a_model_that_has_diverged_is_one_line(name: str) -> None:
    model = make(name)
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    with pytest.raises(UserError, match=r"the model gives no probabilities \(NaN\) before sample 20; take another"):
        list(generate_clips(model, n=1, samples=20))


def test_what_cannot_be_compiled_runs_plainly_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="compiled decoding is not possible: a mixer of it is H3"):
        list(generate_clips(make("h3"), n=1, samples=2, compiled=True))
    with pytest.raises(UserError, match="compiled decoding is not possible: its backbone is a Gated"):
        list(generate_clips(make("gated"), n=1, samples=2, compiled=True))
    model = make("s4d")
    caplog.clear()
    plain = codes_of(generate_clips(model, n=1, samples=30, compiled=False))
    assert not caplog.records, "it was asked for"
    for compiler, why in (("/no/such/cc", "does not run"), ("false", "cannot compile packed_step.c")):
        packed.compiled_loop.cache_clear()
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(UserError, match=why):
            list(generate_clips(model, n=1, samples=2, compiled=True))
        recurrent._note.cache_clear()
        for _ in range(2):
            assert codes_of(generate_clips(model, n=1, samples=30)) == plain
        assert [why in record.getMessage() for record in caplog.records] == [True], "once"
        caplog.clear()
    packed.compiled_loop.cache_clear()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n": 0}, "n=0; give a whole number from 1 up"), ({"samples": 0}, "samples=0; give a whole number"),
        ({"batch_size": 0}, "batch_size=0; give a whole number"), ({"seed": -1}, "seed=-1; give a whole number"),
        ({"prompt": some_codes(40)}, "the prompt has 40 samples, and the clips are to have 40 with it; ask for longer"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_at_once(setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        generate_clips(make("s4d"), **{"n": 1, "samples": 40, **setting})
