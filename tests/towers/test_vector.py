"""Vectors that come from elsewhere: statistics against NumPy, the forms they come in, and what is refused."""

import json

import numpy as np
import pytest
import torch

from zoo.towers import Vector

DATA = np.random.default_rng(0).normal([5, -1000, 0.01], [1, 0.5, 0.001], (50, 3))


def test_statistics_of_training_number_by_number():
    tower = Vector.fit(DATA)
    np.testing.assert_allclose(tower.config["mean"], DATA.mean(0), rtol=1e-6)
    np.testing.assert_allclose(tower.config["std"], DATA.std(0), rtol=1e-6)
    x = tower.prepare(list(DATA))
    assert tower.num_features == 3 and torch.equal(tower(x), x)
    np.testing.assert_allclose(x, (DATA - DATA.mean(0)) / DATA.std(0), atol=2e-3)  # the mean of -1000 has seven digits


def test_a_number_that_never_changes_is_harmless():
    assert Vector.fit([[0.1, 1], [0.1, 2], [0.1, 3]]).prepare([[0.1, 2]]).abs().max() < 1e-6


def test_a_linear_layer_and_plain_numbers():
    tower = Vector.fit(DATA, standardise=False, width=5).eval()
    assert tower.config["mean"] is None and tower.num_features == 5
    x = torch.tensor(DATA, dtype=torch.float32)
    torch.testing.assert_close(tower(tower.prepare(DATA)), x @ tower.linear.weight.T + tower.linear.bias)


def test_dropout_is_of_the_numbers():
    tower = Vector(in_features=1000, dropout=0.25)
    dropped = (tower(torch.ones(1, 1000)) == 0).float().mean()
    assert 0.2 < dropped < 0.3 and torch.equal(tower.eval()(torch.ones(1, 1000)), torch.ones(1, 1000))


def test_the_forms_of_a_vector(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.array([1, 2], dtype=np.float16))
    x = Vector(in_features=2).prepare([[1, 2], (1.0, 2.0), np.array([1, 2]), str(path), "[1, 2.0]"])
    assert x.dtype == torch.float32 and x.tolist() == [[1, 2]] * 5
    assert Vector.fit([str(path)]).config["in_features"] == 2


@pytest.mark.parametrize(
    "value, told",
    [
        ([1, 2, 3], "vector 1: 3 numbers, expected 2"),
        ("[1]", r"\[1\]: 1 numbers, expected 2"),
        ("gone.npy", "gone.npy: .*No such file"),
        ("[1, 2", "vector 1: .*; expected a list of numbers"),
        (["a", "b"], "vector 1: could not convert"),
        ([[1, 2]], r"vector 1: an array of shape \[1, 2\]"),
        ([], r"vector 1: an array of shape \[0\]"),
        ([1, float("nan")], "vector 1: number 1 of 2 is not finite"),
        (7, "7: .*; expected a list of numbers"),
    ],
)
def test_what_it_refuses(value, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=told):
        Vector(in_features=2).prepare([[1, 2], value])
    with pytest.raises(ValueError, match=told):
        Vector.fit([[1, 2], value])


def test_files_that_are_no_vectors(tmp_path):
    for name, content in (("empty.npy", b""), ("text.npy", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            Vector(in_features=2).prepare([str(tmp_path / name)])
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled.npy.*allow_pickle=False"):
        Vector(in_features=2).prepare([str(tmp_path / "pickled.npy")])


def test_nothing_to_fit_and_statistics_of_another_width():
    with pytest.raises(ValueError, match="no vectors"):
        Vector.fit([])
    with pytest.raises(ValueError, match="mean: expected 2 numbers"):
        Vector(in_features=2, mean=[0.0], std=[1.0])
    with pytest.raises(ValueError, match="expected 2 numbers, or neither"):
        Vector(in_features=2, std=[1.0, 1.0])
    assert len(json.dumps(Vector.fit(np.random.default_rng(0).random((3, 512))).config)) < 15_000
