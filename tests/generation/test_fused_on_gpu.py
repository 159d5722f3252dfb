"""Generation by fused steps, at the size it is for: `pytest -m gpu` on a machine with a CUDA GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from fused_cases import EXACT, INEXACT, ZERO, CodesModel, make
from torch import Tensor
from torch.utils import _pytree as pytree

from ssmbio.backbones import Stack, UNet
from ssmbio.generation import Clip, SamplingSettings, fused, generate_clips, stream_codes
from ssmbio.generation.fused import FusedModel
from ssmbio.generation.lanes import Buffers, SideStreams
from ssmbio.generation.recurrent import Decoder, Prefix, prepared
from ssmbio.generation.sampling import ClipStreams
from ssmbio.mixers import DSS, S4D, Mamba

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

LARGE = {
    "sashimi": partial(UNet, mixer=S4D),
    "sashimi_dss": partial(UNet, n_layers=2, mixer=DSS),
    "sashimi_unet": partial(UNet, n_layers=2, mixer=S4D, unet=True),
    "sashimi_mamba": partial(UNet, n_layers=2, mixer=Mamba, ff=0),
    "sashimi_mamba_centre": partial(UNet, n_layers=2, mixer=S4D, mixers={"centre": Mamba}),
    "stack_of_mamba": partial(Stack, 128, 2, Mamba),
}
# Every width means kernels to compile.
MODELS = LARGE | {name: EXACT[name] for name in ("one_pool_odd", "three_pools")}
ALL = MODELS | {name: INEXACT[name] for name in ("s4", "h3_centre", "stack_s4d")}
CUT = SamplingSettings(0.9, 60, 0.95, 0.001)


def on_gpu(name: str) -> CodesModel:
    return make(ALL[name]).cuda()


def a_prompt(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(100, 156, count).astype(np.uint8)


def codes_of(clips: Any) -> list[bytes]:
    return [clip.codes.tobytes() for clip in clips]


def decoded(model: FusedModel, batch: int, sizes: list[int]) -> tuple[Tensor, Tensor]:
    decoder = Decoder(model, batch, SamplingSettings())
    parts = [decoder.advance(part) for part in ClipStreams(0, range(batch)).next(sum(sizes)).split(sizes, 1)]
    codes, bits = (torch.cat(of_parts, 1) for of_parts in zip(*parts, strict=True))
    return codes, bits


@pytest.mark.parametrize("name", MODELS)
def test_clip_k_is_the_same_bytes_whatever_the_batch(name: str) -> None:
    """From a prompt that ends within a period, through several graphs."""
    model = on_gpu(name)
    ask = {"samples": 421, "seed": 11, "prompt": a_prompt(21)}
    whole = codes_of(generate_clips(model, n=64, batch_size=64, **ask))
    assert len(set(whole)) == 64
    for n, batch_size in ((2, 1), (4, 2), (6, 3), (10, 5), (33, 33)):
        assert codes_of(generate_clips(model, n=n, batch_size=batch_size, **ask)) == whole[:n], f"batch {batch_size}"


@pytest.mark.parametrize("batch", [1, 2, 5, 64, 200])
def test_bits_of_the_8_layer_model_do_not_depend_on_the_batch(batch: int) -> None:
    """Of the likelihoods, in which the last bit of a logit shows."""
    model = prepared(on_gpu("sashimi"))
    assert isinstance(model, FusedModel)
    codes, bits = decoded(model, batch, [model.stride])
    all_codes, all_bits = decoded(model, 256, [model.stride])
    assert torch.equal(codes, all_codes[:batch])
    assert torch.equal(bits, all_bits[:batch])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sashimi", SamplingSettings()), ("sashimi", SamplingSettings(temperature=0)), *((name, CUT) for name in MODELS)],
    ids=str,
)
def test_graph_makes_what_the_plain_loop_makes(name: str, settings: SamplingSettings) -> None:
    model = on_gpu(name)
    ask = {"n": 5, "batch_size": 3, "samples": 421, "settings": settings, "prompt": a_prompt(21)}
    one, other = (list(generate_clips(model, **ask, compiled=compiled)) for compiled in (None, False))
    assert codes_of(one) == codes_of(other)
    assert [clip.nll_bits for clip in one] == pytest.approx([clip.nll_bits for clip in other], abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_likelihood_from_steps_is_that_of_one_forward_pass(name: str) -> None:
    model = on_gpu(name)
    for clip in generate_clips(model, n=3, samples=1000, settings=CUT, prompt=a_prompt(5)):
        assert clip.nll_bits == pytest.approx(bits_in_parallel(model, clip), abs=1e-3)


def bits_in_parallel(model: CodesModel, clip: Clip) -> float:
    codes = torch.from_numpy(clip.codes.astype(np.int64)).cuda()
    with torch.no_grad():
        logits, _ = model.prefill(torch.cat([torch.tensor([ZERO], device="cuda"), codes[:-1]])[None])
    bits = -logits[0].double().log_softmax(-1).gather(1, codes[:, None])[clip.prompt_samples :].mean()
    return bits.item() / float(np.log(2))


@pytest.mark.parametrize("name", ALL)
def test_steps_are_those_of_the_modules(name: str) -> None:
    model = on_gpu(name)
    own = prepared(model)
    assert isinstance(own, FusedModel)
    codes = torch.randint(256, (4, 40), generator=torch.Generator().manual_seed(0)).cuda()
    theirs, ours = model.initial_state(4), own.initial_state(4)
    with torch.no_grad():
        for code in codes.unbind(1):
            right, theirs = model.step(code, theirs)
            found, ours = own.step(code, ours)
            torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)


class Slow(SideStreams):
    """Some lanes take longer than they need, before and after each task."""

    slow: Callable[[int], bool]

    def run(self, lane: int, task: Callable[[], Any], reads: Buffers = (), writes: Buffers = ()) -> None:
        def slowly() -> None:
            for work in (partial(torch.cuda._sleep, 100_000), task, partial(torch.cuda._sleep, 100_000)):
                work()

        super().run(lane, slowly if self.slow(lane) else task, reads, writes)


@pytest.mark.parametrize("name", ["sashimi", "sashimi_unet", "sashimi_mamba_centre", "three_pools", "one_pool_odd"])
@pytest.mark.parametrize("batch", [1, 64])
def test_lanes_make_what_one_lane_makes(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of them is much slower than the others."""
    model = prepared(on_gpu(name))
    assert isinstance(model, FusedModel)
    sizes = [2 * model.stride]
    right = decoded(FusedModel(model.model, lanes=False), batch, sizes)
    ways: list[Any] = [SideStreams]
    for lanes in ({0}, {1}, {2, 3}, {1, 2, 3}):
        ways.append(type("SlowLanes", (Slow,), {"slow": staticmethod(lanes.__contains__)}))
    for way in ways:
        monkeypatch.setattr(fused, "SideStreams", way)
        for found, expected in zip(decoded(model, batch, sizes), right, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["sashimi", "sashimi_mamba_centre", "stack_of_mamba"])
