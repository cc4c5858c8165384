"""Alignment, uniformity, gap: by plain loops and in closed form; and which embeddings the warning speaks of."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.evaluate import geometry, warning


def unit(rows, width=16, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def near(point, rows, noise, seed=0):
    """Rows about one point of the sphere."""
    return F.normalize(point + noise * unit(rows, len(point), seed), dim=-1)


POINT = unit(1, seed=7)[0]


def naive(x, ids):
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if ids[i] != ids[j]]
    cosines = {pair: float(np.dot(x[pair[0]], x[pair[1]])) for pair in pairs}
    distances = [sum((p - q) ** 2 for p, q in zip(x[i], x[j], strict=True)) for i, j in pairs]
    return {
        "uniformity": math.log(np.mean([math.exp(-2 * distance) for distance in distances])),
        "cosine": np.mean(list(cosines.values())),
        "twins": 100 * len({i for (i, _), cosine in cosines.items() if cosine > 0.999}) / len(x),
    }


@pytest.mark.parametrize("chunk", [1, 7, 512])
@pytest.mark.parametrize("shared", [False, True])
def test_against_loops(chunk, shared):
    a, b = unit(30), F.normalize(unit(30) + 0.5 * unit(30, seed=1) + 0.3, dim=-1)
    a[4] = a[9]
    ids = [row // 3 for row in range(30)] if shared else list(range(30))
    found = geometry(a, b, ids if shared else None, names=("image", "text"), chunk=chunk)
    for name, x in (("image", a), ("text", b)):
        assert found[name] == pytest.approx(naive(x.tolist(), ids))
    assert found["image"]["twins"] == pytest.approx(100 * 2 / 30)
    assert found["alignment"] == pytest.approx(np.mean([((p - q) ** 2).sum() for p, q in zip(a.numpy(), b.numpy(), strict=True)]))
    assert found["gap"] == pytest.approx(np.linalg.norm(a.numpy().mean(0) - b.numpy().mean(0)))


def test_uniformity_is_that_of_the_paper():
    """Wang and Isola give it as `pdist(x).pow(2).mul(-2).exp().mean().log()`."""
    x = unit(50)
    assert geometry(x, x)["a"]["uniformity"] == pytest.approx(math.log(torch.pdist(x).pow(2).mul(-2).exp().mean().item()))


def test_closed_forms():
    spread = geometry(unit(3000, 256), unit(3000, 256, seed=1))
    assert spread["a"]["uniformity"] == pytest.approx(-4 + 8 / 256, abs=2e-3) and spread["alignment"] == pytest.approx(2, abs=0.01)
    poles = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(500, 1)
    assert geometry(poles, -poles)["alignment"] == 4
    assert geometry(poles, poles)["a"]["uniformity"] == pytest.approx(-math.log(2), abs=0.01)
    apart = geometry(POINT.expand(5, -1), -POINT.expand(5, -1))
    assert apart["gap"] == pytest.approx(2) and apart["a"]["uniformity"] == pytest.approx(0) and apart["a"]["cosine"] == pytest.approx(1)


def test_some_of_the_rows_stand_for_all():
    a = near(POINT, 3000, 2.0)
    every, some = geometry(a, a, most=3000)["a"], geometry(a, a, most=500)["a"]
    assert some["uniformity"] == pytest.approx(every["uniformity"], abs=0.05) and some["uniformity"] != every["uniformity"]
    assert some["cosine"] == every["cosine"], "the sums are of all rows"


def test_half_precision_and_gradients_are_no_matter():
    x = unit(20).float().requires_grad_()
    found = geometry(x, x.half())
    assert isinstance(found["gap"], float) and found["alignment"] < 1e-5


HEALTHY = {
    "spread over many dimensions": unit(200, 64),
    "spread over few": unit(200, 8),
    "a narrow cone, as trained towers have it": near(unit(1, 64)[0], 200, 1.0),
    "ten groups": unit(10, 16)[torch.arange(200) % 10] + 0.1 * unit(200, 16, seed=3),
    "two groups far apart": torch.stack([POINT, -POINT])[torch.arange(200) % 2] + 0.3 * unit(200, 16, seed=3),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_warning_for_healthy_embeddings(name):
    x = F.normalize(HEALTHY[name], dim=-1)
    assert warning(geometry(x, near(x[0] * 0, len(x), 1.0, seed=5))) is None


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_a_collapse_of_both_is_named(noise):
    told = warning(geometry(near(POINT, 100, noise), near(-POINT, 100, noise, seed=1), names=("image", "text")))
    assert "have collapsed" in told and "image: mean cosine" in told and "text: mean cosine" in told and "learning rate" in told


def test_a_collapse_of_one_is_named():
    told = warning(geometry(unit(100), near(POINT, 100, 0.1), names=("image", "text")))
    assert "embeddings of text have collapsed" in told and "image: mean" not in told and "what the text tower is given" in told
    told = warning(geometry(near(POINT, 100, 0.1), unit(100), names=("image", "text")))
    assert "embeddings of image have collapsed" in told


def test_half_of_the_rows_at_one_point():
    """Neither the mean cosine (0.25) nor uniformity (-1.3) is that of a collapse: what tells is that rows lie on each other."""
    x = torch.cat([POINT.expand(100, -1), unit(100)])
    found = geometry(unit(200, seed=2), x, names=("image", "text"))
    assert 0.2 < found["text"]["cosine"] < 0.3 and -1.5 < found["text"]["uniformity"] < -1.1
    assert "50 % of text" in warning(found) and "need one id" in warning(found)
    whole = torch.cat([torch.zeros(100), torch.arange(1, 101)])
    assert warning(geometry(unit(200, seed=2), x, whole)) is None, "rows of one thing may be at one point"


def test_classes_at_their_points_are_no_collapse():
    """A tower that has learnt two classes by heart, and nine rows of ten are of one of them."""
    x = torch.stack([POINT, -POINT])[(torch.arange(200) % 10 == 0).long()]
    assert "collapsed" in warning(geometry(x, x))
    assert warning(geometry(x, x, (torch.arange(200) % 10 == 0).long())) is None


def test_one_thing_alone_cannot_be_compared():
    for ids in (None, [3]):
        found = geometry(unit(1), unit(1, seed=1), ids)
        assert found["a"] == found["b"] == {} and found["gap"] > 0 and warning(found) is None
    assert warning(geometry(unit(4), unit(4), [1, 1, 1, 1])) is None


def test_bad_input():
    good = unit(4)
    broken = good.clone()
    broken[0, 0] = float("nan")
    for arguments, message in [
        ((good, unit(3)), r"expected \[N, D\] embeddings twice, got \[4, 16\] and \[3, 16\]"),
        ((good[:0], good[:0]), "twice"),
        ((good, good, [1, 2]), "ids: expected 4 integers"),
        ((good, broken), "b: 1 of 4 embeddings are not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            geometry(*arguments)
