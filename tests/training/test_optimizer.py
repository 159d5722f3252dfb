"""What weight decay touches, and the shape of the schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssmbio.backbones import Stack
from ssmbio.mixers import BiMamba
from ssmbio.training.optimizer import parameter_groups
from ssmbio.training.schedule import constant_with_warmup, cosine_with_warmup


def test_time_scales_gains_and_embeddings_are_not_decayed():
    model = nn.ModuleDict({"embedding": nn.Embedding(12, 8), "stack": Stack(8, 2, BiMamba)})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model)
    decayed = {names[id(p)] for group in groups if "weight_decay" not in group for p in group["params"]}
    spared = {names[id(p)] for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    assert decayed | spared == set(names.values())
    assert not decayed & spared
    assert {name.rsplit(".", 1)[1] for name in decayed} == {"weight", "conv_weight", "dt_weight"}
    assert not any("norm" in name or "embedding" in name for name in decayed)
    assert any("A_log" in name for name in spared)


def test_a_module_can_set_its_own_learning_rate():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = nn.Parameter(torch.zeros(3, 3))

        def optimizer_settings(self):
            return {"time": {"lr": 1e-3, "weight_decay": 0.0}}

    groups = parameter_groups(nn.Sequential(nn.Linear(2, 2), Slow()))
    own = [group for group in groups if group.get("lr") == 1e-3]
    assert len(own) == 1
    assert own[0]["params"][0].shape == (3, 3)
    torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1)


def rates(make, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, total_steps=steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_cosine_rises_then_falls_to_its_minimum():
    seen = rates(lambda o, total_steps: cosine_with_warmup(o, total_steps, warmup=0.2, minimum=0.1), 100)
    assert seen[0] > 0
    assert seen[:21] == sorted(seen[:21])
    assert seen[20] == pytest.approx(1.0)
    assert seen[20:] == sorted(seen[20:], reverse=True)
    assert seen[60] == pytest.approx(0.55, abs=0.01)  # half way down
    assert seen[-1] == pytest.approx(0.1, abs=0.01)


def test_constant_stays_after_its_warmup():
    seen = rates(lambda o, total_steps: constant_with_warmup(o, total_steps, warmup=5), 20)
    assert seen[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert seen[5:] == [1.0] * 15
