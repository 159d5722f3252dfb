"""Parameter groups: what weight decay touches, and who trains at a learning rate of its own."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into optimizer groups.

    Vectors (biases, norms, D, Δ biases) get no weight decay: decay would pull time scales and gains toward values that
    mean nothing. Embeddings get none either. A module says more of its own parameters through
    `optimizer_settings() -> {name: {"weight_decay": …, "lr": …}}`.

    Returns:
        Groups for a torch optimizer; the first is that of the optimizer's own settings. Deterministic order.
    """
    settings: dict[str, dict[str, float]] = {}
    for prefix, module in model.named_modules():
        own = module.optimizer_settings() if hasattr(module, "optimizer_settings") else {}
        if isinstance(module, nn.Embedding):
            own = {"weight": {"weight_decay": 0.0}}
        for name, values in own.items():
            settings[f"{prefix}.{name}" if prefix else name] = values

    groups: dict[tuple[tuple[str, float], ...], dict[str, Any]] = {(): {"params": []}}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        values = settings.get(name, {"weight_decay": 0.0} if parameter.ndim <= 1 else {})
        group = groups.setdefault(tuple(sorted(values.items())), {"params": [], **values})
        group["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
