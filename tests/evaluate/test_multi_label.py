"""Average precision and F1 over several labels, beside scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss

from zoo.evaluate import MultiLabelMeter
from zoo.evaluate.multi_label import average_precision


def drawn(rows: int, classes: int, seed: int, steps: int | None = None):
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(rows, classes)).astype(np.float32)
    if steps:  # few different scores: many ties
        logits = np.round(logits * steps) / steps
    target = chance.random((rows, classes)) < chance.uniform(0.05, 0.7, classes)
    target[0] = True
    return logits, target


@pytest.mark.parametrize("rows, classes, steps", [(1, 2, None), (40, 5, None), (300, 12, 2), (64, 3, 1)])
def test_the_numbers_are_scikit_learns(rows, classes, steps):
    logits, target = drawn(rows, classes, rows, steps)
    meter = MultiLabelMeter()
    for first in range(0, rows, 7):
        meter.update(torch.from_numpy(logits[first : first + 7]), torch.from_numpy(target[first : first + 7]).float())
    found = meter.compute()
    predicted = logits > 0
    expected = {
        "mAP": 100 * average_precision_score(target, logits, average="macro"),
        "micro_f1": 100 * f1_score(target, predicted, average="micro", zero_division=0),
        "macro_f1": 100 * f1_score(target, predicted, average="macro", zero_division=0),
        "loss": np.mean(
            [log_loss(target[:, c], 1 / (1 + np.exp(-logits[:, c].astype(np.float64))), labels=[False, True]) for c in range(classes)]
        ),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9 if name != "loss" else 1e-6), name
    assert found["AP"].tolist() == pytest.approx([100 * average_precision_score(target[:, c], logits[:, c]) for c in range(classes)])


def test_a_class_without_a_positive_row_is_left_out_of_the_means():
    logits, target = drawn(50, 6, 3)
    target[:, [1, 4]] = False
    meter = MultiLabelMeter()
    meter.update(torch.from_numpy(logits), torch.from_numpy(target))
    found, rest = meter.compute(), [0, 2, 3, 5]
    assert [math.isnan(value) for value in found["AP"]] == [False, True, False, False, True, False]
    assert found["mAP"] == pytest.approx(100 * average_precision_score(target[:, rest], logits[:, rest], average="macro"))
    assert found["macro_f1"] == pytest.approx(100 * f1_score(target, logits > 0, labels=rest, average="macro", zero_division=0))
    assert found["micro_f1"] == pytest.approx(100 * f1_score(target, logits > 0, average="micro"))  # a false alarm is one


def test_ties_are_no_ranking():
    """A constant score knows nothing: its precision is the share of the positives, in whatever order the rows stand."""
    positive = torch.tensor([[True], [False], [False], [True], [False]])
    for rows in (positive, positive.flip(0)):
        assert average_precision(torch.zeros(5, 1), rows).item() == pytest.approx(0.4)


def test_what_does_not_fit_is_refused():
    meter = MultiLabelMeter()
    with pytest.raises(ValueError, match="nothing was counted"):
        meter.compute()
    with pytest.raises(ValueError, match=r"expected logits and targets \[B, C\], got \[2, 3\] and \[2\]"):
        meter.update(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="expected targets of 0 and 1"):
        meter.update(torch.zeros(2, 3), torch.full((2, 3), 0.5))
    meter.update(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="logits for 4 classes after logits for 3"):
        meter.update(torch.zeros(2, 4), torch.zeros(2, 4))
