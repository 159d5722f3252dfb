"""The promise of ssmbio/mixers/base.py, for every mixer: one way of computing equals another."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.utils import _pytree as pytree

from ssmbio.backbones import Bidirectional, Stack
from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, BiMamba, Hyena, Mamba

D_MODEL = 6
CAUSAL = {
    "mamba": partial(Mamba, d_state=5),
    "mamba_narrow": partial(Mamba, d_state=1, d_conv=2, expand=1, dt_rank=2),
    # Slow decay: what was carried is still there at the end, so a lost carry shows.
    "mamba_slow": partial(Mamba, d_state=4, dt_min=1e-3, dt_max=2e-3),
    "s4_legs": partial(S4, d_state=8),
    "s4_slow": partial(S4, d_state=64, dt_min=1e-3, dt_max=2e-3),
    "s4_rank_two": partial(S4, d_state=6, init="legt", rate=0.5),
    "s4_shared": partial(S4, d_state=4, init="fourier", shared=True),
    "s4d": partial(S4D, d_state=8),
    "s4d_slow": partial(S4D, d_state=64, init="inv", dt_min=1e-3, dt_max=2e-3),
    "s4d_real": partial(S4D, d_state=6, init="real", discretization="bilinear", rate=2.0),
    "s4d_shared": partial(S4D, d_state=4, init="legs", shared=True),
    "dss_softmax": partial(DSS, d_state=8, l_max=40),
    "dss_exp": partial(DSS, d_state=8, scale="exp"),
    "s5": partial(S5, d_state=8),
    "s5_blocks": partial(S5, d_state=12, blocks=3, discretization="bilinear"),
    "h3": partial(H3, d_shift=9, d_state=4),
    "h3_one_tap": partial(H3, d_shift=1, d_state=4),
    # Filters shorter and longer than the sequences of the tests.
    "hyena": partial(Hyena, l_max=20, width=8),
    "hyena_long": partial(Hyena, l_max=100, width=8, order=3),
    "gss": partial(GSS, d_state=8, shrink=2),
}
BIDIRECTIONAL = {
    "bimamba": partial(BiMamba, d_state=5),
    "bimamba_wide_conv": partial(BiMamba, d_state=3, d_conv=8),
    "bidirectional_mamba": partial(Bidirectional, mixer=partial(Mamba, d_state=5)),
    "s4_both": partial(S4, d_state=8, bidirectional=True),
    "s4d_both": partial(S4D, d_state=8, bidirectional=True),
    "dss_both": partial(DSS, d_state=8, bidirectional=True),
    "s5_both": partial(S5, d_state=8, bidirectional=True),
    "bidirectional_s4": partial(Bidirectional, mixer=partial(S4, d_state=6)),
    "bidirectional_hyena": partial(Bidirectional, mixer=partial(Hyena, l_max=20, width=8)),
}
ALL = CAUSAL | BIDIRECTIONAL
BY_FFT = ("s4_", "h3", "hyena")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums of a few dozen terms


def make(mixer, seed: int = 0):
    torch.manual_seed(seed)
    module = mixer(D_MODEL)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases at 0 and gains at 1 hide mistakes
    return module


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("length", [1, 2, 3, 17, 70])
def test_steps_equal_the_whole(name, length):
    mixer = make(CAUSAL[name])
    x = torch.randn(2, length, D_MODEL)
    whole, final = mixer(x)
    state, outputs = mixer.initial_state(2), []
    for t in range(length):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, **TOLERANCE)
    for stepped, scanned in zip(pytree.tree_leaves(state), pytree.tree_leaves(final), strict=True):
        torch.testing.assert_close(stepped, scanned, **TOLERANCE)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("cut", [1, 2, 31, 69])
def test_two_pieces_with_the_state_carried_equal_the_whole(name, cut):
    mixer = make(CAUSAL[name])
    x = torch.randn(2, 70, D_MODEL, requires_grad=True)
    weight = torch.randn(2, 70, D_MODEL)
    whole, _ = mixer(x)
    first, state = mixer(x[:, :cut])
    second, _ = mixer(x[:, cut:], state)
    pieces = torch.cat([first, second], 1)
    torch.testing.assert_close(pieces, whole, **TOLERANCE)
    # The carried state is differentiable: the first piece learns from the second.
    parameters = [x, *mixer.parameters()]
    for one, two in zip(
        torch.autograd.grad((whole * weight).sum(), parameters),
        torch.autograd.grad((pieces * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_packed_sequences_equal_separate_ones(name):
    mixer = make(ALL[name])
    lengths = [5, 1, 30, 2, 66]
    pieces = [torch.randn(1, n, D_MODEL) for n in lengths]
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    packed, state = mixer(torch.cat(pieces, 1), cu_seqlens=cu_seqlens)
    separate = [mixer(piece) for piece in pieces]
    torch.testing.assert_close(packed, torch.cat([y for y, _ in separate], 1), **TOLERANCE)
    if mixer.causal:
        expected = [torch.cat(leaves) for leaves in zip(*(pytree.tree_leaves(s) for _, s in separate), strict=True)]
        for one, two in zip(pytree.tree_leaves(state), expected, strict=True):
            torch.testing.assert_close(one, two, **TOLERANCE)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_mixers_never_look_ahead(name):
    mixer = make(CAUSAL[name])
    x = torch.randn(1, 20, D_MODEL, requires_grad=True)
    y, _ = mixer(x)
    (gradient,) = torch.autograd.grad(y[:, 9].sum(), x)
    past, future = gradient[:, :10].abs(), gradient[:, 10:].abs()
    # A Fourier transform mixes all positions, and what cancels leaves a rounding behind.
    rounding = 1e-6 * past.max() if name.startswith(BY_FFT) else 0
    assert future.max() <= rounding
    assert (past.amax(-1) > rounding).all()


def swapped(mixer):
    """The same mixer with the weights of its two directions exchanged."""
    pairs = (("ssm_forward.", "ssm_backward."), ("forwards.", "backwards."))
    other = {}
    for name, value in mixer.state_dict().items():
        for front, back in pairs:
            if name.startswith(front):
                name = back + name.removeprefix(front)
            elif name.startswith(back):
                name = front + name.removeprefix(back)
            else:
                continue
            break
        other[name] = value
    return other


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_reversing_the_input_is_swapping_the_directions(name):
    mixer, mirror = make(BIDIRECTIONAL[name]), make(BIDIRECTIONAL[name], seed=1)
    mirror.load_state_dict(swapped(mixer))
    x = torch.randn(2, 33, D_MODEL)
    torch.testing.assert_close(mixer(x.flip(1))[0], mirror(x)[0].flip(1), **TOLERANCE)
    # The two directions have weights of their own, so reversal alone must not give the flipped output.
    assert (mixer(x.flip(1))[0] - mixer(x)[0].flip(1)).abs().max() > 1e-3


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_bidirectional_mixers_see_both_ends_and_have_no_state(name):
    mixer = make(BIDIRECTIONAL[name])
    x = torch.randn(1, 12, D_MODEL, requires_grad=True)
    y, state = mixer(x)
    assert state is None
    (gradient,) = torch.autograd.grad(y[:, 6].sum(), x)
    assert (gradient.abs().amax(-1) > 0).all()
    with pytest.raises(RuntimeError, match="bidirectional"):
        mixer.step(x[:, 0], None)
    with pytest.raises(RuntimeError, match="bidirectional"):
        mixer.initial_state(1)
    with pytest.raises(RuntimeError, match="bidirectional"):
        mixer(x, state=torch.zeros(1))


def test_bidirectional_wrapper_refuses_a_bidirectional_mixer():
    with pytest.raises(ValueError, match=r"model\.bidirectional=false"):
        Bidirectional(D_MODEL, BiMamba)


def test_tied_projections_equal_two_whole_mambas():
    """Caduceus's definition: two Mambas with shared in_proj and out_proj, one on the reversed sequence, summed."""
    both = make(partial(BiMamba, d_state=4))
    front, back = Mamba(D_MODEL, d_state=4), Mamba(D_MODEL, d_state=4)
    for mamba, ssm in ((front, both.ssm_forward), (back, both.ssm_backward)):
        mamba.in_proj, mamba.out_proj, mamba.ssm = both.in_proj, both.out_proj, ssm
    x = torch.randn(2, 40, D_MODEL)
    expected = front(x)[0] + back(x.flip(1))[0].flip(1)
    torch.testing.assert_close(both(x)[0], expected, **TOLERANCE)


