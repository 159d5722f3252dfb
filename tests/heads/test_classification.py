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


POOLS = pytest.mark.parametrize("pool", [MeanPool, LastPool, MaxPool, AttentionPool])


@POOLS
def test_padding_may_hold_anything_and_lie_anywhere(pool: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = pool(4), torch.randn(1, 5, 4)
    expected = module(x, torch.ones(1, 5, dtype=torch.bool))
    valid = torch.tensor([[False, True, False, True, True, False, True, True, False]])
    scattered = torch.full((1, 9, 4), torch.nan)
    scattered[valid] = x[0]
    torch.testing.assert_close(module(scattered, valid), expected)


@POOLS
def test_half_precision_holds_long_sequences(pool: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = pool(2), torch.randn(1, 70000, 2) + 3
    valid = torch.ones(1, 70000, dtype=torch.bool)
    narrow = module.half()(x.half(), valid)
    torch.testing.assert_close(narrow.float(), module.float()(x.half().float(), valid), rtol=2e-3, atol=0)
