"""Initial values of codes: neighbours alike, all of one size, and peaks wherever a head has to make them."""

from __future__ import annotations

import pytest
import torch

from ssmbio.heads import code_embedding, code_logits, level_features


@pytest.mark.parametrize("channels", [1, 7, 32, 64])
def test_size_and_neighbours(channels):
    features = level_features(256, channels)
    assert features.shape == (256, channels)
    assert features.square().mean() == pytest.approx(1, abs=0.35 if channels == 1 else 0.05)
    steps = (features[1:] - features[:-1]).square().sum(1)
    apart = (features[:, None] - features).square().sum(-1)
    assert steps.max() < 0.2 * apart.max()


def test_a_sum_over_channels_peaks_at_any_code():
    features = level_features(256, 64)
    likeness = features @ features.T
    assert torch.equal(likeness.argmax(1), torch.arange(256))


def test_maps_begin_with_them():
    torch.testing.assert_close(code_embedding(256, 16)(torch.tensor([3])), level_features(256, 16)[3:4])
    head = code_logits(16, 256)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x), x @ level_features(256, 16).T / 4)
    assert 0.5 < head(x).std() < 2
