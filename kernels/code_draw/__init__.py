"""A code from the logits of each row, and its likelihood: `reference.py` in torch, `triton.py` in one kernel."""

from ssmbio.kernels.code_draw.op import draw_codes

__all__ = ["draw_codes"]
