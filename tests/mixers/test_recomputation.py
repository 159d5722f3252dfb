"""What a selective SSM recomputes in its backward pass: the same gradients as if it had kept everything."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssmbio.kernels import causal_conv1d, selective_scan
from ssmbio.kernels.selective_scan import torch_chunked
from ssmbio.mixers import BiMamba, Mamba
from ssmbio.mixers.selective_inner import selective_inner

B, L, D, N, R, K = 2, 21, 6, 5, 2, 4
OFFSETS = torch.tensor([0, 1, 8, 21], dtype=torch.int32)
PLAIN, PACKED, REVERSED, GIVEN_STATES, NO_GATE = (
    {},
    {"packed": True, "states": True, "reverse": True},
    {"reverse": True},
    {"states": True},
    {"gate": False},
)
CASES = pytest.mark.parametrize("case", [PLAIN, PACKED, REVERSED, GIVEN_STATES, NO_GATE], ids=str)


def inputs(
    packed: bool = False,
    states: bool = False,
    gate: bool = True,
    reverse: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor | bool | None]:
    random = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()

    rows, sequences = (1, L, D) if packed else (B, L, D), 3 if packed else B
    return {
        "x": leaf(*rows),
        "z": leaf(*rows) if gate else None,
        "conv_weight": leaf(D, K),
        "conv_bias": leaf(D),
        "x_weight": leaf(R + 2 * N, D),
        "dt_weight": leaf(D, R),
        "dt_bias": leaf(D),
        "A_log": leaf(D, N),
        "D": leaf(D),
        "conv_state": leaf(sequences, K - 1, D) if states else None,
        "ssm_state": leaf(sequences, D, N) if states else None,
        "cu_seqlens": OFFSETS if packed else None,
        "reverse": reverse,
    }


def keeping_everything(
    x, z, conv_weight, conv_bias, x_weight, dt_weight, dt_bias, A_log, D, conv_state, ssm_state, cu_seqlens, reverse
):  # fmt: skip
    """The same layer, op by op, with autograd's own backward pass."""
    where = {"cu_seqlens": cu_seqlens, "reverse": reverse, "return_final_state": True}
    u, conv_state = causal_conv1d(x, conv_weight, conv_bias, initial_state=conv_state, **where)
    low, B, C = F.linear(u, x_weight).split([R, N, N], dim=-1)
    delta, A = F.linear(low, dt_weight), -torch.exp(A_log)
    y, ssm_state = selective_scan(u, delta, A, B, C, D, z, dt_bias, True, initial_state=ssm_state, **where)
    return y, conv_state, ssm_state


