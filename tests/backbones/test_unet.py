"""The U-Net: its formula, one way of computing against another, causality, and neighbours that have no influence."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from unet_cases import CAUSAL, D_MODEL, MAMBA_4, S4_4, S4D_4, make, random

from ssmbio.backbones import UNet
from ssmbio.backbones.stack import Block
from ssmbio.mixers import S4, S4D, BiMamba, Mamba

EXACT = {"rtol": 0, "atol": 1e-10}
BIDIRECTIONAL = {
    "s4d_both": {"mixer": partial(S4D, d_state=4, bidirectional=True)},
    "bimamba": {"mixer": partial(BiMamba, d_state=4)},
    "mixture": {"mixer": S4D_4, "mixers": {"centre": partial(BiMamba, d_state=4)}},
}
BOTH_FORMS = pytest.mark.parametrize("unet", [False, True], ids=["plain", "unet"])


def start(net: UNet, batch_size: int):
    """The initial state in float64 throughout; Mamba's is float32."""
    return pytree.tree_map(
        lambda leaf: leaf if leaf.is_complex() else leaf.double(),
        net.initial_state(batch_size),
    )


def stepped(net: UNet, x: Tensor, states) -> tuple[Tensor, object]:
    outputs = []
    for position in x.unbind(1):
        y, states = net.step(position, states)
        outputs.append(y)
    return torch.stack(outputs, 1), states


def blocks(net: UNet, name: str, x: Tensor) -> list[Tensor]:
    """The residual stream after each block of a stage."""
    outputs = []
    for block in net.stage(name).blocks:
        x = block(x)[0] if isinstance(block, Block) else block(x)
        outputs.append(x)
    return outputs


def late(net: UNet, level: int, low: Tensor) -> Tensor:
    pool = net.up_pool(level)
    made = pool.linear(low).unflatten(-1, (pool.pool, -1)).flatten(1, 2)
    return torch.cat([torch.zeros_like(made[:, : pool.pool]), made[:, : -pool.pool]], 1)


def test_skips_are_those_of_sashimi():
    net = make(False, CAUSAL["mixture"])
    x0 = random(2, 48, D_MODEL)
    x1 = net.down_pool(0).linear(x0.reshape(2, 12, -1))
    x2 = net.down_pool(1).linear(x1.reshape(2, 3, -1))
    centre = blocks(net, "centre", x2)[-1] + x2
    z1 = late(net, 1, centre) + x1
    z1 = blocks(net, "up_1", z1)[-1] + z1
    z0 = late(net, 0, z1) + x0
    z0 = blocks(net, "up_0", z0)[-1] + z0
    torch.testing.assert_close(net(x0)[0], net.norm(z0), **EXACT)


def test_with_unet_every_block_has_a_skip():
    net = make(True, CAUSAL["mixture"])
    x0 = random(2, 48, D_MODEL)
    down_0 = blocks(net, "down_0", x0)
    x1 = net.down_pool(0).linear(down_0[-1].reshape(2, 12, -1))
    down_1 = blocks(net, "down_1", x1)
    x2 = net.down_pool(1).linear(down_1[-1].reshape(2, 3, -1))
    z = blocks(net, "centre", x2)[-1] + x2
    for level, skips in ((1, [x1, *down_1]), (0, [x0, *down_0])):
        z = late(net, level, z) + skips.pop()
        for block in net.stage(f"up_{level}").blocks:
            z = (block(z)[0] if isinstance(block, Block) else block(z)) + skips.pop()
        assert not skips
    torch.testing.assert_close(net(x0)[0], net.norm(z), **EXACT)


@BOTH_FORMS
@pytest.mark.parametrize("name", CAUSAL)
def test_steps_equal_the_whole(unet, name):
    net = make(unet, CAUSAL[name])
    x = random(2, 50, D_MODEL)
    whole, final = net(x)
    y, states = stepped(net, x, start(net, 2))
    torch.testing.assert_close(y, whole, **EXACT)
    # And so does what follows, from either state.
    more = random(2, 37, D_MODEL)
    torch.testing.assert_close(net(more, states)[0], net(more, final)[0], **EXACT)
    assert states.phase == final.phase == 50 % net.period


