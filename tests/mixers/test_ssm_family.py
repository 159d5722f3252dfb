"""What S4 and its relatives share: initial values, optimizer groups, other sample rates, and use in a task."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_module

from ssmbio.backbones import Bidirectional, Stack
from ssmbio.build import build_pipeline
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, Hyena
from ssmbio.mixers.step_size import set_rate
from ssmbio.training.optimizer import parameter_groups

CHOICES = ("dss", "gss", "h3", "hyena", "s4", "s4d", "s5")
WITH_STEPS = (DSS, GSS, H3, S4, S4D, S5)
LAYERS = (DSS, S4, S4D, S5)


def complex_of(parameter: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(parameter.detach())


@pytest.mark.parametrize("mixer", WITH_STEPS)
def test_step_sizes_start_log_uniform_in_their_range(mixer):
    torch.manual_seed(0)
    layer = mixer(2000, dt_min=1e-3, dt_max=1e-1) if mixer is not S5 else S5(4, d_state=4000, blocks=100)
    log_dt = layer.ssm.dt().detach().log()
    assert log_dt.min() >= math.log(1e-3) - 1e-5
    assert log_dt.max() <= math.log(1e-1) + 1e-5
    assert log_dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.2)
    assert log_dt.std().item() == pytest.approx(math.log(100) / 12**0.5, rel=0.1)


@pytest.mark.parametrize("mixer", [S4, S4D])
def test_s4_and_s4d_start_as_published(mixer):
    torch.manual_seed(0)
    layer = mixer(256)
    ssm = layer.ssm
    C = complex_of(ssm.C)
    assert C.shape == (256, 32)  # d_state 64: 32 pairs
    assert C.abs().square().mean().item() == pytest.approx(1, rel=0.05)  # CN(0, 1)
    assert C.real.var().item() == pytest.approx(0.5, rel=0.05)
    assert abs(C.mean().item()) < 0.03
    torch.testing.assert_close(ssm.A().real, torch.full((256, 32), -0.5))
    assert layer.D.mean().item() == pytest.approx(0, abs=0.2)
    assert layer.D.std().item() == pytest.approx(1, rel=0.15)
    assert layer.mix.weight.shape == (512, 256)
    if mixer is S4D:
        torch.testing.assert_close(ssm.A().imag, math.pi * torch.arange(32.0).repeat(256, 1))
        torch.testing.assert_close(complex_of(ssm.B), torch.ones(256, 32, dtype=torch.complex64))
    else:
        assert ssm.P.shape == (1, 256, 32, 2)
        # |V* B|² and |V* P|² of one of each pair add up to half of |B|² = N² and |P|² = N² / 2.
        torch.testing.assert_close(complex_of(ssm.B).abs().square().sum(-1), torch.full((256,), 64.0**2 / 2))
        torch.testing.assert_close(complex_of(ssm.P)[0].abs().square().sum(-1), torch.full((256,), 64.0**2 / 4))


def test_s5_starts_with_outputs_of_the_size_of_its_inputs():
    torch.manual_seed(0)
    ssm = S5(128, d_state=256, blocks=8).ssm
    assert complex_of(ssm.B).abs().square().mean().item() == pytest.approx(1 / 128, rel=0.05)
    assert complex_of(ssm.C).abs().square().mean().item() == pytest.approx(1 / 128, rel=0.05)


def test_shared_systems_have_one_a_and_b():
    for mixer in (S4, S4D):
        own, shared = mixer(16), mixer(16, shared=True)
        assert shared.ssm.A.frequency.shape == (1, 32)
        assert shared.ssm.B.shape == (1, 32, 2)
        assert shared.ssm.C.shape == own.ssm.C.shape
        assert shared.ssm.dt.log_dt.shape == own.ssm.dt.log_dt.shape


@pytest.mark.parametrize("mixer", WITH_STEPS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_b_and_the_step_size_have_a_group_of_their_own(mixer, bidirectional):
    model = Stack(8, 2, partial(mixer, lr=5e-4), bidirectional=bidirectional)
    groups = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = [group for group in groups if group.get("lr") == 5e-4]
    assert len(own) == 1
    assert own[0]["weight_decay"] == 0
    dynamics = {names[id(p)].split("ssm.")[1] for p in own[0]["params"]}
    expected = {"A.log_decay", "A.frequency", "dt.log_dt"}
    expected |= set() if mixer in (DSS, GSS) else {"B"}
    expected |= {"P"} if mixer is S4 else set()
    assert dynamics == expected
    assert len(own[0]["params"]) == len(expected) * 2 * (1 + bidirectional)
    assert len(names) == sum(len(group["params"]) for group in groups)
    # The default is the published rate; without one, the optimizer's.
    assert any(group.get("lr") == 1e-3 for group in parameter_groups(mixer(8)))
    assert not any("lr" in group for group in parameter_groups(mixer(8, lr=None)))


def test_the_network_of_hyenas_filters_has_a_group_of_its_own():
    layer = Hyena(8, l_max=16, lr=2e-4)
    own = [group for group in parameter_groups(layer) if group.get("lr") == 2e-4]
    assert len(own) == 1
    assert {id(p) for p in own[0]["params"]} == {id(p) for p in layer.filter.parameters()}


def smooth_signal(length: int, channels: int) -> torch.Tensor:
    t = torch.arange(length, dtype=torch.float64)[:, None]
    periods = torch.linspace(400, 1500, channels, dtype=torch.float64)
    return (torch.sin(2 * math.pi * t / periods) + 0.5 * torch.cos(2 * math.pi * t / (2.3 * periods)))[None]


@pytest.mark.parametrize(
    "make",
    [
        partial(S4D, discretization="bilinear"),
        partial(S4D, discretization="zoh"),
        partial(S4D, init="real"),
        partial(S4),
        partial(S4, init="legt"),
        partial(S5, discretization="bilinear"),
        partial(DSS, l_max=3000),
        partial(DSS, scale="exp"),
    ],
    ids=str,
)
def test_a_model_runs_at_half_its_sample_rate(make):
    """On every second sample of a smooth signal with rate 2, the outputs are every second output."""
    torch.manual_seed(0)
    layer, x = make(4, dt_min=2e-3, dt_max=2e-2).double(), smooth_signal(3000, 4)
    with torch.no_grad():
        expected = layer(x)[0][:, ::2]
        unchanged = layer(x[:, ::2])[0]
        assert set_rate(layer, 2.0) == 1
        found, _ = layer(x[:, ::2])
        steps = layer.initial_state(1)
        for l in range(3):
            stepped, steps = layer.step(x[:, 2 * l], steps)
    error = (found - expected)[:, 10:].abs().max() / expected.abs().max()
    assert error < 0.03
    assert (unchanged - expected).abs().max() > 5 * error * expected.abs().max()
    torch.testing.assert_close(stepped, found[:, 2])


def test_the_rate_of_every_system_in_a_model_is_set_at_once():
    model = Stack(4, 3, partial(S4D, d_state=4, rate=0.5), bidirectional=True)
    assert set_rate(model, 4.0) == 6
    assert all(block.mixer.forwards.ssm.rate == 4.0 for block in model.blocks)
    for rate in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="rate must be positive"):
            set_rate(model, rate)


@pytest.mark.parametrize("mixer", LAYERS)
def test_one_layer_in_two_directions_is_the_sum_of_two_systems(mixer):
    """Two kernels, one reversed, before one skip, GELU and GLU; not the same as two whole layers."""
    torch.manual_seed(0)
    layer, x = mixer(4, d_state=6, bidirectional=True), torch.randn(2, 30, 4)
    front, back = layer.ssm_forward(x)[0], layer.ssm_backward(x.flip(1))[0].flip(1)
    y = torch.nn.functional.gelu(front + back + layer.D * x)
    torch.testing.assert_close(layer(x)[0], torch.nn.functional.glu(layer.mix(y), -1))
    with pytest.raises(ValueError, match=r"model\.bidirectional=false"):
        Bidirectional(4, partial(mixer, bidirectional=True))


@pytest.mark.parametrize("mixer", LAYERS)
def test_dropout_is_before_the_output_projection(mixer):
    torch.manual_seed(0)
    layer, x = mixer(64, d_state=4, dropout=0.5), torch.randn(1, 50, 64)
    seen = []
    layer.mix.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    layer(x)
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(layer.eval()(x)[0], layer(x)[0])


@pytest.mark.parametrize("mixer", [*WITH_STEPS, partial(Hyena, l_max=64, width=8)])
def test_under_autocast_the_system_stays_in_float32(mixer):
    """bfloat16 in and out, near what float32 gives; states never are bfloat16."""
    torch.manual_seed(0)
    layer, x = mixer(16), torch.randn(2, 80, 16)
    y, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, state = layer(x)
        stepped, _ = layer.step(x[:, 0], layer.initial_state(2))
    assert narrow.dtype == stepped.dtype == torch.bfloat16
    parts = state if isinstance(state, tuple) else (state,)
    assert {part.dtype for part in parts} <= {torch.complex64, torch.float32}
    assert (narrow.float() - y).abs().max() < 0.05 * y.abs().max()
    torch.testing.assert_close(stepped.float(), y[:, 0], rtol=0, atol=0.05 * y.abs().max().item())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mixer", CHOICES)
def test_in_a_task_padding_and_neighbours_have_no_influence(mixer, bidirectional):
    facts = {"tokenizer": CharacterTokenizer().spec(), "labels": ["a", "b"], "problem": "binary", "max_length": 100}
    sizes = ("model.d_model=8", "model.n_layers=2", f"model.bidirectional={str(bidirectional).lower()}", "run_dir=x")
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        config = compose("train", ["task=dna_classify", f"model/mixer={mixer}", *sizes])
    torch.manual_seed(0)
    pipeline = build_pipeline(config, facts).eval()
    rows = [torch.randint(7, 11, (1, n)) for n in (12, 1, 70, 33)]
    lengths = torch.tensor([row.shape[1] for row in rows])
    batch = torch.randint(7, 11, (4, 80))  # padding of letters, which would show
    for place, row in enumerate(rows):
        batch[place, : row.shape[1]] = row
    with torch.no_grad():
        together = pipeline(batch, lengths)
        for place, row in enumerate(rows):
            alone = pipeline(row, lengths[place : place + 1])
            torch.testing.assert_close(together[place], alone[0], rtol=0, atol=1e-5)


def test_inits_are_choices_on_the_command_line():
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        config = compose("train", ["task=dna_classify", "model/mixer=s4d", "model.mixer.init=inv", "run_dir=x"])
    facts = {"tokenizer": CharacterTokenizer().spec(), "labels": ["a", "b"], "problem": "binary", "max_length": 100}
    ssm = build_pipeline(config, facts).backbone.blocks[0].mixer.ssm
    assert ssm.A.frequency.max().item() == pytest.approx(64 / math.pi * 63, rel=1e-5)
