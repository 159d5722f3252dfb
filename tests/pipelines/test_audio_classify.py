"""The classifier of waveforms: padding has no influence, quiet samples differ, features lead to logits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ssmbio.backbones import Stack, UNet
from ssmbio.data.audio_codes import Encoding
from ssmbio.data.audio_set import Waveform
from ssmbio.errors import UserError
from ssmbio.mixers import S4D, BiMamba
from ssmbio.pipelines import AudioClassify
from ssmbio.pipelines.audio_classify import companded

FACTS = {
    "audio": {"sample_rate": 8000, "length": 50},
    "labels": ["a", "b", "c"],
    "problem": "multiclass",
    "class_weights": None,
}
BACKBONES = {
    "stack": lambda: Stack(8, 2, partial(BiMamba, d_state=4)),
    "causal": lambda: Stack(8, 2, partial(S4D, d_state=4)),
    "unet": lambda: UNet(8, 1, pool=(2, 2), mixer=partial(S4D, d_state=4, bidirectional=True)),
}


def classifier(backbone: str, pooling: str = "mean") -> AudioClassify:
    torch.manual_seed(0)
    return AudioClassify(BACKBONES[backbone](), FACTS, pooling=pooling).eval()


def clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-0.5, 0.5, length).astype(np.float32) for length in lengths]


def logits(model: AudioClassify, *waveforms: np.ndarray, padding: int = 0) -> torch.Tensor:
    batch = model.collate([Waveform(str(i), clip) for i, clip in enumerate(waveforms)])
    return model(torch.nn.functional.pad(batch["samples"], (0, padding), value=0.3), batch["lengths"])


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "attention"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_of_a_clip_are_its_own(backbone, pooling):
    model, waveforms = classifier(backbone, pooling), clips(50, 21, 1)
    together = logits(model, *waveforms)
    assert together.shape == (3, 3)
    for row, clip in enumerate(waveforms):
        torch.testing.assert_close(logits(model, clip), together[row : row + 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model, *waveforms, padding=13), together, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_full_clips_need_no_lengths(backbone):
    model = classifier(backbone)
    batch = model.collate([Waveform(str(i), clip) for i, clip in enumerate(clips(40, 40))])
    (samples,) = model.inputs(batch)
    assert torch.equal(model(samples), model(samples, batch["lengths"]))
    assert torch.equal(model.features(samples), model.features(samples, batch["lengths"]))


def test_a_hundredth_of_the_loudness_is_still_told_apart():
    model, (clip,) = classifier("causal"), clips(50)
    quiet = 0.01 * clip
    assert (logits(model, quiet) - logits(model, quiet[::-1].copy())).abs().max() > 1e-3


def test_the_scale_is_that_of_mu_law():
    x = torch.linspace(-1, 1, 1001)
    levels = ((companded(x.double()) + 1) / 2 * 255.99 + 0.005).floor()
    assert torch.equal(levels.to(torch.uint8), Encoding().encode(x))
    assert companded(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1, 0, 1]


def test_features_are_what_the_linear_map_gets():
    model = classifier("unet")
    batch = model.collate([Waveform("x", clip) for clip in clips(50, 21)])
    features = model.features(*model.inputs(batch))
    assert features.shape == (2, 8)
    torch.testing.assert_close(model.head.linear(features), model(*model.inputs(batch)))


def test_facts_of_other_data_are_refused():
    with pytest.raises(UserError, match="not audio, which audio_classify needs"):
        AudioClassify(BACKBONES["causal"](), {"labels": ["a", "b"], "problem": "binary"})
