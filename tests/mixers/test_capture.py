"""Training steps can be captured as CUDA graphs: no mixer asks the device for a number, or sends it one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssmbio.mixers import DSS, GSS, H3, S4, S4D, S5, Hyena

# What waits for the device, or copies to it, as these appear on a CPU.
FORBIDDEN = ("aten::_local_scalar_dense", "aten::_linalg_check_errors", "aten::lift_fresh")
MIXERS = [
    pytest.param(partial(S4, d_state=8), id="s4"),
    pytest.param(partial(S4, d_state=8, kernel="cauchy"), id="s4-cauchy"),
    pytest.param(partial(S4, d_state=8, init="legt", kernel="cauchy"), id="s4-cauchy-rank-2"),
    pytest.param(partial(S4D, d_state=8), id="s4d"),
    pytest.param(partial(DSS, d_state=8), id="dss"),
    pytest.param(partial(S5, d_state=8), id="s5"),
    pytest.param(GSS, id="gss"),
    pytest.param(H3, id="h3"),
    pytest.param(partial(Hyena, l_max=40), id="hyena"),
]


class Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", MIXERS)
def test_a_training_step_neither_waits_for_the_device_nor_copies_to_it(make):
    torch.manual_seed(0)
    mixer, x = make(8), torch.randn(2, 40, 8, requires_grad=True)
    mixer(x)[0].sum().backward()  # what is made at the first call is kept
    with Recorded() as recorded:
        mixer(x)[0].sum().backward()
    assert len(recorded.names) > 5
    assert not recorded.names.intersection(FORBIDDEN)


def test_what_is_forbidden_is_seen():
    with Recorded() as recorded:
        torch.linalg.inv(torch.eye(2) * torch.tensor([1.0, 2.0]).sum().item())
    assert recorded.names.issuperset(FORBIDDEN)
