"""Measures against scikit-learn; what is undefined is nan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from ssmbio.training.metrics import Predictions, classification_loss, classification_metrics


def test_binary_measures_equal_scikit_learn():
    torch.manual_seed(0)
    labels = torch.randint(2, (200,))
    logits = torch.randn(200, 2) + 0.7 * torch.nn.functional.one_hot(labels, 2)
    scores, predicted = logits.softmax(1)[:, 1].numpy(), logits.argmax(1).numpy()
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "auroc": sk.roc_auc_score(labels, scores),
        "auprc": sk.average_precision_score(labels, scores),
        "f1": sk.f1_score(labels, predicted),
    }
    assert classification_metrics(logits, labels, "binary") == pytest.approx(expected, abs=1e-6)


def test_multiclass_measures_equal_scikit_learn():
    torch.manual_seed(1)
    labels = torch.randint(4, (300,))
    logits = torch.randn(300, 4) + torch.nn.functional.one_hot(labels, 4)
    scores, predicted, truth = logits.softmax(1).numpy(), logits.argmax(1).numpy(), labels.numpy()
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "auroc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
        "auprc": sk.average_precision_score(np.eye(4)[truth], scores, average="macro"),
        "f1": sk.f1_score(truth, predicted, average="macro"),
    }
    assert classification_metrics(logits, labels, "multiclass") == pytest.approx(expected, abs=1e-5)


def test_multilabel_measures_equal_scikit_learn():
    torch.manual_seed(2)
    labels = torch.randint(2, (150, 3))
    logits = torch.randn(150, 3) + labels
    truth, scores, predicted = labels.numpy(), logits.sigmoid().numpy(), (logits > 0).int().numpy()
    expected = {
        "accuracy": (truth == predicted).mean(),
        "mcc": np.mean([sk.matthews_corrcoef(truth[:, i], predicted[:, i]) for i in range(3)]),
        "auroc": sk.roc_auc_score(truth, scores, average="macro"),
        "auprc": sk.average_precision_score(truth, scores, average="macro"),
        "f1": sk.f1_score(truth, predicted, average="macro"),
    }
    assert classification_metrics(logits, labels, "multilabel") == pytest.approx(expected, abs=1e-5)


def test_one_label_alone_has_the_measures_of_a_binary_problem():
    torch.manual_seed(3)
    labels = torch.randint(2, (100, 1))
    logits = torch.randn(100, 1) + labels
    measures = classification_metrics(logits, labels.float(), "multilabel")
    # The same probabilities, said with two logits.
    two = classification_metrics(torch.cat([torch.zeros(100, 1), logits], 1), labels[:, 0], "binary")
    assert measures == pytest.approx(two, abs=1e-5)
    never = classification_metrics(logits, torch.zeros(100, 1), "multilabel")
    assert [name for name, value in never.items() if math.isnan(value)] == ["mcc", "auroc", "auprc"]


def test_undefined_measures_are_nan():
    one_class = classification_metrics(torch.randn(5, 2), torch.ones(5, dtype=torch.long), "binary")
    assert all(math.isnan(one_class[name]) for name in ("mcc", "auroc", "auprc"))
    assert not math.isnan(one_class["accuracy"])
    column = torch.tensor([[1, 0], [1, 1], [1, 0]])
    assert math.isnan(classification_metrics(torch.randn(3, 2), column, "multilabel")["auroc"])


def test_loss_by_hand():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    per_record = torch.log(torch.exp(logits).sum(1)) - logits[:, 0]
    torch.testing.assert_close(classification_loss(logits, labels, "binary"), per_record.mean())
    mixed = torch.tensor([0, 1])
    per_record = torch.log(torch.exp(logits).sum(1)) - logits[torch.arange(2), mixed]
    weighted = (3 * per_record[0] + per_record[1]) / 4
    torch.testing.assert_close(classification_loss(logits, mixed, "binary", torch.tensor([3.0, 1.0])), weighted)
    multi = classification_loss(torch.zeros(2, 3), torch.ones(2, 3), "multilabel")
    torch.testing.assert_close(multi, torch.tensor(math.log(2.0)))


def test_predictions_come_back_once_each_in_order():
    collected = Predictions()
    collected.update(torch.tensor([3, 1]), torch.tensor([[3.0, 0], [1, 0]]), torch.tensor([1, 0]))
    collected.update(torch.tensor([0, 3]), torch.tensor([[0.0, 0], [3, 0]]), torch.tensor([0, 1]))
    index, logits, labels = collected.gathered()
    assert index.tolist() == [0, 1, 3]
    assert logits[:, 0].tolist() == [0, 1, 3]
    assert labels.tolist() == [0, 0, 1]


def test_a_single_record_keeps_its_shape():
    collected = Predictions()
    collected.update(torch.tensor([0]), torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    assert [value.shape for value in collected.gathered()] == [(1,), (1, 2), (1,)]
    collected.update(torch.tensor([0]), torch.tensor([[1.0]]), torch.tensor([[1.0]]))
    assert [value.shape for value in collected.gathered()] == [(1,), (1, 1), (1, 1)]
