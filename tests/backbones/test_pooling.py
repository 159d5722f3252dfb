"""Pools of a U-Net: the formula, the delay that keeps it causal, pieces of any length, and packed sequences."""

from __future__ import annotations

import pytest
import torch

from ssmbio.backbones.pooling import DownPool, PackedPooling, UpPool
from ssmbio.packing import offsets

EXACT = {"rtol": 0, "atol": 1e-12}
POOL = 3


def pools(pool: int = POOL) -> tuple[DownPool, UpPool]:
    torch.manual_seed(0)
    return DownPool(4, 5, pool).double(), UpPool(5, 4, pool).double()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_down_pool_maps_neighbours_side_by_side():
    down, _ = pools()
    x = random(2, 9, 4)
    low, _ = down(x)
    weight = down.linear.weight.view(5, POOL, 4)
    for j in range(3):
        expected = torch.einsum("okd,bkd->bo", weight, x[:, 3 * j : 3 * j + 3]) + down.linear.bias
        torch.testing.assert_close(low[:, j], expected, **EXACT)


def test_up_pool_is_late_by_one_low_rate_step():
    _, up = pools()
    low = random(2, 3, 5)
    y, pending = up(low, 9)
    made = up.linear(low).view(2, 9, 4)
    assert (y[:, :POOL] == 0).all()
    torch.testing.assert_close(y[:, POOL:], made[:, :-POOL], **EXACT)
    torch.testing.assert_close(pending, made[:, -POOL:], **EXACT)


@pytest.mark.parametrize("pool", [2, 3, 4])
@pytest.mark.parametrize("cut", range(12))
def test_pieces_equal_the_whole_wherever_they_are_cut(pool, cut):
    down, up = pools(pool)
    x, start = random(2, 12, 4), up.initial_state(2)
    whole, _ = down(x)
    raised, _ = up(whole, 12, start)
    first, gathered = down(x[:, :cut], down.initial_state(2))
    y_first, pending = up(first, cut, start) if first.shape[1] else (start[:, :cut], start)
    q = cut % pool
    second, _ = down(x[:, cut:], gathered, q)
    y_second, _ = up(second, 12 - cut, pending, q)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **EXACT)
    torch.testing.assert_close(torch.cat([y_first, y_second], 1), raised, **EXACT)


def test_steps_equal_the_whole():
    down, up = pools()
    x = random(2, 11, 4)
    whole, _ = down(x)
    raised, _ = up(whole, 11)
    gathered, pending = down.initial_state(2), up.initial_state(2)
    lows, outputs = [], []
    for t in range(11):
        outputs.append(pending[:, t % POOL])
        low, gathered = down.step(x[:, t], gathered, t % POOL)
        if low is not None:
            lows.append(low)
            pending = up.step(low)
    torch.testing.assert_close(torch.stack(lows, 1), whole, **EXACT)
    torch.testing.assert_close(torch.stack(outputs, 1), raised, **EXACT)


def test_states_do_not_hold_on_to_the_row_they_come_from():
    down, up = pools()
    x = random(2, 3001, 4)
    low, gathered = down(x)
    _, pending = up(low, 3001)
    for leaf in (*gathered, pending):
        assert leaf.untyped_storage().nbytes() == leaf.nbytes


@pytest.mark.parametrize("lengths", [[1, 3, 4, 11, 2], [3, 6], [1], [2, 0, 5]])
def test_packed_sequences_equal_separate_ones(lengths):
    down, up = pools()
    packed = PackedPooling(offsets(torch.tensor(lengths)), POOL)
    pieces = [random(1, n, 4) for n in lengths]
    low = down.whole(packed.padded(torch.cat(pieces, 1)))
    y = packed.late(up.whole(low))

    filled = [torch.nn.functional.pad(piece, (0, 0, 0, -piece.shape[1] % POOL)) for piece in pieces]
    lows = [down.whole(piece) for piece in filled]
    torch.testing.assert_close(low, torch.cat(lows, 1), **EXACT)
    expected = [up(low, n)[0] if n else y[:, :0] for low, n in zip(lows, lengths, strict=True)]
    torch.testing.assert_close(y, torch.cat(expected, 1), **EXACT)
    assert packed.cu_seqlens.tolist() == [0, *torch.tensor([low.shape[1] for low in lows]).cumsum(0).tolist()]
    assert packed.cu_seqlens.dtype == torch.int32
