"""Several checkpoints as one classifier: what it says is the mean of what they say, in prediction and evaluation."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from audio_commands import expect_one_line, inside, run
from hydra import compose, initialize_config_module

from ssmbio.build import build_pipeline
from ssmbio.data.tokenizers import CharacterTokenizer
from ssmbio.training.metrics import mean_logits, probabilities

LABELS = ["off", "on", "other"]
SMALL = ("model.d_model=8", "model.n_layers=1", "model.mixer.d_state=4")


def save(path: str, seed: int, *overrides: str, labels: list[str] = LABELS, max_length: int = 60) -> None:
    """An untrained classifier of its own opinion, which differs clearly from sequence to sequence."""
    with initialize_config_module("ssmbio.conf", version_base="1.3"):
        config = compose("train", ["task=dna_classify", "run_dir=run", *SMALL, *overrides])
    facts = {
        "tokenizer": CharacterTokenizer().spec(),
        "labels": labels,
        "problem": "multiclass",
        "max_length": max_length,
        "class_weights": None if seed else [1.0] * len(labels),
    }
    torch.manual_seed(seed)
    pipeline = build_pipeline(config, facts)
    with torch.no_grad():
        pipeline.head.linear.weight.mul_(5)
    checkpoint = {"state_dict": pipeline.state_dict()}
    pipeline.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path):
    """Three checkpoints and a table."""
    with inside(tmp_path):
        for seed in range(3):
            save(f"{seed}.ckpt", seed, f"model.n_layers={1 + seed}")
        drawn = random.Random(0)
        rows = ["".join(drawn.choices("ACGT", k=30)) + f",{LABELS[i % 3]}" for i in range(12)]
        Path("test.csv").write_text("sequence,label\n" + "\n".join(rows) + "\n")
        yield


def predicted(ckpt: str, *settings: str) -> torch.Tensor:
    """(12, 3) probabilities."""
    code, told = run("predict", f"ckpt={ckpt}", "input=test.csv", "output=said.tsv", *settings)
    assert code == 0, told
    return scores("said.tsv")


def scores(path: str) -> torch.Tensor:
    with open(path) as file:
        return torch.tensor([[float(row[f"p_{x}"]) for x in LABELS] for row in csv.DictReader(file, delimiter="\t")])


@pytest.mark.parametrize("settings", [(), ("both_strands=true",)])
def test_prediction_is_the_mean_of_the_members(settings):
    alone = torch.stack([predicted(f"{seed}.ckpt", *settings) for seed in range(3)])
    together = predicted("[0.ckpt,1.ckpt,2.ckpt]", *settings)
    torch.testing.assert_close(together, alone.mean(0), rtol=0, atol=3e-6)
    assert (alone[0] - alone[1]).abs().max() > 0.01
    torch.testing.assert_close(predicted("[1.ckpt]", *settings), alone[1], rtol=0, atol=0)


def test_evaluation_measures_the_mean_of_the_members():
    expected = torch.stack([predicted(f"{seed}.ckpt") for seed in range(3)]).mean(0)
    data = ("data=table", "data.test=test.csv", "run_dir=tested")
    code, told = run("evaluate", "ckpt=[0.ckpt,1.ckpt,2.ckpt]", *data)
    assert code == 0, told
    torch.testing.assert_close(scores("tested/test_predictions.tsv"), expected, rtol=0, atol=3e-6)
    truth = torch.tensor([i % 3 for i in range(12)])
    found = json.loads(Path("tested/metrics.json").read_text())
    assert found["test/accuracy"] == pytest.approx((expected.argmax(1) == truth).float().mean().item())
    assert found["test/loss"] == pytest.approx(-expected.log()[range(12), truth].mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"labels": ["off", "on", "neither"]}, "labels"), ({"max_length": 50}, "max_length")],
)
def test_members_of_other_data_are_refused(changed, named):
    save("other.ckpt", 3, **changed)
    for name, more in (("predict", ("input=test.csv",)), ("evaluate", ())):
        result = run(name, "ckpt=[0.ckpt,other.ckpt]", *more)
        expect_one_line(result, "other.ckpt", f"its {named} is not that of the first")


@pytest.mark.parametrize(
    "choice",
    [
        ("data=fasta_bed", "data.fasta=g.fa", "data.intervals=x.bed", "data.split_seed"),
        ("data=genome_windows", "data.genomes=g", "seed"),
    ],
    ids=lambda choice: choice[0],
)
def test_members_that_may_have_seen_the_test_set_are_not_tested_on_it(choice):
    """Another seed divides the intervals of a BED in another way, but not the regions of genomes."""
    *given, seed = choice
    for number in (0, 1):
        save(f"{number}.ckpt", number, *given, f"{seed}={number}")
    code, told = run("evaluate", "ckpt=[0.ckpt,1.ckpt]", "run_dir=out")
    assert code == 1
    assert ("one may have seen another's test set; name a test set" in told) == (seed == "data.split_seed")
    assert run("evaluate", "ckpt=[0.ckpt,1.ckpt]", "data=table", "data.test=test.csv", "run_dir=out")[0] == 0


@pytest.mark.parametrize(("name", "more"), [("predict", ("input=test.csv",)), ("evaluate", ())])
def test_a_list_without_checkpoints_is_told(name, more):
    expect_one_line(run(name, "ckpt=[]", *more), "ckpt is not set")


def test_an_output_that_is_a_member_is_refused():
    result = run("predict", "ckpt=[0.ckpt,1.ckpt]", "input=test.csv", "output=1.ckpt")
    expect_one_line(result, "output=1.ckpt is the ckpt itself")


@pytest.mark.parametrize("problem", ["binary", "multilabel"])
def test_logits_of_the_mean_keep_the_digits_of_the_sure(problem):
    several = [torch.tensor([[40.0, -40.0], [0.3, -1.0]]), torch.tensor([[60.0, -60.0], [-2.0, 0.5]])]
    logits = mean_logits(several, problem)
    mean = torch.stack([probabilities(each.double(), problem) for each in several]).mean(0)
    torch.testing.assert_close(probabilities(logits, problem), mean.float())
    # e^-80 + e^-120 over two; of labels each by itself e^-40 + e^-60 over two.
    odds = logits[0, 1] - logits[0, 0] if problem == "binary" else logits[0, 1]
    assert odds.item() == pytest.approx((-80 if problem == "binary" else -40) - 0.6931, abs=1e-3)
