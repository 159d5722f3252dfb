"""One position of a stage of S4D and feed-forward residual blocks: `op.py` the function, `triton.py` what runs it."""

from ssmbio.kernels.s4d_stage_step.op import S4DStage, s4d_stage_step

__all__ = ["S4DStage", "s4d_stage_step"]
