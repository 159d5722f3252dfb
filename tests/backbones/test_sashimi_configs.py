"""The presets of SaShiMi compose with any mixer in any stage, are causal, and have the sizes of the paper."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ssmbio.backbones import UNet
from ssmbio.build import build_allowed

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "model").glob("sashimi*.yaml"))
STAGES = ("outer", "middle", "centre")
BIDIRECTIONAL = ("bimamba",)
MIXERS = sorted(path.stem for path in (CONF / "model" / "mixer").glob("*.yaml"))
CAUSAL = [name for name in MIXERS if name not in BIDIRECTIONAL]
SHARED = [f"model.mixers.{stage}.shared=true" for stage in STAGES]
SMALL = ("model.d_model=8", "model.n_layers=1")


def model_config(*overrides: str):
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        return compose("train", list(overrides)).model


@functools.cache
def target(mixer: str) -> str:
    return str(OmegaConf.load(CONF / "model" / "mixer" / f"{mixer}.yaml")._target_)


def mixers_of(config) -> list[str]:
    return [config.mixers[stage]._target_ for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mixer", CAUSAL)
def test_every_causal_mixer_in_every_stage(mixer, stage):
    config = model_config("model=sashimi", f"model/mixer@model.mixers.{stage}={mixer}", *SMALL)
    assert mixers_of(config) == [target(mixer) if name == stage else target("s4d") for name in STAGES]
    torch.manual_seed(0)
    net = build_allowed(config)
    assert isinstance(net, UNet)
    assert net.causal
    x = torch.randn(1, 20, 8)
    with torch.no_grad():
        whole, _ = net(x)
        _, states = net(x[:, :15])
        for t in range(15, 20):
            y, states = net.step(x[:, t], states)
            torch.testing.assert_close(y, whole[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_way_tasks_choose_a_mixer_sets_all_stages(mixer):
    config = model_config("model=sashimi", f"model/mixer={mixer}", *SMALL)
    assert mixers_of(config) == [target(mixer)] * 3
    assert instantiate(config).causal == (mixer in CAUSAL)


def test_one_stage_wins_over_the_choice_for_all_and_values_are_set_stage_by_stage():
    config = model_config(
        "model=sashimi",
        "model/mixer=s4",
        "model/mixer@model.mixers.centre=mamba",
        "model.mixers.centre.d_state=32",
        "model.mixers.outer.d_state=16",
        *SMALL,
    )
    assert mixers_of(config) == [target("s4"), target("s4"), target("mamba")]
    net = instantiate(config)
    assert net.initial_state(1).mixers["centre"][0].ssm.shape == (1, 64, 32)
    assert net.initial_state(1).mixers["up_0"][0].shape == (1, 8, 8)
    assert net.initial_state(1).mixers["up_1"][0].shape == (1, 16, 32)


def test_values_for_a_mixer_that_no_stage_has_are_refused():
    with pytest.raises(ConfigCompositionException, match=r"model\.mixer\.d_state"):
        model_config("model=sashimi", "model.mixer.d_state=32")
    with pytest.raises(Exception, match="mixer would have no effect"):
        instantiate(model_config("model=sashimi", "+model.mixer.d_state=32"))


@pytest.mark.parametrize("task", ["pixel_classify", "sequence_classify", "dna_classify"])
def test_mamba_preset_is_mamba_whatever_mixer_a_task_is_used_to(task):
    assert mixers_of(model_config(f"task={task}", "model=sashimi_mamba")) == [target("mamba")] * 3


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_never_look_ahead(preset):
    net = instantiate(model_config(f"model={preset}", "model.d_model=8", "model.n_layers=2"))
    x = torch.randn(1, 40, 8, requires_grad=True)
    y = net(x)[0] * torch.randn(8)  # the sum of a LayerNorm's outputs alone depends on nothing
    for t in (2, 15, 16, 30):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert (gradient[:, t + 1 :] == 0).all()
        assert (gradient[:, : t + 1].abs().amax(-1) > 0).all()


@pytest.mark.parametrize(
    ("overrides", "millions", "tolerance"),
    [
        (["model=sashimi"], 5.22, 5e-3),
        (["model=sashimi_mamba"], 6.24, 5e-3),
        (["model=sashimi_small"], 0.45, 5e-3),
        # Those of the paper's code, to the last parameter.
        (["model=sashimi", "model/mixer=s4"], 5.447680, 1e-9),
        (["model=sashimi_unet", "model/mixer=s4"], 6.840832, 1e-9),
        (
            ["model=sashimi", "model/mixer=s4", *(f"model.mixers.{stage}.shared=true" for stage in STAGES)],
            4.764160,
            1e-9,
        ),
    ],
)
def test_sizes_with_embedding_and_head_of_256_levels(overrides, millions, tolerance):
    net = instantiate(model_config(*overrides))
    parameters = sum(p.numel() for p in net.parameters()) + 256 * net.d_model + (net.d_model + 1) * 256
    assert parameters / 1e6 == pytest.approx(millions, abs=tolerance)
