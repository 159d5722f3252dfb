"""Steps are of the parameters as they are, whatever changed them; what is kept between steps stays in the process."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, Hyena, Mamba
from ssmbio.mixers.base import Mixer

MAKERS: dict[str, Callable[[int], Mixer]] = {
    "s4": S4, "s4d": S4D, "s5": S5, "dss": DSS, "gss": GSS, "h3": H3, "hyena": Hyena
}  # fmt: skip
CONVERGED = 1e-5


def gap(mixer: Mixer) -> float:
    """The largest difference of a first step from the first position of the whole."""
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        step, _ = mixer.step(x[:, 0], mixer.initial_state(2))
        return (step - mixer(x)[0][:, 0]).abs().max().item()


def fused_optimizer(mixer: Mixer) -> None:
    optimizer = torch.optim.AdamW(mixer.parameters(), lr=0.05, fused=True)
    mixer(torch.randn(2, 3, 8))[0].square().sum().backward()
    optimizer.step()


def written_to_data(mixer: Mixer) -> None:
    for parameter in mixer.parameters():
        parameter.data.mul_(1.2)


def other_storages(mixer: Mixer) -> None:
    for parameter in mixer.parameters():
        parameter.data = parameter.data * 0.8


def loaded(mixer: Mixer) -> None:
    mixer.load_state_dict({name: 0.9 * value for name, value in mixer.state_dict().items()})


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("change", [fused_optimizer, written_to_data, other_storages, loaded])
def test_steps_follow_changed_parameters(name: str, change: Callable[[Mixer], None]) -> None:
    torch.manual_seed(0)
    mixer = MAKERS[name](8)
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        before, _ = mixer.step(x[:, 0], mixer.initial_state(2))
        change_under_grad(mixer, change)
        after, _ = mixer.step(x[:, 0], mixer.initial_state(2))
    assert (after - before).abs().max() > 100 * CONVERGED  # or the next line would say little
    assert gap(mixer) < CONVERGED


def change_under_grad(mixer: Mixer, change: Callable[[Mixer], None]) -> None:
    with torch.enable_grad():
        change(mixer)


def test_steps_follow_a_mask_of_pruning() -> None:
    torch.manual_seed(0)
    mixer = S4D(8)
    assert gap(mixer) < CONVERGED
    eigenvalues = mixer.get_submodule("ssm.A")
    prune.random_unstructured(eigenvalues, "frequency", 0.9)
    assert gap(mixer) < CONVERGED
    dict(eigenvalues.named_buffers())["frequency_mask"].logical_not_()
    assert gap(mixer) < CONVERGED


@pytest.mark.parametrize("name", MAKERS)
def test_a_mixer_that_has_taken_steps_is_saved_and_copied(name: str) -> None:
    torch.manual_seed(0)
    mixer = MAKERS[name](8)
    gap(mixer)
    file = io.BytesIO()
    torch.save(mixer, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for other in (read, copy.deepcopy(mixer)):
        assert kept(other) == [None]
        assert gap(other) < CONVERGED
    assert kept(mixer) != [None]


def kept(mixer: nn.Module) -> list[object]:
    """What the one part that keeps something does keep."""
    return [vars(part)["_kept"]._value for part in mixer.modules() if "_kept" in vars(part)][:1]


@pytest.mark.parametrize("name", [*MAKERS, "mamba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mixer_cast_to_half_precision_is_the_same_but_for_rounding(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mixer = {**MAKERS, "mamba": Mamba}[name](8)
    x = torch.randn(2, 9, 8)
    whole = mixer(x)[0].detach()
    narrow = copy.deepcopy(mixer).to(dtype)
    found = narrow(x.to(dtype))[0]
    assert found.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps * whole.abs().max()
    assert (found.float() - whole).abs().max() < tolerance
    found.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in narrow.parameters())
    with torch.no_grad():
        state, steps = narrow.initial_state(2), []
        for position in x.to(dtype).unbind(1):
            y, state = narrow.step(position, state)
            steps.append(y)
    assert (torch.stack(steps, 1) - found).abs().max() < tolerance


def test_hyena_made_without_memory_is_whole_once_its_parameters_are_read() -> None:
    torch.manual_seed(0)
    whole = Hyena(8, l_max=16)
    with torch.device("meta"):
        mixer = Hyena(8, l_max=16)
    mixer = mixer.to_empty(device="cpu")
    mixer.load_state_dict(whole.state_dict())
    x = torch.randn(2, 6, 8)
    assert torch.equal(mixer(x)[0], whole(x)[0])