def test_graph_stops_and_goes_on_anywhere(name: str) -> None:
    model = prepared(on_gpu(name))
    assert isinstance(model, FusedModel)
    stride = model.stride
    codes, bits = decoded(model, 2, [3 * stride])
    for sizes in ([1, 2, 3 * stride - 3], [stride, 5, 2 * stride - 5], [2 * stride, stride - 1, 1]):
        for found, expected in zip(decoded(model, 2, sizes), (codes, bits), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["sashimi", "sashimi_mamba", "sashimi_unet"])
@pytest.mark.parametrize("length", [15, 16, 45, 200])
def test_after_its_own_beginning_as_a_prompt_a_clip_goes_on_as_it_did(name: str, length: int) -> None:
    """A prompt is rounded otherwise than steps, so in likelihood and, for a while, in codes."""
    model = on_gpu(name)
    (clip,) = generate_clips(model, n=1, samples=length + 20, seed=7)
    (again,) = generate_clips(model, n=1, samples=length + 20, seed=7, prompt=clip.codes[:length])
    bits = [bits_in_parallel(model, Clip(0, one.codes, 0.0, length, 7)) for one in (clip, again)]
    assert again.nll_bits == pytest.approx(bits[1], abs=1e-3)
    assert (clip.codes[: length + 5] == again.codes[: length + 5]).mean() > 0.9


def test_a_stream_is_clip_0_and_comes_in_rounds() -> None:
    model, prompt = on_gpu("sashimi"), a_prompt(21)
    (clip,) = generate_clips(model, n=1, samples=1000, seed=4, prompt=prompt)
    pieces = list(stream_codes(model, seed=4, prompt=prompt, samples=1000))
    assert np.array_equal(np.concatenate(pieces), clip.codes[21:])
    assert max(len(piece) for piece in pieces) <= 256


def test_a_state_is_not_copied_in_the_graph_and_memory_does_not_grow() -> None:
    model = prepared(on_gpu("sashimi"))
    decoder, streams, taken = Decoder(model, 64, SamplingSettings()), ClipStreams(0, range(64)), []
    for _ in range(8):
        decoder.advance(streams.next(256))
        torch.cuda.synchronize()
        taken.append(torch.cuda.memory_allocated())
    assert len(set(taken[2:])) == 1
    graph: Any = decoder._fast
    before = [leaf.data_ptr() for leaf in pytree.tree_leaves(graph._state)]
    decoder.start(Prefix(model))
    decoder.advance(streams.next(256))
    assert [leaf.data_ptr() for leaf in pytree.tree_leaves(graph._state)] == before
