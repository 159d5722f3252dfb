"""The time-invariant scan beside torch's machinery: compiling, activation checkpointing, autocast, registration."""

from __future__ import annotations

import pytest
import torch
from op_cases import LtiCase, check_equal, run, with_gradients
from torch.utils.checkpoint import checkpoint

CASES = (LtiCase(20), LtiCase(20, bare=True, initial=False, reverse=True), LtiCase(20, offsets=(0, 3, 20)))
over_backends = pytest.mark.parametrize(
    ("case", "backend"), [*((case, "auto") for case in CASES), *((case, "fft") for case in CASES[:2])], ids=str
)


@over_backends
def test_compiled_in_one_graph_gives_the_same_bits(case: LtiCase, backend: str) -> None:
    tensors = case.inputs()
    compiled = torch.compile(case.outputs, fullgraph=True, backend="aot_eager")
    check_equal(with_gradients(*compiled(tensors, backend), tensors), run(case, tensors, backend), 0)


@over_backends
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(case: LtiCase, backend: str, reentrant: bool) -> None:
    tensors = case.inputs()
    names = list(tensors)

    def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return case.outputs(dict(zip(names, values, strict=True)), backend)

    kept = run(case, tensors, backend)
    y, final_state = checkpoint(outputs, *tensors.values(), use_reentrant=reentrant)
    torch.autograd.backward((y, final_state), (tensors["dy"], tensors["d_final"]))
    gradients = {name: tensor.grad for name, tensor in tensors.items() if tensor.requires_grad}
    check_equal({"y": y.detach(), "final_state": final_state.detach(), **gradients}, kept, 0)


@over_backends
def test_autocast_around_the_op_changes_nothing(case: LtiCase, backend: str) -> None:
    tensors = case.inputs()
    plain = run(case, tensors, backend)
    with torch.autocast(tensors["dy"].device.type, dtype=torch.bfloat16):
        check_equal(run(case, tensors, backend), plain, 0)


@over_backends
def test_inputs_of_mixed_dtypes_have_gradients_in_their_own(case: LtiCase, backend: str) -> None:
    tensors = case.inputs()
    for name, dtype in {"u": torch.bfloat16, "dy": torch.bfloat16, "b": torch.complex128}.items():
        tensors[name] = tensors[name].detach().to(dtype).requires_grad_(name != "dy")
    found = run(case, tensors, backend)
    assert (found["y"].dtype, found["final_state"].dtype) == (torch.bfloat16, torch.complex64)
    for name, tensor in tensors.items():
        assert not tensor.requires_grad or found[name].dtype == tensor.dtype, name


@pytest.mark.parametrize("unused", ["y", "final_state"])
@over_backends
def test_an_output_that_is_not_used_costs_no_gradient(case: LtiCase, backend: str, unused: str) -> None:
    """None in place of a gradient means zeros."""
    tensors = case.inputs()
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    y, final_state = case.outputs(tensors, backend)
    used, cotangent = (final_state, tensors["d_final"]) if unused == "y" else (y, tensors["dy"])
    zeroed = tensors | {("dy" if unused == "y" else "d_final"): torch.zeros_like(y if unused == "y" else final_state)}
    # c and D reach the outputs alone, so nothing arrives at them without.
    found = torch.autograd.grad(used, leaves, cotangent, retain_graph=True)
    expected = torch.autograd.grad((y, final_state), leaves, (zeroed["dy"], zeroed["d_final"]))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@over_backends
def test_ops_are_registered_as_torch_expects(case: LtiCase, backend: str) -> None:
    """Schema, aliasing, autograd and fake tensors (shapes, dtypes, strides, dynamic sizes), by torch's own checks."""
    tensors = case.inputs()
    names = ("u", "log_a", "b", "c", "D", "initial_state", "cu_seqlens")
    inputs = [tensors.get(name) for name in names] + [case.reverse, backend]
    torch.library.opcheck(torch.ops.ssmbio.lti_scan_forward.default, tuple(inputs))
    plain = [value.detach() if torch.is_tensor(value) else value for value in inputs]
    *_, checkpoints = torch.ops.ssmbio.lti_scan_forward(*plain)
    arguments = (tensors["dy"], tensors["d_final"], checkpoints, *plain)
    torch.library.opcheck(torch.ops.ssmbio.lti_scan_backward.default, arguments)
