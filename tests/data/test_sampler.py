"""The order of training: the same for a seed and epoch, shared by devices, and resumed in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ssmbio.data.augment import Augmentation
from ssmbio.data.batches import Collate, SequenceDataset
from ssmbio.data.datamodule import ClassificationData
from ssmbio.data.records import PackedRecords, RecordSet
from ssmbio.data.sampler import EpochSampler, TrainingLoader
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.errors import UserError

N = 22


def records(lengths: list[int]) -> PackedRecords:
    return PackedRecords(
        names=[f"r{i}".encode() for i in range(len(lengths))],
        sequences=[b"ACGT"[i % 4 : i % 4 + 1] * length for i, length in enumerate(lengths)],
        labels=["ab"[i % 2] for i in range(len(lengths))],
        files=[("x.csv", 0)],
    )


def dataset(n: int = N) -> SequenceDataset:
    return SequenceDataset(records([3] * n), CharacterTokenizer(), np.arange(n) % 2, augment=Augmentation(0.5, seed=7))


def loader(data: SequenceDataset | None = None, seed: int = 1, batch_size: int = 4, **settings) -> TrainingLoader:
    data = data or dataset()
    return TrainingLoader(data, EpochSampler(data, batch_size=batch_size, seed=seed), Collate(4), **settings)


def seen(batches) -> list[tuple[list[int], list[list[int]]]]:
    return [(batch["index"].tolist(), batch["ids"].tolist()) for batch in batches]


def epoch_of(made: TrainingLoader, epoch: int):
    made.sampler.set_epoch(epoch)
    return seen(made)


def test_epochs_are_permutations_that_the_seed_repeats() -> None:
    first, again, other = loader(), loader(), loader(seed=2)
    order = [epoch_of(first, epoch) for epoch in range(3)]
    for batches in order:
        assert sorted(i for index, _ in batches for i in index) == list(range(N))
        assert [len(index) for index, _ in batches] == [4, 4, 4, 4, 4, 2]
    assert order[0] != order[1] != order[2]
    assert epoch_of(again, 2) == order[2]  # no matter what was read before
    assert epoch_of(other, 0) != order[0]
    assert len(first) == 6


def test_workers_change_nothing() -> None:
    alone, helped = loader(), loader(num_workers=2)
    assert epoch_of(helped, 1) == epoch_of(alone, 1)


def test_devices_share_an_epoch() -> None:
    data = dataset()
    samplers = [EpochSampler(data, batch_size=4, seed=1, num_replicas=3, rank=rank) for rank in range(3)]
    parts = [[index for _, index in sampler] for sampler in samplers]
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers] == [8, 8, 8]
    together = [index for step in zip(*parts, strict=True) for index in step]
    order = [index for _, index in EpochSampler(data, batch_size=4, seed=1, num_replicas=1, rank=0)]
    assert together == order + order[:2]


def test_like_lengths_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 1000)
    data = SequenceDataset(records(lengths.tolist()), CharacterTokenizer())
    plain = EpochSampler(data, batch_size=8, seed=1)
    grouped = EpochSampler(data, batch_size=8, seed=1, group_lengths=True)

    def padded(sampler: EpochSampler) -> int:
        in_order = lengths[sampler.order(0)].reshape(-1, 8)
        return int((in_order.max(1, keepdims=True) - in_order).sum())

    assert sorted(grouped.order(0)) == list(range(1000))
    assert padded(grouped) < padded(plain) / 10
    assert not np.array_equal(grouped.order(0), grouped.order(1))
    # Short and long batches come mixed: the first half of the epoch is no shorter than the second.
    in_order = lengths[grouped.order(0)]
    assert abs(in_order[:500].mean() - in_order[500:].mean()) < 40


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 5, 6])
def test_state_counts_batches_that_training_had(workers: int, done: int) -> None:
    whole = [epoch_of(loader(), epoch) for epoch in range(3)]
    stopped = loader(num_workers=workers)
    stopped.sampler.set_epoch(1)
    batches = iter(stopped)
    for _ in range(done):
        next(batches)
    state = stopped.state_dict()  # workers have read ahead by now
    assert (state["epoch"], state["batches"]) == (1, done)

    resumed = loader(num_workers=workers)
    resumed.load_state_dict(state)
    assert len(resumed) == 6
    assert seen(resumed) == whole[1][done:]
    assert resumed.state_dict()["batches"] == 6
    assert epoch_of(resumed, 2) == whole[2]
    assert epoch_of(resumed, 1) == whole[1]


def test_state_of_another_epoch_starts_it_from_its_first_batch() -> None:
    resumed = loader()
    resumed.load_state_dict({**loader().state_dict(), "batches": 6})
    assert epoch_of(resumed, 1) == epoch_of(loader(), 1)


def test_iterator_waits_for_the_epoch() -> None:
    late = loader(num_workers=2)
    batches = iter(late)
    late.sampler.set_epoch(2)
    assert seen(batches) == epoch_of(loader(), 2)


def test_resuming_with_another_order_is_refused_within_an_epoch() -> None:
    state = {**loader().state_dict(), "batches": 3}
    with pytest.raises(UserError, match=r"within an epoch, with batch_size 4; it is 8 now"):
        loader(batch_size=8).load_state_dict(state)
    with pytest.raises(UserError, match=r"with seed 1; it is 2 now"):
        loader(seed=2).load_state_dict(state)
    loader(batch_size=8).load_state_dict({**state, "batches": 0})


def test_a_dataset_names_what_its_numbers_depend_on() -> None:
    def state_of(**settings: int) -> tuple[dict, TrainingLoader]:
        data = dataset()
        data.settings = settings  # type: ignore[attr-defined]
        made = loader(data)
        return {**made.state_dict(), "batches": 3}, made

    state, made = state_of(window=5)
    made.load_state_dict(state)
    message = (
        r"within an epoch, with window 5; it is 6 now; resume with the same window, or start from it with init_from"
    )
    with pytest.raises(UserError, match=message):
        state_of(window=6)[1].load_state_dict(state)
    without, _ = state_of()  # a checkpoint from before there was this setting
    made.load_state_dict(without)


class Fixed:
    """A source of two splits."""

    def splits(self) -> dict[str, RecordSet]:
        return {"train": records([3 + i % 5 for i in range(N)]), "val": records([3, 4, 5, 6])}


class Recorder(pl.LightningModule):
    """Writes down what it is trained on: (epoch, batch, index, ids)."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps: list[tuple] = []
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx: int):
        if self.trainer.global_step == self.fail_at:
            raise RuntimeError("killed")
        self.steps.append((self.current_epoch, batch_idx, batch["index"].tolist(), batch["ids"].tolist()))
        return self.weight * 0

    def validation_step(self, batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """Saves at one of Lightning's hooks, when `step` optimizer steps are done."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def fit(
    callbacks: list[Callback], module: Recorder, workers: int, ckpt: Path | None = None, epochs: int = 3, **settings
) -> Recorder:
    data = ClassificationData(Fixed(), CharacterTokenizer(), batch_size=4, seed=5, num_workers=workers)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return module


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("hook", "step", "resumes_at"),
    [
        ("on_train_batch_end", 8, 8),  # in the middle of the second epoch
        ("on_train_batch_end", 6, 6),  # its last batch, before validation
        ("on_validation_end", 12, 12),
        ("on_train_epoch_end", 6, 6),
        ("on_exception", 8, 8),  # the step that raised is done again
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_the_batch_that_comes_next(
    tmp_path: Path, hook: str, step: int, resumes_at: int, workers: int
) -> None:
    whole = fit([], Recorder(), 0).steps
    assert len(whole) == 18
    path = tmp_path / "saved.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        fit([Save(hook, step, path)], Recorder(fail_at=step if hook == "on_exception" else 14), workers)
    assert fit([], Recorder(), workers, path).steps == whole[resumes_at:]


@pytest.mark.filterwarnings("ignore")
def test_resumes_after_validation_within_an_epoch(tmp_path: Path) -> None:
    whole = fit([], Recorder(), 0).steps
    path = tmp_path / "saved.ckpt"
    save = Save("on_validation_end", 9, path)
    with pytest.raises(RuntimeError, match="killed"):
        fit([save], Recorder(fail_at=11), 0, val_check_interval=3)
    assert fit([], Recorder(), 0, path, val_check_interval=3).steps == whole[9:]


@pytest.mark.filterwarnings("ignore")
def test_resumes_when_steps_are_counted(tmp_path: Path) -> None:
    whole = fit([], Recorder(), 0, epochs=-1, max_steps=15).steps
    for hook, step in (("on_train_batch_end", 8), ("on_train_epoch_end", 6)):
        path = tmp_path / f"{step}.ckpt"
        with pytest.raises(RuntimeError, match="killed"):
            fit([Save(hook, step, path)], Recorder(fail_at=10), 0, epochs=-1, max_steps=15)
        assert fit([], Recorder(), 0, path, epochs=-1, max_steps=15).steps == whole[step:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stops", [(8,), (8, 10), (8, 14), (6, 9)])
def test_goes_on_where_a_limit_of_steps_ended_a_run(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """Epochs have 6 steps. Lightning counts an epoch as done that the limit has ended, and goes on within it."""
    whole = fit([], Recorder(), 0, epochs=-1, max_steps=20).steps
    path, steps = None, []
    for stop in (*stops, 20):
        save = Save("on_train_epoch_end", stop, tmp_path / f"{stop}.ckpt")
        steps += fit([save], Recorder(), 0, path, epochs=-1, max_steps=stop).steps
        path = tmp_path / f"{stop}.ckpt"
    assert steps == whole


@pytest.mark.filterwarnings("ignore")
def test_an_epoch_of_few_batches_is_not_gone_on_with(tmp_path: Path) -> None:
    whole = fit([], Recorder(), 0, limit_train_batches=4).steps
    path = tmp_path / "saved.ckpt"
    fit([Save("on_train_epoch_end", 4, path)], Recorder(), 0, epochs=1, limit_train_batches=4)
    assert fit([], Recorder(), 0, path, limit_train_batches=4).steps == whole[4:]
