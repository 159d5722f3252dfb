"""A model that decodes by fused steps: embedding, stages, pools and head in one kernel each, where there is one.

Steps of modules are products by cuBLAS, which rounds a row's result by the size of the batch; now and then that makes a
code another one, and from there on the clip. The fused steps take each row by itself, so a clip drawn with a seed is
the same clip in any company. `FusedModel.inexact` names the parts that have none: the low-rank systems of S4, S4D and
DSS behind an RMSNorm (in a `Stack`), whose sums are torch's, and mixers such as H3 and Hyena, which run as modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssmbio.backbones import Stack, UNet
from ssmbio.generation.fused_block import linear_step
from ssmbio.generation.fused_net import FusedNet, FusedState
from ssmbio.generation.lanes import Lanes, OneLane, SideStreams

GRAPH_POSITIONS = 128
"""At a graph's end all lanes meet, so in long graphs the lowest rate is waited for less often."""


class NotFused(Exception):
    """There are no fused steps for a model of this kind."""


class FusedModel(nn.Module):
    """Steps of a model, with the meaning of the model's own; a prompt goes through the model's forward pass.

    A step overwrites the state it is given.

    Args:
        model: an embedding, a U-Net or a stack, and a linear head, prepared (evaluation mode, no gradients). Its
            weights are not to change, for some are kept in another layout.
        backend: of the kernels: "auto" is Triton on a GPU.
        lanes: whether lower rates may run beside the highest.

    Attributes:
        inexact: parts for which the results of a row may depend on the batch, in words.
        stride: positions, whole periods, that make a good graph.

    Raises:
        NotFused: the model is of another kind.
    """

    def __init__(self, model: Any, backend: str = "auto", lanes: bool = True) -> None:
        super().__init__()
        embedding, backbone, head = (getattr(model, name, None) for name in ("embedding", "backbone", "head"))
        if type(embedding) is not nn.Embedding or not isinstance(head, nn.Linear):
            raise NotFused("it is not an embedding, a backbone and a linear head")
        if not isinstance(backbone, UNet | Stack) or not backbone.causal:
            raise NotFused(f"its backbone is a {type(backbone).__name__}")
        self.model, self.encoding, self.period = model, model.encoding, model.period
        self.stride = self.period * max(1, GRAPH_POSITIONS // self.period)
        try:
            self._net = FusedNet(backbone, backend)
        except TypeError as why:
            raise NotFused(str(why)) from why
        self.inexact = self._net.inexact
        self._table = embedding.weight.detach()
        self._head = linear_step(head, backend, backbone.norm)
        self._lanes: Lanes = OneLane()
        self._side_by_side = lanes

    def initial_state(self, batch_size: int) -> FusedState:
        return self._net.own(self.model.initial_state(batch_size))

    @torch.no_grad()
    def step(self, codes: Tensor, state: FusedState) -> tuple[Tensor, FusedState]:
        """codes (B,) int64 and the state before them → logits (B, levels) of the codes that follow, and the new state.

        The tensors of the new state are those of the old one, overwritten.
        """
        place = self._net.place(state)
        self._lanes.run(0, lambda: torch.index_select(self._table, 0, codes, out=place), writes=[("rows", 0)])
        y, state = self._net.step(state, self._lanes)
        return self._head(y), state

    def prefill(self, codes: Tensor, state: FusedState | None = None) -> tuple[Tensor, FusedState]:
        """As `AudioGenerate.prefill`; the state that is given stays as it is."""
        before = None if state is None else self._net.of_backbone(state)
        logits, after = self.model.prefill(codes, before)
        return logits, self._net.own(after)

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """While a CUDA graph is captured, the steps inside get lanes, which all meet at the end.

        Elsewhere the lanes would need what Python throws away to stay until they are done with it; and there it is the
        launches that take the time.
        """
        if not (self._side_by_side and self._table.is_cuda and torch.cuda.is_current_stream_capturing()):
            yield
            return
        self._lanes = SideStreams(len(self._net.pool))
        try:
            yield
            self._lanes.join()
        finally:
            self._lanes = OneLane()


def fused_if_possible(model: Any) -> Any:
    """`FusedModel` of a prepared model, or the model itself."""
    try:
        return FusedModel(model)
    except NotFused:
        return model
