"""Pictures of where a network looks."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo  # noqa: F401  # fills timm's registry
from zoo.datasets import Split
from zoo.report.looks import as_picture, looks, spatial_maps
from zoo.train import Preprocess


def network(attention):
    return timm.create_model(f"effnet_{attention}_test", num_classes=3).eval()


def preprocess(size=64):
    return Preprocess((3, size, size), (0.5,) * 3, (0.5,) * 3, crop_mode="squash", interpolation="bilinear")


SPLIT = Split(2, lambda index: {"image": Image.fromarray(np.full((64, 64, 3), 40 + 100 * index, np.uint8))})


def test_what_the_network_was_given_comes_back_as_a_picture():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    shown = as_picture(preprocess().transform(False)(picture), preprocess())
    assert shown.size == (128, 128) and np.array_equal(np.asarray(shown)[::2, ::2], np.asarray(picture))


def test_gates_with_a_map_are_shown_and_others_are_told_of():
    x = torch.randn(2, 3, 64, 64)
    maps = spatial_maps(network("cbam"), x)
    assert maps and all(title.startswith("cbam, stage") and values.shape[0] == 2 and values.ndim == 3 for title, values in maps)
    assert spatial_maps(network("se"), x) == [] and spatial_maps(network("none"), x) == []
    seen, notes = looks(network("se"), preprocess(), SPLIT, [0, 1], ["a", "b"], explained=None)
    assert seen == [] and "None of its gates tells places" in notes[0]


def test_a_decision_is_the_last_map():
    seen, notes = looks(
        network("cbam"), preprocess(), SPLIT, [1, 0], ["a", "b"], explained=("why", lambda x: np.ones((2, 8, 8), np.float32))
    )
    assert [look.told for look in seen] == ["a", "b"] and not notes
    assert all(look.maps[-1].title == "why" and len(look.maps) > 1 and look.picture.startswith("data:image/") for look in seen)


@pytest.mark.parametrize("error", [ImportError("it needs pip install 'effnet-zoo[explain]'"), ValueError("it makes no map")])
def test_what_is_missing_is_said(error):
    def explain(x):
        raise error

    seen, notes = looks(network("none"), preprocess(), SPLIT, [0], ["a"], explained=("why", explain))
    assert seen == [] and str(error) in notes[1]
