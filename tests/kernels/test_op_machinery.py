"""The ops beside torch's machinery: compiling, activation checkpointing, autocast, registration."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from op_cases import TRITON, Case, ConvolutionCase, ScanCase, check_equal, run, with_gradients
from torch.utils.checkpoint import checkpoint

from ssmbio.kernels.dispatch import implementation

CASES = (
    ScanCase(20, groups=2),
    ScanCase(20, bare=True, initial=False, reverse=True),
    ScanCase(20, offsets=(0, 3, 20)),
    ConvolutionCase(20),
    ConvolutionCase(20, offsets=(0, 3, 20), reverse=True),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_in_one_graph_gives_the_same_bits(case: Case) -> None:
    """aot_eager traces forward and backward as any compiler would, and needs none."""
    tensors = case.inputs()
    compiled = torch.compile(case.outputs, fullgraph=True, backend="aot_eager")
    check_equal(with_gradients(*compiled(tensors, "auto"), tensors), run(case, tensors, "auto"), 0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(case: Case, reentrant: bool) -> None:
    tensors = case.inputs()
    names = list(tensors)

    def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return case.outputs(dict(zip(names, values, strict=True)), "auto")

    kept = run(case, tensors, "auto")
    y, final_state = checkpoint(outputs, *tensors.values(), use_reentrant=reentrant)
    torch.autograd.backward((y, final_state), (tensors["dy"], tensors["d_final"]))
    gradients = {name: tensor.grad for name, tensor in tensors.items() if tensor.requires_grad}
    check_equal({"y": y.detach(), "final_state": final_state.detach(), **gradients}, kept, 0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_autocast_around_the_op_changes_nothing(case: Case) -> None:
    """Inputs are taken in the dtype they come in, and no product inside turns to bfloat16."""
    tensors = case.inputs()
    plain = run(case, tensors, "auto")
    with torch.autocast(tensors["dy"].device.type, dtype=torch.bfloat16):
        check_equal(run(case, tensors, "auto"), plain, 0)


def test_inputs_of_mixed_dtypes_have_gradients_in_their_own() -> None:
    """As a layer under autocast has them: bfloat16 projections, float32 step sizes and parameters."""
    tensors = ScanCase(20).inputs()
    for name in ("u", "B", "z", "dy"):
        tensors[name] = tensors[name].detach().bfloat16().requires_grad_(name != "dy")
    found = run(ScanCase(20), tensors, "auto")
    assert found["y"].dtype == torch.bfloat16
    assert found["final_state"].dtype == torch.float32
    for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"):
        assert found[name].dtype == tensors[name].dtype, name


@pytest.mark.parametrize("unused", ["y", "final_state"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_output_that_is_not_used_costs_no_gradient(case: Case, unused: str) -> None:
    """None in place of a gradient means zeros."""
    tensors = case.inputs()
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    y, final_state = case.outputs(tensors, "auto")
    used, cotangent = (final_state, tensors["d_final"]) if unused == "y" else (y, tensors["dy"])
    zeroed = tensors | {("dy" if unused == "y" else "d_final"): torch.zeros_like(y if unused == "y" else final_state)}
    found = torch.autograd.grad(used, leaves, cotangent, retain_graph=True)
    expected = torch.autograd.grad((y, final_state), leaves, (zeroed["dy"], zeroed["d_final"]))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def _recorded(op: Callable, call: Callable) -> tuple:
    """The arguments with which `call` reaches the registered op."""
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is op:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    with Recorder():
        call()
    return seen[0]


@pytest.mark.parametrize("backend", ["torch", TRITON])
@pytest.mark.parametrize("states", [5, 40])
def test_without_gradients_the_scan_keeps_nothing(backend: str, states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither under no_grad, nor compiled, nor where no input requires a gradient; and it gives the same bits."""
    case = ScanCase(5, batch=1, channels=4, states=states, initial=False)
    tensors = case.inputs()
    module = implementation("ssmbio.kernels.selective_scan", "torch_chunked", backend, tensors["u"])
    forward, kept = module.forward, []

    def recorded(*arguments):
        *results, checkpoints = forward(*arguments)
        kept.append(checkpoints.numel())
        return *results, checkpoints

    monkeypatch.setattr(module, "forward", recorded)
    bare = {name: tensor.detach() for name, tensor in tensors.items()}
    compiled = torch.compile(case.outputs, fullgraph=True, backend="aot_eager")
    found = [case.outputs(tensors, backend), case.outputs(bare, backend)]
    with torch.no_grad():
        found += [case.outputs(tensors, backend), compiled(tensors, backend)]
    assert kept[0] >= 4 * states
    assert kept[1:] == [0, 0, 0]
    for y, final_state in found:
        assert torch.equal(y, found[0][0])
        assert torch.equal(final_state, found[0][1])


