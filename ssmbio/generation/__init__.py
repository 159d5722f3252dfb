"""Running a model one position after another."""

from ssmbio.generation.graphs import GraphedStep

__all__ = ["GraphedStep"]
