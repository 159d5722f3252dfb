"""The cases the ops are tried on, and the rule they are held to. Any backend can be put through them.

The rule: against the float64 reference, in outputs and every gradient, the root-mean-square error is at most twice that
of the reference run in the precision of the inputs. Errors are shares of the result's root mean square, averaged over a
few draws of the inputs, for a gradient of six numbers can be exact by luck. Where the reference comes closer than two
roundings of float32 (a quarter of one of a half precision, whose results are rounded once) it counts as that close.

It is not kept everywhere. In half precision the Triton kernels of `selective_scan` have their exponentials from the
GPU, within two units in the last place of float32: 1.2e-7 each in a decay near 1. Exact ones would cost the time that
half precision is there to save. The gradient of A over thousands of positions shows it, for the error of a decay comes
back over the length of the memory, twice: `test_on_gpu.py`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ssmbio.kernels import causal_conv1d, lti_scan, selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = pytest.param(
    "triton",
    marks=pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton exists for Linux only"),
)
# Backends for tests of properties, with the dtype they run in and what equal means there.
BACKENDS = [
    pytest.param("torch", torch.float64, 1e-12, id="torch"),
    pytest.param("triton", torch.float32, 2e-5, id="triton", marks=TRITON.marks),
]

Tensors = dict[str, Tensor]
Errors = dict[str, tuple[list[float], torch.dtype]]


@dataclass(frozen=True)
class ScanCase:
    length: int
    batch: int = 2
    channels: int = 6
    states: int = 5
    groups: int = 1
    initial: bool = True
    reverse: bool = False
    offsets: tuple[int, ...] | None = None  # of packed sequences; the batch is then 1
    bare: bool = False  # no D, no z, no delta_bias, no softplus; B and C (B, L, N)
    slow: bool = False  # Δ = 1e-3, A = -1
    selective: bool = False  # Δ is 12 at one position in three, which forgets all, and 1e-3 elsewhere
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        words = [f"L{self.length}", f"N{self.states}", f"G{self.groups}", str(self.dtype).removeprefix("torch.")]
        words += [word for word in ("initial", "reverse", "bare", "slow", "selective") if getattr(self, word)]
        return "-".join([*words, f"{len(self.offsets) - 1}sequences"] if self.offsets else words)

    def inputs(self, seed: int = 0, device: str = DEVICE) -> Tensors:
        """Leaves with gradients, the cotangents `dy` and `d_final`, and cu_seqlens."""
        random = torch.Generator().manual_seed(seed)
        batch = self.batch if self.offsets is None else 1
        sequences = batch if self.offsets is None else len(self.offsets) - 1
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32

        def normal(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64).to(device, dtype)

        rows, state = (batch, self.length, self.channels), (sequences, self.channels, self.states)
        mixing = (batch, self.length, self.states)
        if not self.bare:
            mixing = (batch, self.length, self.groups, self.states)
        tensors = {
            "u": normal(*rows),
            "delta": normal(*rows) - 1,
            "A": -torch.exp(normal(self.channels, self.states, dtype=wide)),
            "B": normal(*mixing),
            "C": normal(*mixing),
        }
        if self.bare:
            tensors["delta"] = tensors["delta"].abs() / 4
        else:
            tensors["D"], tensors["delta_bias"] = normal(self.channels, dtype=wide), normal(self.channels, dtype=wide)
            tensors["z"] = normal(*rows)
        if self.slow:
            tensors["delta"].fill_(1e-3)
            tensors["A"].fill_(-1)
            if not self.bare:
                tensors["delta_bias"].zero_()
        if self.selective:
            forgets = torch.rand(rows, generator=random).to(device) < 1 / 3
            tensors["delta"].fill_(1e-3 if self.bare else -7).masked_fill_(forgets, 12)  # softplus(-7) is 9e-4
        if self.initial:
            tensors["initial_state"] = normal(*state, dtype=wide)
        tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        tensors["dy"], tensors["d_final"] = normal(*rows), normal(*state, dtype=wide)
        if self.offsets is not None:
            tensors["cu_seqlens"] = torch.tensor(self.offsets, dtype=torch.int32, device=device)
        return tensors

    def outputs(self, tensors: Tensors, backend: str) -> tuple[Tensor, Tensor]:
        """y and the final state."""
        return selective_scan(
            **{name: tensor for name, tensor in tensors.items() if name not in ("dy", "d_final")},
            delta_softplus=not (self.bare or self.slow),
            return_final_state=True,
            reverse=self.reverse,
            backend=backend,
        )


@dataclass(frozen=True)
class ConvolutionCase:
    length: int
    batch: int = 2
    channels: int = 6
    taps: int = 4
    bias: bool = True
    activation: str | None = "silu"
    initial: bool = True
    reverse: bool = False
    offsets: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        words = [f"L{self.length}", f"K{self.taps}", str(self.activation), str(self.dtype).removeprefix("torch.")]
        words += [word for word in ("bias", "initial", "reverse") if getattr(self, word)]
        return "-".join([*words, f"{len(self.offsets) - 1}sequences"] if self.offsets else words)

    def inputs(self, seed: int = 0, device: str = DEVICE) -> Tensors:
        random = torch.Generator().manual_seed(seed)
        batch = self.batch if self.offsets is None else 1
        sequences = batch if self.offsets is None else len(self.offsets) - 1
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32

        def normal(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64).to(device, dtype)

        rows, state = (batch, self.length, self.channels), (sequences, self.taps - 1, self.channels)
        tensors = {"x": normal(*rows), "weight": normal(self.channels, self.taps, dtype=wide)}
        if self.bias:
            tensors["bias"] = normal(self.channels, dtype=wide)
        if self.initial:
            tensors["initial_state"] = normal(*state, dtype=wide)
        tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        tensors["dy"], tensors["d_final"] = normal(*rows), normal(*state, dtype=wide)
        if self.offsets is not None:
            tensors["cu_seqlens"] = torch.tensor(self.offsets, dtype=torch.int32, device=device)
        return tensors

    def outputs(self, tensors: Tensors, backend: str) -> tuple[Tensor, Tensor]:
        return causal_conv1d(
            **{name: tensor for name, tensor in tensors.items() if name not in ("dy", "d_final")},
            activation=self.activation,
            return_final_state=True,
            reverse=self.reverse,
            backend=backend,
        )


@dataclass(frozen=True)
class LtiCase:
    length: int
    batch: int = 2
    channels: int = 6
    pairs: int = 5
    initial: bool = True
    reverse: bool = False
    offsets: tuple[int, ...] | None = None
    bare: bool = False  # no D
    slow: bool = False  # Δ = 1e-3, A = -1 + πin
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        words = [f"L{self.length}", f"N{self.pairs}", str(self.dtype).removeprefix("torch.")]
        words += [word for word in ("initial", "reverse", "bare", "slow") if getattr(self, word)]
        return "-".join([*words, f"{len(self.offsets) - 1}sequences"] if self.offsets else words)

    def inputs(self, seed: int = 0, device: str = DEVICE) -> Tensors:
        """As those of the other cases; parameters and states are complex."""
        random = torch.Generator().manual_seed(seed)
        batch = self.batch if self.offsets is None else 1
        sequences = batch if self.offsets is None else len(self.offsets) - 1
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        states = torch.complex128 if self.dtype == torch.float64 else torch.complex64

        def normal(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            own = torch.complex128 if dtype.is_complex else torch.float64
            return torch.randn(*shape, generator=random, dtype=own).to(device, dtype)

        rows, system = (batch, self.length, self.channels), (self.channels, self.pairs)
        # Memories of some twenty positions, frequencies up to half a turn a position.
        decay, frequency = normal(2, *system, dtype=torch.float64)
        log_a = torch.complex(-torch.exp(decay - 3), frequency)
        if self.slow:
            log_a = 1e-3 * torch.complex(torch.tensor(-1.0), torch.pi * torch.arange(self.pairs)).expand(system)
        tensors = {
            "u": normal(*rows),
            "log_a": log_a.to(device, states, copy=True),
            "b": normal(*system, dtype=states),
            "c": normal(*system, dtype=states),
        }
        if not self.bare:
            tensors["D"] = normal(self.channels, dtype=wide)
        if self.initial:
            tensors["initial_state"] = normal(sequences, *system, dtype=states)
        tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        tensors["dy"], tensors["d_final"] = normal(*rows), normal(sequences, *system, dtype=states)
        if self.offsets is not None:
            tensors["cu_seqlens"] = torch.tensor(self.offsets, dtype=torch.int32, device=device)
        return tensors

    def outputs(self, tensors: Tensors, backend: str) -> tuple[Tensor, Tensor]:
        return lti_scan(
            **{name: tensor for name, tensor in tensors.items() if name not in ("dy", "d_final")},
            return_final_state=True,
            reverse=self.reverse,
            backend=backend,
        )


Case = ScanCase | ConvolutionCase | LtiCase


def run(case: Case, tensors: Tensors, backend: str) -> Tensors:
    """y, the final state, and the gradient of every input, by name."""
    return with_gradients(*case.outputs(tensors, backend), tensors)


def with_gradients(y: Tensor, final_state: Tensor, tensors: Tensors) -> Tensors:
    names = [name for name, tensor in tensors.items() if tensor.requires_grad]
    leaves, cotangents = [tensors[name] for name in names], (tensors["dy"], tensors["d_final"])
    gradients = torch.autograd.grad((y, final_state), leaves, cotangents)
    return {"y": y.detach(), "final_state": final_state.detach(), **dict(zip(names, gradients, strict=True))}


def in_float64(tensors: Tensors) -> Tensors:
    """The same numbers, so that what the inputs lost to rounding is no error of an op."""
    wide = {torch.int32: torch.int32, torch.complex64: torch.complex128, torch.complex128: torch.complex128}
    return {
        name: tensor.detach().to(wide.get(tensor.dtype, torch.float64)).requires_grad_(tensor.requires_grad)
        for name, tensor in tensors.items()
    }


def check_against_reference(
    case: Case, backend: str, reference: str = "reference", draws: int = 4, leave_out: tuple[str, ...] = ()
) -> None:
    """Holds a backend to the rule at the top of this file, but for the results that are to be left out.

    `reference="torch"` is for lengths at which the sequential reference would take hours; the torch path in float64 is
    itself held to it, to 1e-11, by test_selective_scan.py.
    """
    interpreted = backend == "triton" and DEVICE == "cpu"
    found, same_precision = {}, {}
    for seed in range(draws):
        tensors = case.inputs(seed)
        exact = run(case, in_float64(tensors), reference)
        _record(same_precision, run(case, tensors, reference), exact)
        if seed < 3 or not interpreted:  # the interpreter takes seconds a run
            _record(found, run(case, tensors, backend), exact)
    for name, (error, dtype) in found.items():
        if name in leave_out:
            continue
        assert dtype == same_precision[name][1], f"{name}: {dtype} in place of {same_precision[name][1]}"
        closest = torch.finfo(dtype).eps * (0.25 if dtype in (torch.bfloat16, torch.float16) else 2)
        allowed = 2 * max(_mean(same_precision[name][0]), closest)
        assert _mean(error) <= allowed, f"{name}: relative error {_mean(error):.3g}, allowed {allowed:.3g}"


def _record(errors: Errors, found: Tensors, exact: Tensors) -> None:
    """Appends the error of each result, as a share of the exact values' root mean square."""
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert found[name].isfinite().all(), f"{name} is not finite"
        errors.setdefault(name, ([], found[name].dtype))[0].append(relative_error(found[name], value))


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the exact values."""
    return _rms(found - exact) / max(_rms(exact), 1e-30)


def _mean(errors: list[float]) -> float:
    return (sum(error**2 for error in errors) / len(errors)) ** 0.5


def check_equal(found: Tensors, expected: Tensors, tolerance: float) -> None:
    """Every result agrees, relative to the largest value of its kind."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error, scale = (found[name] - value).abs().max().item(), value.abs().max().item()
        assert error <= tolerance * scale, f"{name}: differs by {error:.3g} where values reach {scale:.3g}"


def _rms(tensor: Tensor) -> float:
    return tensor.abs().double().square().mean().sqrt().item()
