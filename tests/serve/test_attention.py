"""Where a classifier looks: the part of the picture that it sees, and the maps of its gates."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.report.attention_maps import attention_maps
from zoo.serve.attention import as_seen_by
from zoo.train import Preprocess


def preprocess(**more):
    return Preprocess(**{"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", **more})


def test_the_part_of_a_picture_that_is_seen():
    picture = Image.new("RGB", (300, 100), "blue")
    picture.paste((255, 0, 0), (100, 0, 200, 100))  # the middle third is what a cut to a square leaves
    seen = as_seen_by(preprocess(), picture)
    assert seen.size == (320, 320) and np.allclose(np.asarray(seen)[:, 20:-20], (255, 0, 0), atol=1)
    whole = np.asarray(as_seen_by(preprocess(crop_mode="squash"), picture))
    assert np.allclose(whole[:, :90], (0, 0, 255), atol=1) and np.allclose(whole[:, 120:200], (255, 0, 0), atol=1)


def test_grey():
    seen = as_seen_by(preprocess(input_size=(1, 32, 32), mean=(0.5,), std=(0.2,)), Image.new("RGB", (9, 9), (200, 200, 200)))
    assert seen.mode == "RGB" and np.allclose(np.asarray(seen), 200, atol=1)


def test_a_map_a_stage_that_weighs_places(classifier):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    row = classifier.prepare("image", picture)
    before = classifier.compute([row])[0]
    found = classifier.look(row, picture, 0)
    maps = attention_maps(classifier.task.trainable_module, row["image"][None])
    stages = sorted({each.stage for each in maps.values() if each.multiplier.shape[2:].numel() > 1})
    shown = [each.stage for each in found if each.stage is not None]
    assert stages and set(shown) <= set(stages) and shown == sorted(set(shown))
    assert all(each.picture.size == (320, 320) for each in found)
    assert torch.equal(classifier.compute([row])[0], before)  # looking changes nothing
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(*(np.asarray(each.picture) for each in found[:2]))
