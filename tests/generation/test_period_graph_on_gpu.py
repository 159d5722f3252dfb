"""Generation on a GPU, where whole periods are one CUDA graph: `pytest -m gpu` on a machine with a CUDA GPU."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack, UNet
from ssmbio.generation import Clip, SamplingSettings, generate_clips, stream_codes
from ssmbio.generation.period_graph import PeriodGraph
from ssmbio.generation.recurrent import Decoder, Prefix, decode, prepared
from ssmbio.generation.sampling import ClipStreams
from ssmbio.mixers import H3, S4, S4D, Mamba

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

ZERO = 128
BACKBONES = {
    "s4d": partial(UNet, 64, 2, mixer=S4D),
    "s4": partial(UNet, 32, 2, mixer=S4),
    "mamba": partial(UNet, 32, 2, mixer=Mamba, ff=0),
    "layers_both_ways": partial(UNet, 32, 1, pool=(3, 2), mixer=S4D, unet=True),
    "mixed": partial(UNet, 32, 1, mixer=S4D, mixers={"centre": H3}),
    "stack": partial(Stack, 64, 2, Mamba),
}
CUT = SamplingSettings(0.9, 60, 0.95, 0.001)


class CodesModel(nn.Module):
    """An embedding, a backbone and a head, with what generation asks for."""

    encoding = SimpleNamespace(zero=ZERO)

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.period = getattr(backbone, "period", 1)
        self.embedding = nn.Embedding(256, backbone.d_model)
        self.backbone = backbone
        self.head = nn.Linear(backbone.d_model, 256)

    def initial_state(self, batch_size: int) -> Any:
        return self.backbone.initial_state(batch_size)

    def step(self, codes: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y), state

    def prefill(self, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.backbone(self.embedding(codes), state)
        return self.head(y), state


def make(name: str) -> CodesModel:
    torch.manual_seed(0)
    model = CodesModel(BACKBONES[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.head.weight *= 3
    return model.cuda().eval()


def some_codes(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(100, 156, count).astype(np.uint8)


def equal(one: list[Clip], other: list[Clip]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a.codes, b.codes) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("settings", [SamplingSettings(), CUT, SamplingSettings(temperature=0)])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_graph_makes_what_the_plain_loop_makes(name: str, settings: SamplingSettings, batch: int) -> None:
    """Beginnings and ends within a period, and a last batch that is not full."""
    model = make(name)
    ask = {"n": 2 * batch - 1, "batch_size": batch, "samples": 117, "settings": settings, "prompt": some_codes(21)}
    one, other = (list(generate_clips(model, **ask, compiled=compiled)) for compiled in (None, False))
    assert equal(one, other)
    assert [clip.nll_bits for clip in one] == pytest.approx([clip.nll_bits for clip in other], abs=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_likelihood_from_the_graph_is_that_of_one_forward_pass(name: str) -> None:
    model = make(name)
    for clip in generate_clips(model, n=3, samples=200, settings=CUT, prompt=some_codes(5)):
        codes = torch.from_numpy(clip.codes.astype(np.int64)).cuda()
        with torch.no_grad():
            logits, _ = model.prefill(torch.cat([torch.tensor([ZERO], device="cuda"), codes[:-1]])[None])
        bits = -logits[0].double().log_softmax(-1).gather(1, codes[:, None])[5:].mean().item() / np.log(2)
        assert clip.nll_bits == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_rows_of_a_batch_differ_and_a_run_repeats(name: str) -> None:
    model = make(name)
    one, other = (list(generate_clips(model, n=6, samples=80, batch_size=4, seed=3)) for _ in range(2))
    assert equal(one, other)
    assert len({clip.codes.tobytes() for clip in one}) == 6


@pytest.mark.parametrize("name", BACKBONES)
def test_graph_stops_and_goes_on_anywhere(name: str) -> None:
    model = prepared(make(name))
    decoder = Decoder(model, 2, SamplingSettings())
    uniforms = ClipStreams(0, range(2)).next(400)  # some graphs long
    codes, bits = decoder.advance(uniforms)
    for sizes in ([1] * 20 + [380], [3, 16, 220, 161], [264, 136]):
        decoder.start(Prefix(model))
        parts = [decoder.advance(part) for part in uniforms.split(sizes, 1)]
        assert torch.equal(torch.cat([part[0] for part in parts], 1), codes)
        torch.testing.assert_close(torch.cat([part[1] for part in parts], 1), bits, rtol=0, atol=1e-5)


def test_a_stream_is_clip_0() -> None:
    model, prompt = make("s4d"), some_codes(21)
    (clip,) = generate_clips(model, n=1, samples=600, seed=4, prompt=prompt)
    stream = np.concatenate(list(stream_codes(model, seed=4, prompt=prompt, samples=600)))
    assert np.array_equal(stream, clip.codes[21:])


def test_a_graph_holds_whole_periods() -> None:
    model = prepared(make("s4d"))
    previous, state = torch.full((1,), ZERO, device="cuda"), model.initial_state(1)
    with pytest.raises(ValueError, match="not of the structure before them"):
        PeriodGraph(partial(decode, model, SamplingSettings()), previous, state, 15)


def test_memory_does_not_grow_with_the_length() -> None:
    decoder = Decoder(prepared(make("s4d")), 4, SamplingSettings())
    streams = ClipStreams(0, range(4))
    taken = []
    for _ in range(12):
        decoder.advance(streams.next(256))
        torch.cuda.synchronize()
        taken.append(torch.cuda.memory_allocated())
    assert len(set(taken[2:])) == 1