def test_mamba_starts_where_the_paper_says():
    torch.manual_seed(0)
    mamba = Mamba(64)
    ssm = mamba.ssm
    assert ssm.dt_rank == 4
    assert ssm.d_inner == 128
    torch.testing.assert_close(torch.exp(ssm.A_log), torch.arange(1.0, 17).repeat(128, 1))
    torch.testing.assert_close(ssm.D, torch.ones(128))
    dt = torch.nn.functional.softplus(ssm.dt_bias)
    assert dt.min() >= 1e-3 * 0.999
    assert dt.max() <= 1e-1 * 1.001
    assert float(dt.log().std()) == pytest.approx(math.log(100) / 12**0.5, rel=0.15)  # log-uniform
    assert ssm.dt_weight.abs().max() <= 0.5


def test_stack_of_causal_mixers_obeys_the_contract_too():
    torch.manual_seed(0)
    stack = Stack(D_MODEL, 3, partial(Mamba, d_state=4))
    x = torch.randn(2, 25, D_MODEL)
    whole, _ = stack(x)
    first, states = stack(x[:, :11])
    second, _ = stack(x[:, 11:], states)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, **TOLERANCE)
    states, outputs = stack.initial_state(2), []
    for t in range(25):
        y, states = stack.step(x[:, t], states)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, **TOLERANCE)
