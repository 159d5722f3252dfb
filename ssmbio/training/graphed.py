"""Training steps as CUDA graphs: one launch in place of thousands, where a model is small against its launches."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ssmbio.pipelines import Pipeline


class GraphedTraining(Callback):
    """Captures a pipeline's forward pass and its backward pass at a first batch of training, and replays them.

    It does so on one CUDA device, at the first batch for which `Pipeline.static_forward` holds: images, audio that is
    generated, and rows without padding. Batches of other shapes or with padding, the last of an epoch, validation and
    tests run as ever.
    The numbers are the same, and so are the weights' names; memory is that of the largest step, held throughout.
    """

    def __init__(self) -> None:
        self._captured = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._captured or pl_module.device.type != "cuda" or trainer.world_size > 1:
            return
        if isinstance(pl_module, Pipeline) and pl_module.static_forward(batch):
            self._captured = True
            with trainer.precision_plugin.forward_context():
                graph_forward(pl_module, pl_module.inputs(batch))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.__dict__.pop("forward", None)
        self._captured = False


HARMLESS = (
    # Gradients accumulate on the stream of the capture: torch waits for it.
    "The AccumulateGrad node's stream does not match",
    # The first call of the backward thread: torch makes a context for it.
    "Attempting to run cuBLAS, but there was no current CUDA context",
)


def graph_forward(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Replace `module.forward`, for training on inputs of these shapes, by graphs of it and of its backward pass."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    plain = module.forward
    examples = tuple(x.clone() for x in inputs)
    torch.cuda.make_graphed_callables(module, examples, allow_unused_input=True)
    graphed = module.forward
    shapes = [(x.shape, x.dtype) for x in examples]

    def forward(*given: Tensor) -> Tensor:
        alike = module.training and torch.is_grad_enabled() and [(x.shape, x.dtype) for x in given] == shapes
        return graphed(*given) if alike else plain(*given)

    module.forward = forward
