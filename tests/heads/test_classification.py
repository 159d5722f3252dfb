"""Pooling sees valid positions alone, and means what its name says."""

from __future__ import annotations

import pytest
import torch

from ssmbio.heads import AttentionPool, ClassificationHead, LastPool, MaxPool, MeanPool

VALID = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "attention"])
def test_padding_never_leaks(pooling):
    torch.manual_seed(0)
    head = ClassificationHead(4, 3, pooling)
    x = torch.randn(3, 5, 4)
    garbage = torch.where(VALID[..., None], x, torch.tensor(1e4))
    torch.testing.assert_close(head(garbage, VALID), head(x, VALID))
    alone = torch.cat([head(x[i : i + 1, :n], VALID[i : i + 1, :n]) for i, n in enumerate(VALID.sum(1).tolist())])
    torch.testing.assert_close(head(x, VALID), alone)


def test_poolings_by_hand():
    x = torch.arange(20.0).reshape(1, 5, 4)
    valid = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(MeanPool(4)(x, valid), x[:, :3].mean(1))
    torch.testing.assert_close(LastPool(4)(x, valid), x[:, 2])
    torch.testing.assert_close(MaxPool(4)(-x, valid), -x[:, 0])
    pool = AttentionPool(4)
    torch.nn.init.zeros_(pool.score[2].weight)
    torch.testing.assert_close(pool(x, valid), x[:, :3].mean(1))  # equal scores: the mean


def test_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="mean, last, max, attention"):
        ClassificationHead(4, 2, "median")
