"""Running a model one position after another, and what it generates that way."""

from ssmbio.generation.clips import Clip, generate_clips, stream_codes
from ssmbio.generation.graphs import GraphedStep
from ssmbio.generation.sampling import SamplingSettings

__all__ = ["Clip", "GraphedStep", "SamplingSettings", "generate_clips", "stream_codes"]