@BOTH_FORMS
@pytest.mark.parametrize("cut", [1, 5, 9, 16, 17, 31])
@pytest.mark.parametrize("name", CAUSAL)
def test_two_pieces_with_the_state_carried_equal_the_whole(unet, name, cut):
    net = make(unet, CAUSAL[name])
    x, weight = random(2, 50, D_MODEL).requires_grad_(), random(2, 50, D_MODEL)
    whole, _ = net(x)
    first, states = net(x[:, :cut])
    second, _ = net(x[:, cut:], states)
    pieces = torch.cat([first, second], 1)
    torch.testing.assert_close(pieces, whole, **EXACT)
    # The carried state is differentiable: the first piece learns from the second.
    one, two = (torch.autograd.grad((y * weight).sum(), [x, *net.parameters()]) for y in (whole, pieces))
    for expected, found in zip(one, two, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@BOTH_FORMS
def test_many_pieces_of_all_sizes_and_steps_between_equal_the_whole(unet):
    net = make(unet, CAUSAL["mixture"])
    x = random(1, 100, D_MODEL)
    states, outputs, at = None, [], 0
    for size in (1, 2, 1, 15, 3, 32, 7, 1, 1, 37):
        y, states = (
            net(x[:, at : at + size], states) if size > 1 or at == 0 else stepped(net, x[:, at : at + 1], states)
        )
        outputs.append(y)
        at += size
    assert at == 100
    torch.testing.assert_close(torch.cat(outputs, 1), net(x)[0], **EXACT)


@BOTH_FORMS
@pytest.mark.parametrize("length", [1, 3, 4, 15, 16, 17])
def test_outputs_do_not_depend_on_how_long_the_sequence_goes_on(unet, length):
    net = make(unet, CAUSAL["mixture"])
    x = random(2, 64, D_MODEL)
    torch.testing.assert_close(net(x[:, :length])[0], net(x)[0][:, :length], **EXACT)


@BOTH_FORMS
@pytest.mark.parametrize("name", CAUSAL)
def test_output_depends_on_no_later_input(unet, name):
    net = make(unet, CAUSAL[name])
    x = random(1, 40, D_MODEL).requires_grad_()
    y, _ = net(x)
    for t in (0, 3, 4, 15, 16, 33):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        past, future = gradient[:, : t + 1].abs(), gradient[:, t + 1 :].abs()
        # A Fourier transform mixes all positions, and what cancels leaves a rounding behind.
        assert future.max() <= (1e-12 if name in ("s4", "mixture") else 0)
        assert (past.amax(-1) > 1e-9).all()


def test_states_have_one_structure_whatever_the_phase():
    net = make(True, CAUSAL["mixture"])
    states = net.initial_state(3)
    leaves, structure = pytree.tree_flatten(states)
    assert all(isinstance(leaf, Tensor) and leaf.shape[0] == 3 for leaf in leaves)
    shapes = [leaf.shape for leaf in leaves]
    for t in range(net.period):
        assert states.phase == t
        _, states = net.step(random(3, D_MODEL), states)
        assert [leaf.shape for leaf in pytree.tree_leaves(states)] == shapes
    assert pytree.tree_structure(states) == structure
    for length, same in ((32, True), (16, True), (5, False), (35, False)):
        _, states = net(random(3, length, D_MODEL))
        assert [leaf.shape for leaf in pytree.tree_leaves(states)] == shapes
        # Another phase is another structure, so two states of different phases are not mixed up by mistake.
        assert (pytree.tree_structure(states) == structure) == same
    assert pytree.tree_map(torch.clone, states).phase == 35 % 16


def test_a_step_leaves_the_given_state_alone_and_shares_what_it_does_not_touch():
    net = make(False, CAUSAL["mamba"])
    _, states = net(random(2, 19, D_MODEL))
    before = [leaf.clone() for leaf in pytree.tree_leaves(states)]
    for _ in range(2):
        _, after = net.step(random(2, D_MODEL), states)
    for leaf, kept in zip(pytree.tree_leaves(states), before, strict=True):
        assert torch.equal(leaf, kept)
    # Position 19 fills the outer pool and not the inner one: the middle stage runs, the centre does not.
    assert after.phase == 4
    assert after.mixers["centre"] is states.mixers["centre"]
    assert after.mixers["up_1"] is not states.mixers["up_1"]
    assert after.pending[1] is states.pending[1]
    assert after.gathered[0] is states.gathered[0]
    _, after = net.step(random(2, D_MODEL), after)
    assert after.gathered[0][0] is not states.gathered[0][0]
    assert after.gathered[0][1] is states.gathered[0][1]


@BOTH_FORMS
@pytest.mark.parametrize("name", [*CAUSAL, *(f"both:{name}" for name in BIDIRECTIONAL)])
def test_packed_sequences_equal_separate_ones(unet, name):
    settings = BIDIRECTIONAL[name.removeprefix("both:")] if name.startswith("both:") else CAUSAL[name]
    net = make(unet, settings).float()
    lengths = [5, 1, 30, 16, 2, 66]
    pieces = [torch.randn(1, n, D_MODEL) for n in lengths]
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    packed, states = net(torch.cat(pieces, 1), cu_seqlens=cu_seqlens)
    separate = torch.cat([net(piece)[0] for piece in pieces], 1)
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-5)
    assert states is None