def gradients(function, given: dict, used: slice = slice(None)) -> list[Tensor]:
    """Outputs, and gradients of all leaves from the `used` outputs."""
    leaves = [value for value in given.values() if isinstance(value, Tensor) and value.requires_grad]
    outputs = function(**given)
    chosen = outputs[used]
    cotangents = [
        torch.randn(y.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(y.dtype)
        for i, y in enumerate(chosen)
    ]
    return [*outputs, *torch.autograd.grad(chosen, leaves, cotangents, materialize_grads=True)]


@CASES
@pytest.mark.parametrize("used", [slice(None), slice(0, 1), slice(1, 3)], ids=["all", "y", "states"])
def test_gradients_are_those_of_keeping_everything(case: dict[str, bool], used: slice) -> None:
    given = inputs(**case)
    for found, expected in zip(
        gradients(selective_inner, given, used), gradients(keeping_everything, given, used), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@CASES
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_around_it_gives_the_same_bits(case: dict[str, bool], reentrant: bool) -> None:
    given = inputs(**case, dtype=torch.float32)

    def checkpointed(**given):
        return checkpoint(lambda *values: selective_inner(*values), *given.values(), use_reentrant=reentrant)

    if reentrant:  # gradients go to leaves alone
        leaves = [value for value in given.values() if isinstance(value, Tensor) and value.requires_grad]
        found = []
        for function in (selective_inner, checkpointed):
            sum(y.square().sum() for y in function(**given)).backward()
            found.append([leaf.grad for leaf in leaves])
            for leaf in leaves:
                leaf.grad = None
        expected, found = found
    else:
        found, expected = gradients(checkpointed, given), gradients(selective_inner, given)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backward_under_autocast", [False, True])
def test_what_is_made_again_under_autocast_has_the_dtype_it_had(backward_under_autocast: bool) -> None:
    """Products follow x, whatever autocast is around the forward or the backward pass."""
    given = inputs(dtype=torch.float32)
    plain = gradients(selective_inner, given)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = selective_inner(**given)
    leaves = [value for value in given.values() if isinstance(value, Tensor) and value.requires_grad]
    cotangents = [
        torch.randn(y.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(y.dtype)
        for i, y in enumerate(outputs)
    ]
    with torch.autocast("cpu", torch.bfloat16) if backward_under_autocast else nullcontext():
        found = torch.autograd.grad(outputs, leaves, cotangents)
    for one, other in zip([*outputs, *found], plain, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize(("mixer", "expected"), [(Mamba, 3), (BiMamba, 4)])
def test_few_large_tensors_are_kept(mixer, expected: int) -> None:
    """Of (B, L, expand · D): x, z, the input of out_proj; BiMamba its ungated sum as well. Not conv's output, not Δ."""
    model, length = 8, 64
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module = mixer(model, d_state=2)
        y, _ = module(torch.randn(1, length, model))
    large = [tensor for tensor in kept.values() if tensor.shape == (1, length, 2 * model)]
    large += [tensor for tensor in kept.values() if tensor.shape == (length, 2 * model)]
    assert len(large) == expected
    assert y.requires_grad


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_in_one_graph_mixers_give_the_same_bits(mixer, packed: bool, autocast: bool) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    module = mixer(6, d_state=5)
    x = torch.randn(1 if packed else 2, L, 6, requires_grad=True)
    leaves = [x, *module.parameters()]
    found = []
    for run in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, state = run(x, None, OFFSETS if packed else None)
        loss = y.float().square().sum()
        if state is not None:
            loss = loss + sum(part.square().sum() for part in state)
        found.append([y, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mixer", [Mamba, BiMamba])
def test_frozen_parameters_get_no_gradient_and_change_no_other(mixer) -> None:
    torch.manual_seed(0)
    module = mixer(6, d_state=5)
    x = torch.randn(2, L, 6)
    module(x)[0].square().sum().backward()
    expected = {name: parameter.grad for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.grad = None
        parameter.requires_grad_("A_log" not in name and "conv" not in name)
    module(x)[0].square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, expected[name]), name
        else:
            assert parameter.grad is None


@pytest.mark.parametrize(
    ("part", "message"),
    [("conv", r"initial_state must be \(B, K - 1, D\)"), ("ssm", r"initial_state must be \(B, D, N\)")],
)
def test_a_state_of_another_batch_is_refused(part: str, message: str) -> None:
    """By the node itself, below the checks of the layer."""
    ssm = Mamba(6).ssm
    right, other = ssm.initial_state(2), ssm.initial_state(3)
    with pytest.raises(ValueError, match=message):
        ssm(torch.randn(2, L, ssm.d_inner), None, right._replace(**{part: getattr(other, part)}))


def test_without_gradients_the_scan_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan runs inside a node of autograd, where grad mode is off: the decision is taken before it."""
    forward, kept = torch_chunked.forward, []

    def recorded(*arguments):
        *results, checkpoints = forward(*arguments)
        kept.append(checkpoints.numel())
        return *results, checkpoints

    monkeypatch.setattr(torch_chunked, "forward", recorded)
    given = inputs(states=True)
    bare = {name: value.detach() if isinstance(value, Tensor) else value for name, value in given.items()}
    trained, frozen = selective_inner(**given), selective_inner(**bare)
    with torch.no_grad():
        inference = selective_inner(**given)
    assert kept[0] > 0
    assert kept[1:] == [0, 0]
    for one, two, three in zip(trained, frozen, inference, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
