"""Models that the fused steps are tried on, and lanes that put off whatever they may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack, UNet
from ssmbio.generation.lanes import Buffers, Mark, Order
from ssmbio.mixers import DSS, H3, S4, S4D, Hyena, Mamba

ZERO = 128
S4D6, DSS6 = partial(S4D, d_state=6), partial(DSS, d_state=6, l_max=64)


def net(d_model: int = 12, n_layers: int = 2, **other: Any) -> Callable[[], UNet]:
    return partial(UNet, d_model, n_layers, **other)


# Whole stages of S4D and DSS, then those that go block by block: no feed-forward networks, layers both ways, Mamba.
EXACT = {
    "s4d": net(mixer=S4D6),
    "dss": net(mixer=DSS6),
    "one_pool_odd": net(7, 1, pool=(3,), mixer=S4D6, ff=1.5),
    "three_pools": net(5, 1, pool=(2, 3, 2), expand=3, mixer=S4D6),
    "no_feed_forward": net(mixer=S4D6, ff=0),
    "layers_both_ways": net(mixer=S4D6, unet=True),
    "mamba": net(mixer=partial(Mamba, d_state=5), ff=0),
    "mamba_centre": net(mixer=S4D6, mixers={"centre": Mamba}),
    "stack_mamba": partial(Stack, 12, 3, partial(Mamba, d_conv=2, expand=1.5)),
}
INEXACT = {
    "s4": net(mixer=partial(S4, d_state=6)),
    "h3_centre": net(mixer=S4D6, mixers={"centre": H3}),
    "stack_s4d": partial(Stack, 9, 3, S4D6),
    "stack_hyena": partial(Stack, 8, 2, partial(Hyena, l_max=128)),
}


class CodesModel(nn.Module):
    """An embedding, a backbone and a head, with what generation asks for."""

    encoding = SimpleNamespace(zero=ZERO)

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.period = backbone.period
        self.embedding = nn.Embedding(256, backbone.d_model)
        self.backbone = backbone
        self.head = nn.Linear(backbone.d_model, 256)

    def initial_state(self, batch_size: int) -> Any:
        return self.backbone.initial_state(batch_size)

    def step(self, codes: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.backbone.step(self.embedding(codes), state)
        return self.head(y), state

    def prefill(self, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.backbone(self.embedding(codes), state)
        return self.head(y), state


def make(backbone: Callable[[], Any], dtype: torch.dtype = torch.float32) -> CodesModel:
    """A model that decodes, whose distributions are neither flat nor certain."""
    torch.manual_seed(0)
    model = CodesModel(backbone())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.head.weight *= 3
    return model.to(dtype).eval().requires_grad_(False)


def some_codes(batch: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (batch, count)))


class Deferred:
    """Runs a task only when one of lane 0 has to wait for it, or at the join.

    Args:
        forget: leaves out what tasks say that they read.
    """

    def __init__(self, forget: bool = False) -> None:
        self._order, self._forget = Order(), forget
        self._tasks: dict[int, list[tuple[list[Mark], Callable[[], Any]]]] = defaultdict(list)
        self._done: dict[int, int] = defaultdict(int)
        self.most_put_off = 0

    def run(self, lane: int, task: Callable[[], Any], reads: Buffers = (), writes: Buffers = ()) -> None:
        mark, waits = self._order.add(lane, () if self._forget else reads, writes)
        self._tasks[lane].append((waits, task))
        if lane == 0:
            self._finish(0, mark.number)
        self.most_put_off = max(self.most_put_off, sum(len(tasks) - self._done[i] for i, tasks in self._tasks.items()))

    def join(self) -> None:
        for lane in sorted(self._tasks):
            self._finish(lane, len(self._tasks[lane]))

    def _finish(self, lane: int, number: int) -> None:
        while self._done[lane] < number:
            waits, task = self._tasks[lane][self._done[lane]]
            for mark in waits:
                self._finish(mark.lane, mark.number)
            task()
            self._done[lane] += 1
