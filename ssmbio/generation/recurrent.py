"""The decoding loop: a batch of clips, a code at a time, each drawn from what the model makes of those before it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from ssmbio.errors import UserError
from ssmbio.generation.fused import FusedModel, fused_if_possible
from ssmbio.generation.packed import NotPacked, PackedDecoder
from ssmbio.generation.period_graph import PeriodGraph, fill, own_tensors
from ssmbio.generation.sampling import SamplingSettings, draw
from ssmbio.mixers.derived import Derived

log = logging.getLogger(__name__)

PREFILL_PIECE = 2**14  # positions of a prompt at once: what a piece takes does not grow with the prompt


class _Encoding(Protocol):
    @property
    def zero(self) -> int: ...


class CodeModel(Protocol):
    """What a model offers to be generated from; `AudioGenerate` is one. See there for the shapes.

    Leaves of a state are tensors, with the batch as one of their axes. After any whole number of periods their number
    and shapes are the same, and so is what else belongs to the structure of the pytree. A step may overwrite the state
    that it is given.
    """

    @property
    def encoding(self) -> _Encoding: ...

    @property
    def period(self) -> int: ...

    def initial_state(self, batch_size: int) -> Any: ...

    def step(self, codes: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def prefill(self, codes: Tensor, state: Any = None) -> tuple[Tensor, Any]: ...


def prepared(model: CodeModel, device: torch.device | None = None) -> CodeModel:
    """A copy of the model that decodes: on `device` (by default where it is), in evaluation mode, without gradients.

    On a CPU it is float64. Products of another batch size are rounded differently, and in float32 that now and then
    makes a code another one, from which on the clip is another one; in float64 a difference meets a boundary between
    two codes once in some 10^13 draws, and steps take no longer, for it is calls that take the time. On a GPU it is
    float32, and steps are fused ones, which take each row by itself; of parts without them it has the modules, and says
    so, for there a clip may depend on the batch.

    The copy's weights are not to change: what mixers derive from them is computed once. So a CUDA graph need not hold
    it, and could not always, for some of it waits for the device.
    """
    module = cast(nn.Module, model)
    device = device or _device(model)
    module = copy.deepcopy(module).to(device).eval().requires_grad_(False)
    module = module.double() if device.type == "cpu" else module.float()
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Derived):
                setattr(part, name, _ComputedOnce())
    return cast(CodeModel, _fused(module) if device.type == "cuda" else module)


def _fused(module: nn.Module) -> nn.Module:
    fused = fused_if_possible(module)
    parts = fused.inexact if isinstance(fused, FusedModel) else [f"{type(module).__name__} has no fused steps"]
    if parts:
        _note(f"with another batch size some clips may come out different: {'; '.join(parts)}")
    return fused


class _ComputedOnce(Derived):
    def get(self, module: nn.Module, compute: Callable[[], Any], *settings: Any) -> Any:
        if self._value is None:
            self._value = compute()
        return self._value


def decode(
    model: CodeModel, settings: SamplingSettings, previous: Tensor, state: Any, uniforms: Tensor
) -> tuple[Tensor, Tensor, Any]:
    """The plain loop: a step, a draw, and again.

    Args:
        previous: (B,) int64, the codes before; of a start, `encoding.zero`.
        state: that before `previous`.
        uniforms: (B, n) float64.

    Returns:
        codes (B, n) int64, their bits (B, n) float64 in the model's own distribution, the state before the last code.
    """
    codes, bits = [], []
    with model.overlapped() if isinstance(model, FusedModel) else nullcontext():
        for uniform in uniforms.unbind(1):
            logits, state = model.step(previous, state)
            previous, their_bits = draw(logits, uniform, settings)
            codes.append(previous)
            bits.append(their_bits)
    return torch.stack(codes, 1), torch.stack(bits, 1), state


class Prefix:
    """What clips begin with: the state that a prompt leaves.

    Whole periods of it are run in one parallel pass (in pieces, if it is long); the rest is for single steps.

    Args:
        model: a prepared one.
        prompt: (P,) uint8; None or empty: clips begin from nothing.
    """

    def __init__(self, model: CodeModel, prompt: np.ndarray | None = None) -> None:
        codes = torch.zeros(0, dtype=torch.int64) if prompt is None else torch.from_numpy(prompt.astype(np.int64))
        self.length = len(codes)
        inputs = torch.cat([torch.tensor([model.encoding.zero]), codes]).to(_device(model))
        whole = self.length // model.period * model.period
        self.rest = inputs[whole:]
        """What `state` has not seen; its last is the code before the first that is drawn."""
        self.state: Any = None
        piece = max(1, PREFILL_PIECE // model.period) * model.period
        with torch.no_grad():
            for part in inputs[:whole].split(piece) if whole else ():
                _, self.state = model.prefill(part[None], self.state)


class Decoder:
    """Decodes a batch of clips, side by side.

    On a CUDA device whole periods run as one CUDA graph, on a CPU everything runs in compiled code where the model is
    made of parts that it knows. What is left is the plain loop.

    Args:
        model: a prepared one.
        batch_size: B.
        settings: how codes are drawn.
        compiled: False: the plain loop alone. True: on a CPU compiled code or an error.

    Attributes:
        period: of the model; what is fast takes over from the plain loop between two periods.
        stride: whole periods; from there on, pieces of a multiple of it are fastest.

    Raises:
        UserError: `compiled` is True and the model or the machine does not allow it.
    """

    def __init__(
        self, model: CodeModel, batch_size: int, settings: SamplingSettings, compiled: bool | None = None
    ) -> None:
        self._model, self._batch_size = model, batch_size
        self.device, self.period = _device(model), model.period
        self.stride = model.stride if isinstance(model, FusedModel) else model.period * max(1, 16 // model.period)
        self._decode = partial(decode, model, settings)
        self.start(Prefix(model))
        self._fast = None if compiled is False else self._fast_loop(settings, bool(compiled))

    @property
    def ahead(self) -> int:
        """How many pieces it should have under way while the results of another are looked at."""
        return 1 if self.device.type == "cuda" else 0

    def start(self, prefix: Prefix) -> None:
        """Begin every row anew, after the same prompt."""
        state = self._model.initial_state(self._batch_size)
        # Some states are float32 in a model of float64, which would round what float64 is there not to round.
        self._state = own_tensors(state, wide=self.device.type == "cpu")
        if prefix.state is not None:
            fill(self._state, prefix.state)
        rest = prefix.rest.expand(self._batch_size, -1)
        with torch.no_grad():
            for code in rest[:, :-1].unbind(1):
                _, self._state = self._model.step(code, self._state)
        self._previous = rest[:, -1]
        self._position = prefix.length
        self._handed_over = False

    def advance(self, uniforms: Tensor, ends: bool = False) -> tuple[Tensor, Tensor]:
        """uniforms (B, n) float64, one for each of the next n codes → codes (B, n) uint8, bits (B, n) float64.

        The results are on the model's device, and may still be under way there. `ends`: nothing follows until `start`,
        so a graph may go on past the last of them.
        """
        if self.device.type == "cuda" and not uniforms.is_cuda:
            uniforms = uniforms.pin_memory()
        uniforms = uniforms.to(self.device, non_blocking=True)
        count = uniforms.shape[1]
        first, stride = count, 1
        if self._fast is not None:
            first = 0 if self._handed_over else min(count, -self._position % self.period)
            stride = self._fast.stride
        last = 0 if ends else (count - first) % stride
        sizes = (first, count - first - last, last)
        loops = (self._plain, self._in_strides, self._plain)
        parts = [loop(part) for loop, part in zip(loops, uniforms.split(sizes, 1), strict=True) if part.shape[1]]
        self._position += count
        codes, bits = (torch.cat(of_parts, 1) for of_parts in zip(*parts, strict=True))
        return codes.to(torch.uint8), bits

    def _plain(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        if self._handed_over:
            assert isinstance(self._fast, PeriodGraph), "what is packed can stop anywhere"
            self._previous, self._state = self._fast.unload()
            self._handed_over = False
        with torch.no_grad():
            codes, bits, self._state = self._decode(self._previous, self._state, uniforms)
        self._previous = codes[:, -1]
        return codes, bits

    def _in_strides(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        assert self._fast is not None
        if not self._handed_over:
            self._fast.load(self._previous, self._state)
            self._handed_over = True
        return self._fast(uniforms)

    def _fast_loop(self, settings: SamplingSettings, demanded: bool) -> PeriodGraph | PackedDecoder | None:
        if self.device.type == "cuda":
            return PeriodGraph(self._decode, self._previous, self._state, self.stride)
        try:
            if self.device.type != "cpu":
                raise NotPacked(f"the model is on {self.device}")
            return PackedDecoder(self._model, self._batch_size, settings)
        except NotPacked as why:
            if demanded:
                raise UserError(f"compiled decoding is not possible: {why}") from why
            _note(f"decoding in Python, which is some hundred times slower than compiled: {why}")
            return None


@lru_cache  # once for each reason
def _note(what: str) -> None:
    log.warning(what)


def _device(model: CodeModel) -> torch.device:
    return next(cast(nn.Module, model).parameters()).device
