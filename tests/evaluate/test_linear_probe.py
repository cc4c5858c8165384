"""The linear probe against scikit-learn's logistic regression, and what its choice of the strength must do."""

import numpy as np
import pytest
import torch

from zoo.evaluate import linear_probe
from zoo.evaluate.linear_probe import STRENGTHS, LinearProbe, held_out


def rows(count, width=12, classes=4, noise=2.0, seed=0):
    """Classes of unequal size; features of very different scale and far from zero."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(100))
    labels = (torch.rand(count, generator=draw) ** 2 * classes).long()
    x = centres[labels] + noise * torch.randn(count, width, generator=draw)
    return x * torch.logspace(-2, 2, width) + 5, labels


@pytest.mark.parametrize("strength", [1.0, 0.03, 0.001])
def test_against_scikit_learn(strength):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (x, y), (test, truth) = rows(300), rows(200, seed=1)
    scaler = StandardScaler().fit(x.double().numpy())
    theirs = LogisticRegression(C=1 / (strength * len(x)), tol=1e-10, max_iter=10_000)
    theirs.fit(scaler.transform(x.double().numpy()), y.numpy())
    ours = LinearProbe(x, y, 4).fit(strength, tolerance=1e-9)
    assert ours.weight.T.detach().numpy() == pytest.approx(theirs.coef_, abs=1e-5)
    logits = ours(test)
    probabilities = theirs.predict_proba(scaler.transform(test.double().numpy()))
    assert logits.softmax(1).numpy() == pytest.approx(probabilities, abs=1e-5)
    found = linear_probe(x, y, test, truth, strengths=[strength])
    score = theirs.score(scaler.transform(test.double().numpy()), truth.numpy())
    assert found["top1"] == pytest.approx(100 * score) and found["strength"] == strength and found["held_out_top1"] is None
    recalls = [np.mean(probabilities.argmax(1)[truth == label] == label) for label in range(4)]
    assert found["mean_class_recall"] == pytest.approx(100 * np.mean(recalls))
    assert 40 < found["top1"] < 95, "a number that could differ"


def test_a_path_of_strengths_ends_where_a_fresh_start_does():
    x, y = rows(300)
    path = LinearProbe(x, y, 4)
    for strength in (10.0, 0.1, 0.01):
        path.fit(strength, tolerance=1e-8)
    fresh = LinearProbe(x, y, 4).fit(0.01, tolerance=1e-8)
    assert torch.allclose(path.weight, fresh.weight, atol=1e-5) and fresh.weight.abs().max() > 0.1


def test_the_strength_is_chosen_by_what_is_held_out():
    """Few rows and many features, of which a weak penalty learns the noise."""
    (x, y), (test, truth) = rows(300, width=200, noise=8.0), rows(400, width=200, noise=8.0, seed=1)
    found = linear_probe(x, y, test, truth)
    out = held_out(y)
    scores = {each: linear_probe(x[~out], y[~out], x[out], y[out], strengths=[each])["top1"] for each in STRENGTHS}
    assert found["held_out_top1"] == max(scores.values())
    assert found["strength"] == max(each for each, score in scores.items() if score == max(scores.values()))
    assert found["top1"] == linear_probe(x, y, test, truth, strengths=[found["strength"]])["top1"]
    assert len(set(scores.values())) > 1, "the choice matters"


def test_it_is_deterministic_and_leaves_the_random_state_alone():
    (x, y), (test, truth) = rows(100), rows(50, seed=1)
    before = torch.get_rng_state()
    one, other = linear_probe(x, y, test, truth), linear_probe(x, y, test, truth)
    assert one == other and torch.equal(before, torch.get_rng_state())


def test_what_is_held_out():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 2 + [3])
    out = held_out(labels)
    assert [int(out[labels == label].sum()) for label in range(4)] == [10, 2, 1, 0]
    assert torch.equal(out, held_out(labels)) and out[:10].sum() < 10, "spread over the rows"


def test_scale_and_shift_of_a_feature_and_constant_ones_play_no_part():
    (x, y), (test, truth) = rows(200), rows(100, seed=1)
    plain = linear_probe(x, y, test, truth, strengths=[0.1])
    scale, shift = torch.logspace(3, -3, 12), torch.arange(12.0)
    assert linear_probe(x * scale + shift, y, test * scale + shift, truth, strengths=[0.1])["top1"] == plain["top1"]
    with_constant = [torch.cat([each, torch.full((len(each), 1), value)], 1) for each, value in ((x, 0.1), (test, 7.0))]
    assert linear_probe(with_constant[0], y, with_constant[1], truth, strengths=[0.1])["top1"] == plain["top1"]


def test_a_class_that_was_not_trained_is_never_found():
    x, y = rows(100, noise=0.1)
    found = linear_probe(x, y, x[:2], [int(y[0]), 9], strengths=[0.01])
    assert found["top1"] == 50 and found["mean_class_recall"] == 50


def test_features_that_say_nothing_are_worth_nothing():
    """All rows alike: the logits tell the frequent class alone."""
    y = torch.tensor([0, 0, 0, 1, 1])
    assert linear_probe(torch.ones(5, 3), y, torch.ones(4, 3), [0, 0, 1, 1], strengths=[1.0])["top1"] == 50
    assert linear_probe(torch.ones(4, 3), [0, 0, 1, 1], torch.ones(4, 3), [0, 0, 1, 1], strengths=[1.0])["top1"] == 0, "a tie"


def test_bad_input():
    x, y = rows(20)
    broken = x.clone()
    broken[1, 1] = float("nan")
    for arguments, message in [
        ((broken, y, x, y), "train: 1 of 20 rows have features that are not finite"),
        ((x, y, broken, y), "test: 1 of 20"),
        ((x, y[:3], x, y), r"train: expected features \[N, D\] and labels \[N\], got \[20, 12\] and \[3\]"),
        ((x, y, x[:, :5], y), "train has 12 features, test 5"),
        ((x, y - 1, x, y), "train: label -1; expected classes from 0"),
        ((x, y * 0 + 2, x, y), "every row is of class 2"),
        ((x[:2], [0, 1], x, y), "no class has two rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_probe(*arguments)
    for strengths in ([], [0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="strengths: expected numbers above 0"):
            linear_probe(x, y, x, y, strengths=strengths)
