"""Pipelines: one file a task, each a LightningModule that joins embedding, backbone, head, loss and measures."""

from ssmbio.pipelines.base import Pipeline
from ssmbio.pipelines.dna_classify import DnaClassify

__all__ = ["DnaClassify", "Pipeline"]
