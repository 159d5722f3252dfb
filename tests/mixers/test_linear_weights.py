"""Layers that are used by their weights: what else such a layer would do is refused, not left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ssmbio.mixers import BiMamba, Mamba

X = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Adapter(nn.Module):
    """A low-rank addition, around a layer whose weight it shows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


PLACES = [
    (Mamba, "", "in_proj"),
    (Mamba, "ssm", "x_proj"),
    (BiMamba, "", "in_proj"),
    (BiMamba, "ssm_backward", "x_proj"),
]
USED = pytest.mark.parametrize(("maker", "owner", "name"), PLACES)


@USED
def test_an_adapter_that_would_be_passed_by_is_refused(maker: type[nn.Module], owner: str, name: str) -> None:
    mixer = maker(8)
    part = mixer.get_submodule(owner)
    setattr(part, name, Adapter(part.get_submodule(name)))
    with pytest.raises(TypeError, match=f"{name} is used by its weight and never called, so the Adapter would"):
        mixer(X)


@USED
def test_a_hook_that_would_not_be_called_is_refused(maker: type[nn.Module], owner: str, name: str) -> None:
    mixer = maker(8)
    layer = mixer.get_submodule(owner).get_submodule(name)
    hook = layer.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=f"{name} .* so the hook on it would"):
        mixer(X)
    hook.remove()
    mixer(X)


@USED
def test_a_parametrized_weight_takes_effect(maker: type[nn.Module], owner: str, name: str) -> None:
    torch.manual_seed(0)
    mixer = maker(8)
    layer = mixer.get_submodule(owner).get_submodule(name)
    parametrize.register_parametrization(layer, "weight", Doubled())
    found = mixer(X)[0]
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    torch.testing.assert_close(found, mixer(X)[0])


def test_steps_refuse_an_adapter_on_any_projection() -> None:
    mixer = Mamba(8)
    mixer.out_proj = Adapter(mixer.out_proj)
    mixer(X)  # the whole calls this one
    with pytest.raises(TypeError, match="out_proj is used by its weight"):
        mixer.step(X[:, 0], mixer.initial_state(2))
