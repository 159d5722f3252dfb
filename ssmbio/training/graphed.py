"""Training steps as CUDA graphs: one launch in place of thousands, where a model is small against its launches."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ssmbio.pipelines import Pipeline

log = logging.getLogger(__name__)

_HARMLESS = (
    # Gradients accumulate on the stream of the capture: torch waits for it.
    "The AccumulateGrad node's stream does not match",
    # The first call of the backward thread: torch makes a context for it.
    "Attempting to run cuBLAS, but there was no current CUDA context",
)


class GraphedTraining(Callback):
    """Captures a pipeline's forward pass and its backward pass, and replays them.

    It does so on one CUDA device, at the second batch of the same shapes for which `Pipeline.static_forward` holds:
    images, audio that is generated, and rows without padding. Batches of other shapes or with padding, validation and
    tests run as ever. The numbers are the same, and so are the weights' names; memory is that of the step, held
    throughout.
    """

    def __init__(self) -> None:
        self._seen: set[Any] = set()
        self._captured = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._captured or pl_module.device.type != "cuda" or trainer.world_size > 1:
            return
        if not isinstance(pl_module, Pipeline) or not pl_module.static_forward(batch):
            return
        inputs = pl_module.inputs(batch)
        if _shapes(inputs) in self._seen:
            self._captured = True
            graph_forward(pl_module, inputs, trainer.precision_plugin.forward_context)
        self._seen.add(_shapes(inputs))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._captured and trainer.current_epoch == 0 and trainer.is_global_zero:
            log.warning(
                "callbacks.graphs: no steps are replayed as a CUDA graph; it takes one GPU, and batches of one shape "
                "without padding."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.__dict__.pop("forward", None)
        self._seen.clear()
        self._captured = False


def graph_forward(
    module: torch.nn.Module, inputs: tuple[Tensor, ...], autocast: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Replace `module.forward`, for training on inputs of these shapes, by graphs of it and of its backward pass.

    No loss of an earlier step may still be held: its gradients wait for another stream, which fails under capture.

    Args:
        autocast: makes the context that the forward pass runs in, without a cache of cast weights. The backward pass
            runs outside it, as in plain training, so what the model keeps in float32 has float32 gradients.
    """
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    plain = module.forward

    def in_autocast(*given: Tensor) -> Tensor:
        with autocast():
            return plain(*given)

    examples = tuple(x.clone() for x in inputs)
    module.forward = in_autocast
    torch.cuda.make_graphed_callables(module, examples, allow_unused_input=True)
    graphed = module.forward
    shapes = _shapes(examples)

    def forward(*given: Tensor) -> Tensor:
        alike = module.training and torch.is_grad_enabled() and _shapes(given) == shapes
        return graphed(*given) if alike else plain(*given)

    module.forward = forward


def _shapes(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return tuple((x.shape, x.dtype) for x in tensors)
