"""Counts by hand and scikit-learn's, however the rows are batched."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from zoo.evaluate import ClassificationMeter


def measured(logits, target, batch=7):
    meter = ClassificationMeter()
    for part in zip(logits.split(batch), target.split(batch), strict=True):
        meter.update(*part)
    return meter.compute()


def test_against_scikit_learn():
    torch.manual_seed(0)
    logits, target = torch.randn(100, 8), torch.randint(8, (100,))
    metrics, labels = measured(logits, target), np.arange(8)
    assert metrics["top1"] == pytest.approx(100 * accuracy_score(target, logits.argmax(1)))
    assert metrics["top5"] == pytest.approx(100 * top_k_accuracy_score(target, logits.numpy(), k=5, labels=labels))
    assert metrics["loss"] == pytest.approx(log_loss(target, logits.double().softmax(1), labels=labels), rel=1e-5)
    assert metrics["confusion"].dtype == torch.int64
    assert (metrics["confusion"].numpy() == confusion_matrix(target, logits.argmax(1), labels=labels)).all()


def test_batches_do_not_matter():
    torch.manual_seed(0)
    logits, target = torch.randn(50, 6), torch.randint(6, (50,))
    one, many = measured(logits, target, batch=50), measured(logits, target, batch=3)
    assert torch.equal(one.pop("confusion"), many.pop("confusion"))
    assert one == pytest.approx(many)


def test_rows_are_the_truth():
    metrics = measured(torch.eye(3)[[0, 0, 2]], torch.tensor([0, 1, 1]))
    assert metrics["confusion"].tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_no_top5_where_it_says_nothing():
    assert "top5" not in measured(torch.eye(5), torch.arange(5))
    assert measured(torch.eye(6), torch.arange(6))["top5"] == 100


def test_the_diagonal_is_top1_also_where_classes_tie():
    torch.manual_seed(0)
    logits, target = torch.randint(3, (200, 10)).bfloat16(), torch.randint(10, (200,))
    assert (logits.topk(5).indices[:, 0] != logits.argmax(1)).any(), "the tie that tells the two apart is gone"
    metrics = measured(logits, target)
    assert metrics["top1"] == pytest.approx(100 * metrics["confusion"].trace().item() / 200)


def test_a_classifier_that_says_one_thing_is_right_by_chance():
    metrics = measured(torch.zeros(30, 10), torch.arange(10).repeat(3))
    assert metrics["top1"] == pytest.approx(10)


def test_half_precision_logits_and_empty_batches():
    meter = ClassificationMeter()
    meter.update(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    meter.update(torch.eye(4, dtype=torch.float16, requires_grad=True), torch.arange(4))
    assert meter.compute()["top1"] == 100


def test_bad_input():
    with pytest.raises(ValueError, match="nothing was counted"):
        ClassificationMeter().compute()
    meter = ClassificationMeter()
    for logits, target, message in [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "target 3 does not fit logits for 3 classes"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "target -1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "expected logits"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "expected logits"),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), "4 classes after logits for 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            meter.update(logits, target)
