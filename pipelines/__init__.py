"""Pipelines: one file a task, each a LightningModule that joins embedding, backbone, head, loss and measures."""

from ssmbio.pipelines.audio_classify import AudioClassify
from ssmbio.pipelines.audio_generate import AudioGenerate
from ssmbio.pipelines.base import Pipeline
from ssmbio.pipelines.classify import Classify
from ssmbio.pipelines.dna_classify import DnaClassify
from ssmbio.pipelines.pixel_classify import PixelClassify
from ssmbio.pipelines.sequence_classify import SequenceClassify

__all__ = ["AudioClassify", "AudioGenerate", "Classify", "DnaClassify", "Pipeline", "PixelClassify", "SequenceClassify"]
