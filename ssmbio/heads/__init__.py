"""Heads: from a backbone's channels to what a task asks for."""

from ssmbio.heads.classification import ClassificationHead
from ssmbio.heads.levels import code_embedding, code_logits, level_features
from ssmbio.heads.pooling import AttentionPool, LastPool, MaxPool, MeanPool

__all__ = [
    "AttentionPool",
    "ClassificationHead",
    "LastPool",
    "MaxPool",
    "MeanPool",
    "code_embedding",
    "code_logits",
    "level_features",
]
