"""The order of the training data: seeded, the same on every machine, and able to start in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ssmbio.errors import UserError

_POOL = 50  # batches whose examples are sorted by length together


class EpochSampler(DistributedSampler):
    """Yields (epoch, index) in an order that depends on (seed, epoch) alone.

    It is a `DistributedSampler`, so Lightning sets its epoch and leaves it in place on several devices: the order is
    filled up from its start until it divides, and each rank takes every `num_replicas`-th item.

    Args:
        dataset: what is sampled; its `records` have `lengths` if these are grouped. Where its numbers mean something
            else under other settings, it names these in `settings`.
        batch_size: examples a batch and device; only grouping by length needs it.
        seed: of the order.
        group_lengths: put sequences of like length into the same batch: pools of some 50 random batches are sorted by
            length, cut into batches, and the batches of the whole epoch shuffled again.
        num_replicas, rank: devices and which one this is; None asks `torch.distributed`.

    Attributes:
        epoch: set by `set_epoch`.
        skipped: epochs that were counted but never ran; they are left out of the sequence of orders.
        start: items of this rank that the next pass leaves out, once.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        group_lengths: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if num_replicas is None or rank is None:
            together = torch.distributed.is_available() and torch.distributed.is_initialized()
            num_replicas = torch.distributed.get_world_size() if together else 1
            rank = torch.distributed.get_rank() if together else 0
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        self.batch_size, self.group_lengths = batch_size, group_lengths
        self.skipped = self.start = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch - self.skipped
        order = self.order(epoch)[self.rank :: self.num_replicas]
        start, self.start = self.start, 0
        for index in order[start:].tolist():
            yield epoch, index

    def settings(self) -> dict[str, int | bool]:
        """What an epoch depends on beside its number, by the names that messages call it."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            **getattr(self.dataset, "settings", {}),
            "training records": len(self.dataset),  # type: ignore[arg-type]
            "devices": self.num_replicas,
            "group_lengths": self.group_lengths,
        }

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """(total_size,) the order of an epoch, over all devices."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.dataset))  # type: ignore[arg-type]
        if self.group_lengths:
            order = self._grouped(order, rng)
        return np.resize(order, self.total_size)  # repeats from its start where it must be longer

    def _grouped(self, order: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        lengths = self.dataset.records.lengths  # type: ignore[attr-defined]
        batch = self.batch_size * self.num_replicas
        pool = batch * _POOL
        pools = [order[at : at + pool] for at in range(0, len(order), pool)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
        whole = len(order) // batch * batch
        batches = order[:whole].reshape(-1, batch)
        return np.concatenate([rng.permutation(batches).ravel(), order[whole:]])


class TrainingLoader(DataLoader):
    """A DataLoader over an `EpochSampler` that can stop in the middle of an epoch and go on from there.

    Lightning saves `state_dict()` with every checkpoint and loads it before it resumes. The iterator does nothing until
    its first batch is asked for: Lightning makes it before it sets the epoch, and workers would read the wrong one.

    Args:
        dataset, sampler, collate, num_workers, pin_memory: as a DataLoader has them.
        trained: the batches of this epoch that training has finished, as the trainer counts them; None counts those
            handed out. They differ when a step raises.
    """

    sampler: EpochSampler

    def __init__(
        self,
        dataset: Dataset,
        sampler: EpochSampler,
        collate: Callable[[Any], Any],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        trained: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=sampler.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.trained = trained
        self._handed_out = (sampler.epoch, 0)  # batches of an epoch, as `sampler.epoch` counts it
        self._loaded: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch = self.sampler.epoch
        done = self._take_up(epoch)
        self._handed_out = (epoch, done)
        self.sampler.start = done * self.sampler.batch_size
        for batch in super().__iter__():
            self._handed_out = (epoch, self._handed_out[1] + 1)
            yield batch

    def _take_up(self, epoch: int) -> int:
        """The batches to leave out of this pass, by the state that was loaded."""
        state, self._loaded = self._loaded, None
        if state is None:
            return 0
        if epoch <= state["epoch"]:
            self.sampler.skipped = state["skipped"]
            return state["batches"]
        if 0 < state["batches"] < state["of"] and self.trained is not None and self.trained() == state["batches"]:
            # A limit of steps or of time ended the run within an epoch: Lightning has counted it, yet goes on with it.
            self.sampler.skipped = state["skipped"] + epoch - state["epoch"]
            return state["batches"]
        # Where training is counted in steps, Lightning resumes from the end of an epoch by an empty one.
        self.sampler.skipped = state["skipped"] + epoch - (state["epoch"] + 1)
        return 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the batches of it that training has had, and what an order depends on."""
        epoch, done = self._handed_out if self._handed_out[0] == self.sampler.epoch else (self.sampler.epoch, 0)
        if self.trained is not None:
            done = min(done, self.trained())
        state = {"epoch": epoch, "skipped": self.sampler.skipped, "batches": done, "of": len(self)}
        return {**state, "order": self.sampler.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass over the same epoch start where the state was taken.

        Raises:
            UserError: stopped within an epoch whose order this loader would not repeat.
        """
        check_state(state, self.sampler.settings())
        self._loaded = state
        self._handed_out = (state["epoch"], state["batches"])
        self.sampler.set_epoch(state["epoch"])


def check_state(state: Mapping[str, Any], settings: Mapping[str, int | bool]) -> None:
    """Raises UserError for the state of a `TrainingLoader` within an epoch, if the sampler's settings were others."""
    if not 0 < state["batches"] < state["of"]:
        return
    for name, now in settings.items():
        before = state["order"].get(name, now)
        if before != now:
            raise UserError(
                f"the checkpoint was taken within an epoch, with {name} {before}; it is {now} now",
                mend=f"resume with the same {name}, or start from it with init_from=<checkpoint>",
            )
