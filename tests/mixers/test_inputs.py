"""What a mixer is called with must fit: positions, offsets and states. All mixers say the same of it, by name."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils import _pytree as pytree

from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, BiMamba, Hyena, Mamba
from ssmbio.mixers.sequence_rows import SequenceRows

D = 4
CAUSAL = {
    "s4": partial(S4, d_state=8),
    "s4d": partial(S4D, d_state=8),
    "dss": partial(DSS, d_state=8),
    "s5": partial(S5, d_state=8),
    "gss": partial(GSS, d_state=8),
    "h3": partial(H3, d_shift=5, d_state=8),
    "hyena": partial(Hyena, l_max=6, width=4),
    "mamba": partial(Mamba, d_state=3),
}
ALL = CAUSAL | {"bimamba": partial(BiMamba, d_state=3), "s4_both": partial(S4, d_state=8, bidirectional=True)}
ROWS = torch.ones(3, 10, D)
TWO = (0, 4, 10)


def offsets(*places: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(places, dtype=dtype)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("x", "cu_seqlens", "error", "message"),
    [
        (None, None, TypeError, "x must be a tensor; got NoneType"),
        (ROWS.long(), None, TypeError, "x must be float32, bfloat16, float16 or float64; got torch.int64"),
        (ROWS[0], None, ValueError, r"x must be \(B, L, D\), no axis empty; got \(10, 4\)"),
        (ROWS[:, :0], None, ValueError, r"x must be \(B, L, D\), no axis empty; got \(3, 0, 4\)"),
        (ROWS[..., :3], None, ValueError, r"x must be \(B, L, D\) = \(3, 10, 4\); got \(3, 10, 3\)"),
        (ROWS[:2], offsets(*TWO), ValueError, r"x must be one row, \(1, total, D\), beside cu_seqlens; got \(2, 10, 4"),
        (ROWS[:1], list(TWO), TypeError, "cu_seqlens must be a tensor; got list"),
        (ROWS[:1], offsets(*TWO, dtype=torch.int64), TypeError, "cu_seqlens must be int32; got torch.int64"),
        (ROWS[:1], offsets(*TWO)[None], ValueError, r"cu_seqlens must be \(S \+ 1,\) with S at least 1; got \(1, 3\)"),
        (ROWS[:1], offsets(1, 4, 10), ValueError, "cu_seqlens must start at 0 and end at .* 10; got 1 and 10"),
        (ROWS[:1], offsets(0, 4, 9), ValueError, "cu_seqlens must start at 0 and end at .* 10; got 0 and 9"),
        (ROWS[:1], offsets(0, 4, 4, 10), ValueError, "cu_seqlens must increase, .*; sequence 1 has length 0"),
    ],
)
def test_positions_and_offsets_that_do_not_fit_are_named(name, x, cu_seqlens, error, message):
    with pytest.raises(error, match=message):
        ALL[name](D)(x, None, cu_seqlens)


def each_part(state, change):
    return pytree.tree_map(change, state)


def other_kind(part: torch.Tensor) -> torch.Tensor:
    return part.real if part.is_complex() else part + 0j


@pytest.mark.parametrize("name", CAUSAL)
def test_states_that_do_not_fit_are_named(name):
    mixer = CAUSAL[name](D)
    one, three = mixer.initial_state(1), mixer.initial_state(3)
    for state, x, cu_seqlens, error, message in (
        (one, ROWS, None, ValueError, r"must be \(B, …\) = \(3, .*; got \(1, "),
        (three, ROWS[:1], None, ValueError, r"must be \(B, …\) = \(1, .*; got \(3, "),
        (one, ROWS[:1], offsets(*TWO), ValueError, r"must be \(S, …\) = \(2, .*; got \(1, "),
        (three, ROWS[:1], offsets(*TWO), ValueError, r"must be \(S, …\) = \(2, .*; got \(3, "),
        (each_part(three, lambda part: part[..., 1:]), ROWS, None, ValueError, r"must be \(B, …\) = \(3, .*; got \(3,"),
        (each_part(three, other_kind), ROWS, None, TypeError, "must be (complex64|float32).*; got torch"),
        (each_part(three, lambda part: part.real.long()), ROWS, None, TypeError, "got torch.int64"),
        (each_part(three, lambda part: part.to("meta")), ROWS, None, ValueError, "must be on cpu as x is; got meta"),
        (1.0, ROWS, None, TypeError, "must be .*; got float"),
    ):
        with pytest.raises(error, match=rf"^state(\.\w+)? .*{message}"):
            mixer(x, state, cu_seqlens)


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_name_what_does_not_fit(name):
    mixer = CAUSAL[name](D)
    x, one, three = ROWS[:, 0], mixer.initial_state(1), mixer.initial_state(3)
    for position, state, error, message in (
        (x, one, ValueError, r"^state.* must be \(B, …\) = \(3, .*; got \(1, "),
        (x[:1], three, ValueError, r"^state.* must be \(B, …\) = \(1, .*; got \(3, "),
        (x, each_part(three, other_kind), TypeError, "^state.* must be (complex64|float32).*; got torch"),
        (x, None, TypeError, "^state must be .*; got NoneType"),
        (x[:, None], three, ValueError, r"x must be \(B, D\) = \(B, 4\); got \(3, 1, 4\)"),
        (x.long(), three, TypeError, "x must be float32, .*; got torch.int64"),
        (None, three, TypeError, "x must be a tensor; got NoneType"),
    ):
        with pytest.raises(error, match=message):
            mixer.step(position, state)


def test_parts_of_a_state_are_named():
    mixer = CAUSAL["h3"](D)
    state = mixer.initial_state(3)
    with pytest.raises(ValueError, match=r"^state\.ssm must be \(B, …\) = \(3, 4, 4\); got \(2, 4, 4\)"):
        mixer(ROWS, state._replace(ssm=state.ssm[:2]))


def test_states_of_another_precision_are_taken():
    """Of a model that runs in another one than that it was decoded in; what counts is complex or real."""
    mixer = CAUSAL["s4"](D)
    expected, _ = mixer(ROWS, mixer.initial_state(3) + 1)
    torch.testing.assert_close(mixer(ROWS, mixer.initial_state(3).to(torch.complex128) + 1)[0], expected)


def test_rows_for_convolutions_are_looked_at_where_they_are_split():
    with pytest.raises(ValueError, match="one row"):
        SequenceRows(ROWS, offsets(*TWO))
    with pytest.raises(ValueError, match="got 0 and 9"):
        SequenceRows(ROWS[:1], offsets(0, 4, 9))
