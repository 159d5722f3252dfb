"""How a classifier sees clips: the features before its last layer, and its class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssmbio.audio_quality.measures import Array
from ssmbio.data.audio_augment import ClipAugmentation
from ssmbio.data.audio_clips import AudioCollate, ClipReader, LabelledClips
from ssmbio.data.audio_set import AudioSet
from ssmbio.errors import UserError
from ssmbio.pipelines import AudioClassify


@dataclass(frozen=True)
class View:
    """What a classifier makes of n clips.

    Attributes:
        features: (n, D) the pooled vectors that enter its last linear map.
        log_p: (n, C) logarithms of its class probabilities.
    """

    features: Array
    log_p: Array

    def __len__(self) -> int:
        return len(self.features)

    @staticmethod
    def joined(views: Sequence[View]) -> View:
        """Those of several sets as one."""
        return View(np.concatenate([view.features for view in views]), np.concatenate([view.log_p for view in views]))


@torch.inference_mode()
def view_of(
    classifier: AudioClassify,
    clips: AudioSet,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda done: None,
) -> View:
    """Run a classifier over clips, each as its own evaluation has it: of a longer one than in training the middle.

    The network runs in float32, whatever it was trained in; the softmax is float64, see `measures`.

    Args:
        classifier: on `device`, in evaluation mode.
        clips: at the classifier's sample rate.
        batch_size: clips at a time.
        advance: told how many clips are done after each batch.

    Raises:
        UserError: a file that is damaged; features that are not finite.
    """
    examples = LabelledClips(
        ClipReader(clips), np.zeros(len(clips), np.int64), classifier.facts["audio"]["length"], ClipAugmentation()
    )
    collate = AudioCollate(None, pad_to=1)
    features, log_p = [], []
    for start in range(0, len(clips), batch_size):
        batch = collate([examples[i] for i in range(start, min(start + batch_size, len(clips)))])
        pooled = classifier.features(*(tensor.to(device) for tensor in classifier.inputs(batch)))
        if not bool(pooled.isfinite().all()):
            worst = start + int(pooled.isfinite().all(1).int().argmin())
            raise UserError(
                "the classifier's features of it are not finite",
                where=clips.where(worst),
                mend="train another classifier",
            )
        logits = classifier.head.linear(pooled)
        features.append(pooled.double().cpu().numpy())
        log_p.append(logits.double().log_softmax(1).cpu().numpy())
        advance(len(pooled))
    return View(np.concatenate(features), np.concatenate(log_p))


def accuracy(view: View, clips: AudioSet, labels: Sequence[str]) -> tuple[float | None, list[str]]:
    """The share of clips whose most probable class is their label, and the labels that the classifier does not know.

    Clips without a label, or with an unknown one, are left out; None where that leaves none.

    Args:
        labels: the classifier's.
    """
    given = clips.labels()
    known = [i for i, label in enumerate(given) if label in labels]
    unknown = sorted({str(label) for label in given if label is not None and label not in labels})
    if not known:
        return None, unknown
    hits = [labels[int(view.log_p[i].argmax())] == given[i] for i in known]
    return float(np.mean(hits)), unknown
