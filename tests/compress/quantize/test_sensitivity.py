"""The search finds the layers that were made hard, keeps as few as it must, and says what came of it."""

import math

import numpy as np
import pytest
import torch

from zoo.compress.quantize import search
from zoo.compress.quantize.sensitivity import agreement, errors, outputs, sqnr

from .conftest import HARD


def test_sqnr_is_the_formula():
    wanted, noise = torch.randn(8, 4), torch.randn(8, 4)
    by_hand = 20 * math.log10(np.linalg.norm(wanted.double()) / np.linalg.norm(noise.double()))
    assert sqnr(wanted, wanted + noise) == pytest.approx(by_hand, rel=1e-5)
    assert sqnr(wanted, wanted) == math.inf and sqnr(wanted, wanted * math.nan) == -math.inf
    assert agreement(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[2.0, 1], [1, 0]])) == 50


@torch.no_grad()
def test_the_layer_that_was_made_hard_is_the_worst(network, hard, rows):
    assert sqnr(outputs(network, rows[1]), outputs(hard, rows[1])) > 80  # the same function
    found = errors(hard, *rows)
    assert found[0].name == HARD[1] and found[0].sqnr < found[1].sqnr - 10
    easy = {layer.name: layer.sqnr for layer in errors(network, *rows)}
    assert len(easy) == len(found) and easy[HARD[1]] > found[0].sqnr + 20
    assert [layer.sqnr for layer in found] == sorted(layer.sqnr for layer in found)


def test_the_search_doubles_and_stops_where_it_passes(network, rows):
    with torch.no_grad():
        wanted = outputs(network, rows[1]).numpy()
    asked = []

    def write(keep):
        asked.append(list(keep))
        noise = 10 ** (-(10 + 4 * len(keep)) / 20)
        return lambda x: (wanted * (1 + noise))[: len(x)] if len(x) < len(wanted) else wanted * (1 + noise)

    held_out = [torch.cat(rows[1])]
    found = search(write, network, rows[0], held_out, least=15)
    assert [len(each) for each in asked] == [0, 1, 2] and found.passed and found.sqnr == pytest.approx(18, abs=0.1)
    assert [layer.name for layer in found if layer.kept] == asked[-1] == [layer.name for layer in found[:2]]
    asked.clear()
    found = search(write, network, rows[0], held_out, least=99)
    assert [len(each) for each in asked] == [0, 1, 2, 4] and not found.passed  # a quarter of the layers, no more
    assert "below the 99 that were asked for" in str(found) and "4 of 18 layers stay in float" in str(found)
    assert str(found).splitlines()[0].split() == ["layer", "SQNR", "of", "it", "alone", "kept", "in"]


def test_the_file_that_stays_is_the_best_one(network, rows):
    with torch.no_grad():
        wanted = outputs(network, rows[1]).numpy()
    asked = []

    def write(keep):
        asked.append(len(keep))
        return lambda x: wanted * {0: 1.5, 1: 1.2, 2: 1.4, 4: 1.6}[len(keep)]

    found = search(write, network, rows[0], [torch.cat(rows[1])], least=99)
    assert asked == [0, 1, 2, 4, 1] and sum(layer.kept for layer in found) == 1


def test_where_nothing_can_be_kept(network, rows):
    asked = []

    def write(keep):
        asked.append(keep)
        return lambda x: np.zeros((len(x), 10), np.float32)

    found = search(write, network, rows[0], rows[1], searches=False, classifier=False)
    assert asked == [[]] and len(found) == 0 and found.agree is None and found.sqnr == pytest.approx(0, abs=1e-6)
    assert str(found).startswith("the outputs' SQNR on 24 held-out rows is 0.0 dB, below")
