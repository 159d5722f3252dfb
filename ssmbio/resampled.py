"""A trained model on data of another sample rate: its state spaces take longer or shorter steps, as S4's do in the test
at half the rate of its paper (arXiv 2111.00396, section 4.3)."""

from __future__ import annotations

import math
from typing import Any

from ssmbio.errors import UserError
from ssmbio.mixers.step_size import StepSize
from ssmbio.pipelines import AudioClassify, AudioGenerate, Pipeline


def resample(pipeline: Pipeline, rate: Any) -> None:
    """Bring a pipeline, its members too, to data with `rate` samples of the training data for each of theirs.

    Convolutions of a fixed number of taps, and Mamba, whose steps come from its inputs, stay as they are. Audio is then
    read at the new rate.

    Args:
        rate: a number above 0; 2 is half the sample rate, 1 leaves the model as it was trained.

    Raises:
        UserError: another value; a model none of whose mixers has a step size; audio at a rate that is no whole number.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise UserError(f"rate={rate} is not a number above 0", mend="set rate=2 for data at half the sample rate")
    if rate == 1:
        return
    steps = [module for module in pipeline.modules() if isinstance(module, StepSize)]
    if not steps:
        raise UserError(
            f"rate={rate}: no mixer of this model has a step size that could follow",
            mend="leave rate out; S4, S4D, DSS, S5, GSS and H3 have one",
        )
    for step in steps:
        step.rate *= rate
    if isinstance(pipeline, (AudioClassify, AudioGenerate)):
        sample_rate = pipeline.sample_rate / rate
        if sample_rate < 1 or not sample_rate.is_integer():
            raise UserError(
                f"rate={rate} makes {sample_rate:.6g} Hz of the model's {pipeline.sample_rate:,} Hz",
                mend="choose a rate that gives whole Hz",
            )
        pipeline.sample_rate = int(sample_rate)
        pipeline.facts = {**pipeline.facts, "audio": {**pipeline.facts["audio"], "sample_rate": int(sample_rate)}}
