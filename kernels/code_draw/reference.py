"""`draw_codes` in torch."""

from __future__ import annotations

import math

from torch import Tensor

MOST_CODES = 256
UNITS = 2.0**44
"""What the likeliest code counts: `MOST_CODES` times as many are 2^52, and float64 holds every integer up to 2^53."""


def draw(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[Tensor, Tensor]:
    """Codes (B,) int64 and bits (B,) float64, from the arguments of `draw_codes`; top_k 1 to V."""
    logits = logits.double()
    if temperature == 0:
        codes = logits.argmax(-1)
    else:
        cumulative = units(logits, temperature, top_k, top_p, min_p).cumsum(-1)
        total = cumulative[:, -1]
        at = (uniforms.double() * total).floor().long().minimum(total - 1)
        codes = (cumulative <= at[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return codes, -logits.log_softmax(-1).gather(-1, codes[:, None])[:, 0] / math.log(2)


def units(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """(B, V) float64 → (B, V) int64, what each code counts in the draw; temperature above 0."""
    scores = logits / temperature
    counts = ((scores - scores.amax(-1, keepdim=True)).exp() * UNITS + 0.5).floor().long()
    if top_k < counts.shape[-1] or top_p < 1:
        rising, order = counts.sort(dim=-1, stable=True)
        rising = rising.masked_fill(rising < rising[:, -top_k, None], 0)
        together = rising.cumsum(-1)
        left_out = together.double() <= (1 - top_p) * together[:, -1:].double()
        left_out[:, -1] = False  # the likeliest always stays
        counts = rising.masked_fill(left_out, 0).gather(-1, order.argsort(-1))
    return counts.masked_fill(counts.double() < min_p * UNITS, 0)
