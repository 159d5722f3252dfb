"""`draw_codes`: temperature, top-k, top-p and min-p, a draw, and the likelihood of what was drawn."""

from __future__ import annotations

from torch import Tensor

from ssmbio.kernels.checks import FLOATS, check_shape
from ssmbio.kernels.code_draw import reference
from ssmbio.kernels.steps import triton_steps


def draw_codes(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One code a row: the inverse of the cumulative distribution at one uniform number.

    The settings act in the order of the arguments, each on what the one before it left, and keep what the warpers of
    Hugging Face's `transformers` keep: top-k every code no less likely than the k-th; top-p the fewest of the most
    likely codes that have at least this probability together; min-p those at least so many times as likely as the
    likeliest.

    The draw is exact in integers: probabilities are counted in units of 2^-44 of the largest. Sums of integers do not
    depend on their order, so neither on the batch nor on the device, and a code of no unit cannot be drawn, whatever is
    rounded. Of equally likely codes at the edge of top-p the last ones stay. Nothing waits for the device, and no shape
    depends on data, so a CUDA graph can hold it. In Triton it is one kernel, a program a row. No gradient.

    Args:
        logits: (B, V), V at most 256, floating.
        uniforms: (B,) float64 in [0, 1).
        temperature: divides the logits; 0 takes the first of the likeliest codes.
        top_k: how many codes; None or 0: all.
        top_p: above 0, at most 1.
        min_p: 0 to 1.
        backend: "auto", "triton" or "torch" ("reference" is "torch").

    Returns:
        codes (B,) int64 in 0 … V - 1, also where logits are NaN; bits (B,) float64, minus log2 of each code's
        probability by the logits alone (temperature 1, all codes), NaN where logits are NaN.

    Raises:
        ValueError, TypeError: an argument of wrong shape or dtype, which the message names.
        RuntimeError: backend="triton" where Triton cannot run.
    """
    if logits.dim() != 2 or not 1 <= logits.shape[1] <= reference.MOST_CODES:
        raise ValueError(f"logits must be (B, V), V at most {reference.MOST_CODES}; got {tuple(logits.shape)}")
    if logits.dtype not in FLOATS:
        raise TypeError(f"logits must be floating; got {logits.dtype}")
    check_shape("uniforms", uniforms, "B,", logits.shape[:1])
    settings = (float(temperature), min(top_k or logits.shape[1], logits.shape[1]), float(top_p), float(min_p))
    if triton_steps(backend, logits, uniforms):
        from ssmbio.kernels.code_draw import triton

        return triton.draw(logits.detach(), uniforms, *settings)
    return reference.draw(logits.detach(), uniforms, *settings)
