"""Weights of linear layers that a mixer multiplies by itself, in a fused pass, without calling the layer."""

from __future__ import annotations

from torch import Tensor, nn


def weight_of(layer: nn.Module, name: str) -> Tensor:
    """The weight of a linear layer that is not called.

    Raises:
        TypeError: calling it would be more than a product with its weight, which would be left out without a word.
    """
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    if hooks or type(layer).forward is not nn.Linear.forward or not isinstance(layer.weight, Tensor):
        raise TypeError(
            f"{name} is used by its weight and never called, so the {'hook on it' if hooks else type(layer).__name__} "
            "would have no effect: merge an adapter into the weight, or use a parametrization of the weight"
        )
    return layer.weight