def test_a_scan_that_kept_nothing_refuses_to_give_gradients() -> None:
    case = ScanCase(3)
    op = torch.ops.ssmbio.selective_scan_forward.default
    *arguments, keep = _recorded(op, lambda: case.outputs(case.inputs(), "auto"))
    assert keep
    arguments[0] = arguments[0].detach().requires_grad_()
    with pytest.raises(RuntimeError, match="keep=False"):
        op(*arguments, False)[0].sum().backward()


@pytest.mark.parametrize("name", ["selective_scan", "causal_conv1d"])
@pytest.mark.parametrize("packed", [False, True])
def test_ops_are_registered_as_torch_expects(name: str, packed: bool) -> None:
    """Schema, aliasing, autograd and fake tensors (shapes, dtypes, strides, dynamic sizes), by torch's own checks."""
    offsets = (0, 3, 20) if packed else None
    case = ScanCase(20, offsets=offsets) if name == "selective_scan" else ConvolutionCase(20, offsets=offsets)
    tensors = case.inputs()
    forward = getattr(torch.ops.ssmbio, f"{name}_forward").default
    backward = getattr(torch.ops.ssmbio, f"{name}_backward").default
    arguments = _recorded(forward, lambda: case.outputs(tensors, "auto"))
    torch.library.opcheck(
        forward, tuple(a.detach().requires_grad_(a.is_floating_point()) if torch.is_tensor(a) else a for a in arguments)
    )
    with torch.no_grad():
        arguments = _recorded(forward, lambda: case.outputs(tensors, "auto"))
    torch.library.opcheck(forward, tuple(a.detach() if torch.is_tensor(a) else a for a in arguments))
    arguments = _recorded(backward, lambda: run(case, tensors, "auto"))
    torch.library.opcheck(backward, tuple(a.detach() if torch.is_tensor(a) else a for a in arguments))


@pytest.mark.parametrize("backend", [TRITON])
@pytest.mark.parametrize("channels", [1, 6])
def test_gradients_of_a_convolution_are_no_views_of_one_another(channels: int, backend: str) -> None:
    """They come out of one sum over the programs; torch forbids outputs of an op that share memory."""
    case = ConvolutionCase(9, channels=channels)
    tensors = case.inputs()
    arguments = _recorded(torch.ops.ssmbio.causal_conv1d_backward.default, lambda: run(case, tensors, backend))
    gradients = torch.ops.ssmbio.causal_conv1d_backward(*arguments)
    for gradient in gradients:
        assert gradient.storage_offset() == 0
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == len(gradients)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ops_run_with_the_device_of_their_tensors_as_the_current_one(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton launches on the current device, whatever its tensors lie on."""
    entered: list[object] = []

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        entered.append(tensor.device)
        yield

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    tensors = case.inputs()
    outputs = case.outputs(tensors, "auto")
    assert entered == [outputs[0].device]
    with_gradients(*outputs, tensors)
    assert entered == 2 * [outputs[0].device]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tensors_of_another_gpu_than_the_current_one(case: Case) -> None:
    first, second = (run(case, case.inputs(device=f"cuda:{index}"), "triton") for index in range(2))
    assert torch.cuda.current_device() == 0
    check_equal({name: value.to("cuda:0") for name, value in second.items()}, first, 0)
