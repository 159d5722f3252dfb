"""What a classifier makes of clips: pooled features and probabilities, whatever the batch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmbio.audio_quality.features import View, accuracy, view_of
from ssmbio.audio_quality.measures import fid
from ssmbio.backbones import Stack
from ssmbio.data.audio_files import write_audio
from ssmbio.data.audio_set import AudioSet
from ssmbio.errors import UserError
from ssmbio.mixers import S4D
from ssmbio.pipelines import AudioClassify

RATE, LENGTH = 8000, 200
CPU = torch.device("cpu")
FACTS = {
    "audio": {"sample_rate": RATE, "length": LENGTH},
    "labels": ["high", "low", "mid"],
    "problem": "multiclass",
    "class_weights": None,
}


def classifier(**settings) -> AudioClassify:
    torch.manual_seed(0)
    return AudioClassify(Stack(6, 1, partial(S4D, d_state=4)), FACTS, **settings).eval()


def tone(rng: np.random.Generator, samples: int) -> np.ndarray:
    hertz, phase = rng.uniform(200, 1500), rng.uniform(0, 6)
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE + phase)).astype(np.float32)


def noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, samples).astype(np.float32)


def clips(folder: Path, lengths: list[int], seed: int = 0, labels: list | None = None, make=tone) -> AudioSet:
    rng = np.random.default_rng(seed)
    paths = [folder / f"{seed}_{i}.wav" for i in range(len(lengths))]
    for path, samples in zip(paths, lengths, strict=True):
        write_audio(path, make(rng, samples), RATE)
    given = labels or [None] * len(lengths)
    return AudioSet(paths, given, lengths, sample_rate=RATE, resample=False, root=folder)


@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_features_are_what_the_last_linear_map_gets(tmp_path, pooling):
    model, some = classifier(pooling=pooling, head_dropout=0.5), clips(tmp_path, [150] * 5)
    entered = []
    model.head.linear.register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    samples = torch.from_numpy(np.stack([clip.samples for clip in (some[i] for i in range(5))]))
    with torch.no_grad():
        logits = model(samples, torch.full((5,), 150))
    view = view_of(model, some, 5, CPU)
    np.testing.assert_allclose(view.features, entered[0].double().numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(view.log_p, logits.double().log_softmax(1).numpy(), rtol=1e-6)
    assert view.features.shape == (5, 6)
    np.testing.assert_allclose(np.exp(view.log_p).sum(1), 1, rtol=1e-14)  # in float64


def test_the_batch_makes_no_difference_to_ragged_clips(tmp_path):
    model, some = classifier(), clips(tmp_path, [40, 133, 200, 7, 64])
    done: list[int] = []
    together, alone = view_of(model, some, 3, CPU, done.append), view_of(model, some, 1, CPU)
    np.testing.assert_allclose(together.features, alone.features, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together.log_p, alone.log_p, rtol=0, atol=1e-5)
    assert done == [3, 2]
    assert np.abs(np.diff(together.features, axis=0)).max(1).min() > 1e-3  # in the order of the set, and each its own


def test_of_a_longer_clip_the_middle_is_seen(tmp_path):
    long = clips(tmp_path, [500, 500])
    middles = [tmp_path / f"middle_{i}.wav" for i in range(2)]
    for i, path in enumerate(middles):
        write_audio(path, long.read(i, 150, 200), RATE)
    cut = AudioSet(middles, [None] * 2, [200] * 2, sample_rate=RATE, resample=False, root=tmp_path)
    model = classifier()
    np.testing.assert_array_equal(view_of(model, long, 2, CPU).features, view_of(model, cut, 2, CPU).features)


def test_clips_of_the_same_kind_are_nearer_than_noise(tmp_path):
    model = classifier()
    real = view_of(model, clips(tmp_path, [200] * 60), 60, CPU)
    alike = view_of(model, clips(tmp_path, [200] * 60, seed=1), 60, CPU)
    other = view_of(model, clips(tmp_path, [200] * 60, seed=2, make=noise), 60, CPU)
    assert fid(other.features, real.features) > 10 * fid(alike.features, real.features) > 0


def test_features_that_are_not_finite_name_the_clip(tmp_path):
    model, some = classifier(), clips(tmp_path, [50] * 4)
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"0_2\.wav: the classifier's features of it are not finite"):
        view_of(model, some.subset([2, 3]), 1, CPU)


def test_accuracy_counts_known_labels_alone(tmp_path):
    some = clips(tmp_path, [20] * 6, labels=["low", "mid", "bass", None, "high", "low"])
    log_p = np.log(np.full((6, 3), 0.1) + 0.7 * np.eye(3)[[1, 2, 0, 0, 2, 1]])
    assert accuracy(View(np.zeros((6, 2)), log_p), some, FACTS["labels"]) == (0.75, ["bass"])
    nobody = some.subset([2, 3])
    assert accuracy(View(np.zeros((2, 2)), log_p[2:4]), nobody, FACTS["labels"]) == (None, ["bass"])


def test_views_of_several_sets_as_one():
    first, second = View(np.zeros((2, 3)), np.ones((2, 4))), View(np.ones((1, 3)), np.zeros((1, 4)))
    joined = View.joined([first, second])
    assert len(joined) == 3
    assert joined.features[:, 0].tolist() == [0, 0, 1]
    assert joined.log_p[:, 0].tolist() == [1, 1, 0]
