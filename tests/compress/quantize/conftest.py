"""A small trained classifier, and rows for calibration; and the same network made hard to quantize."""

import copy

import numpy as np
import pytest
import torch

import zoo
from zoo.compress.quantize import calibration

NAMES = {"names": ("image", "logits"), "about": '{"é": 1}'}
HARD = ("blocks.3.0.conv_pwl", "blocks.4.0.conv_pw")  # one layer after the other, with nothing but a batch norm between


@pytest.fixture(scope="session")
def trained():
    """(task, data) of effnet_se_test on digits."""
    torch.manual_seed(0)
    data = zoo.open_data("digits")
    task = zoo.create_task("effnet_se_test", data)
    zoo.fit(task, data.train.take(np.arange(768)), None, zoo.TrainConfig(epochs=3, lr=4e-3))
    task.eval()
    return task, data


@pytest.fixture(scope="session")
def network(trained):
    return trained[0].trainable_module.eval()


@pytest.fixture(scope="session")
def rows(trained):
    """(batches for the ranges, batches to measure on)."""
    task, data = trained
    transform = task.of_pictures().transform(training=False)
    return calibration(data.train, lambda pictures: torch.stack([transform(each) for each in pictures]), rows=96)


@pytest.fixture(scope="session")
def digits(trained):
    """(pixels, labels) of the evaluation rows."""
    task, data = trained
    transform = task.of_pictures().transform(training=False)
    return torch.stack([transform(row["image"]) for row in data.eval]), np.array([row["label"] for row in data.eval])


@pytest.fixture(scope="session")
def hard(network):
    """The same function, but one channel between two layers is a thousand times as loud as it was."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        norm = made.blocks[3][0].bn3
        norm.weight[0] *= 1000
        norm.bias[0] *= 1000
        made.get_submodule(HARD[1]).weight[:, 0] /= 1000
    return made


@pytest.fixture(scope="session")
def within():
    """within(run, digits, network, points): the accuracy of an open file, which may be so many points below the network's."""

    @torch.no_grad()
    def check(run, digits, network, points):
        pixels, labels = digits
        found = run(pixels.numpy())
        assert found.dtype == np.float32 and found.shape == (len(pixels), 10)
        float_ = (network(pixels).argmax(1).numpy() == labels).mean()
        assert float_ > 0.9 and (found.argmax(1) == labels).mean() >= float_ - points / 100
        assert not np.array_equal(found, network(pixels).numpy())

    return check
