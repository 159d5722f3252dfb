"""The optimizer group of what sets a system's time scales: A, B and Δ."""

from __future__ import annotations


def own_group(names: tuple[str, ...], lr: float | None) -> dict[str, dict[str, float]]:
    """`optimizer_settings` of the parameters `names`: no decay, and the learning rate `lr` unless it is None.

    A decayed A or Δ forgets its time scale, and at the learning rate of the weights they jump (S4, arXiv 2111.00396,
    appendix D).
    """
    settings = {"weight_decay": 0.0} if lr is None else {"weight_decay": 0.0, "lr": lr}
    return dict.fromkeys(names, settings)