@BOTH_FORMS
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_bidirectional_mixers_see_both_ends_and_have_no_state(unet, name):
    net = make(unet, BIDIRECTIONAL[name])
    assert not net.causal
    x = random(1, 37, D_MODEL).requires_grad_()
    y, states = net(x)
    assert states is None
    (gradient,) = torch.autograd.grad(y[:, 20].sum(), x)
    # The last positions are in a pool whose outputs come too late, and reach 20 through bidirectional stages alone.
    reached = 32 if name == "mixture" else 37
    assert (gradient[:, :reached].abs().amax(-1) > 0).all()
    with pytest.raises(RuntimeError, match="bidirectional"):
        net.initial_state(1)
    with pytest.raises(RuntimeError, match="bidirectional mixers"):
        net(x, states=make(unet, CAUSAL["s4d"]).initial_state(1))


@pytest.mark.parametrize("name", ["mixture", "mamba"])
def test_activation_checkpointing_keeps_names_and_gradients(name):
    plain = make(True, CAUSAL[name])
    frugal = make(True, CAUSAL[name] | {"activation_checkpointing": True}, seed=1)
    assert list(plain.state_dict()) == list(frugal.state_dict())
    frugal.load_state_dict(plain.state_dict())
    x = random(2, 35, D_MODEL)
    kept = []
    for net in (plain, frugal):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = net(x)[0]
        y.square().sum().backward()
        kept.append(sum(sizes))
    for one, two in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, **EXACT)
    assert kept[1] < kept[0] / 3


@BOTH_FORMS
def test_residual_stream_stays_float32_under_autocast(unet):
    net = UNet(D_MODEL, 1, unet=unet, mixers=CAUSAL["mixture"]["mixers"])
    seen = []
    for module in net.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        _, states = net(torch.randn(1, 32, D_MODEL))
        y, states = net.step(torch.randn(1, D_MODEL), states)
    assert len(seen) > 8
    assert set(seen) == {torch.float32}
    assert y.dtype == torch.float32
    assert {leaf.dtype for leaf in (*states.pending, *(row for rows in states.gathered for row in rows))} == {
        torch.float32
    }


def test_bfloat16_steps_equal_the_whole():
    torch.manual_seed(0)
    net = UNet(D_MODEL, 2, mixer=MAMBA_4)
    x = torch.randn(2, 37, D_MODEL)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y, _ = stepped(net, x, net.initial_state(2))
        whole, _ = net(x)
    assert (y - whole).abs().max() < 0.05 * whole.abs().max()


def test_dropout_acts_in_training_alone():
    net = make(False, {"mixer": S4D_4, "dropout": 0.5})
    x = random(1, 16, D_MODEL)
    assert not torch.equal(net(x)[0], net(x)[0])
    net.eval()
    assert torch.equal(net(x)[0], net(x)[0])


def test_output_projections_shrink_with_depth():
    torch.manual_seed(0)
    shallow, deep = (UNet(32, n, pool=[2], mixer=partial(Mamba, d_state=2)) for n in (1, 9))
    spread = [net.stage("up_0").mixers[0].out_proj.weight.std().item() for net in (shallow, deep)]
    assert spread[0] / spread[1] == pytest.approx(3, rel=0.1)


def test_widths_and_stages_follow_the_pools():
    net = UNet(8, 1, pool=[4, 2], expand=3, mixers={"outer": S4D_4, "middle": S4_4, "centre": MAMBA_4})
    mixers = {name: net.stage(name).mixers[0] for name in net.stages}
    assert {name: (type(mixer), mixer.d_model) for name, mixer in mixers.items()} == {
        "centre": (Mamba, 72),
        "up_1": (S4, 24),
        "up_0": (S4D, 8),
    }
    assert net.period == 8
