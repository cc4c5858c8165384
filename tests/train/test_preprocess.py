import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo  # noqa: F401  # fills timm's registry
from zoo.train import Preprocess


@pytest.fixture
def network():
    return timm.create_model("effnet_none_test", num_classes=2)


def picture(width=40, height=30):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("augment", ["none", "shift", "draw", "crop", "rand"])
@pytest.mark.parametrize("training", [True, False])
def test_every_augmentation_gives_the_size(network, augment, training):
    made = Preprocess.of(network, img_size=32, augment=augment).transform(training)(picture())
    assert made.shape == (3, 32, 32) and made.dtype == torch.float32 and made.isfinite().all()


def test_shift_moves_and_keeps_the_edge(network):
    preprocess = Preprocess.of(network, img_size=32, augment="shift")
    flat = Image.new("RGB", (8, 8), (200, 10, 30))
    still = preprocess.transform(False)(flat)
    moved = preprocess.transform(True)(flat)
    assert torch.allclose(still, moved)  # one colour: a shift with the edge repeated shows nothing, one with black would
    torch.manual_seed(0)
    busy = preprocess.transform(True)
    assert len({busy(picture()).sum().item() for _ in range(20)}) > 5


def test_the_numbers_are_the_models(network):
    preprocess = Preprocess.of(network, augment="none")
    assert preprocess.input_size == (3, 160, 160) and preprocess.mean == timm.data.IMAGENET_DEFAULT_MEAN
    grey = preprocess.transform(False)(Image.new("RGB", (300, 300), (128, 128, 128)))
    assert torch.allclose(grey[:, 80, 80], (128 / 255 - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std), atol=1e-6)


def test_one_channel_reads_grey():
    network = timm.create_model("effnet_none_test", num_classes=2, in_chans=1)
    made = Preprocess.of(network, img_size=32, augment="crop").transform(True)(picture())
    assert made.shape == (1, 32, 32)
    with pytest.raises(ValueError, match="1 channel .grey. or 3"):
        Preprocess.of(timm.create_model("effnet_none_test", in_chans=5))


def test_what_is_wrong_is_named(network):
    with pytest.raises(ValueError, match="augment: expected one of none, shift, draw, crop, rand, got 'flip'"):
        Preprocess.of(network, augment="flip")
    with pytest.raises(ValueError, match="img_size"):
        Preprocess.of(network, img_size=0)


def test_a_drawing_stays_on_white_and_is_not_mirrored(network):
    """A dark left half: turned, moved and scaled it is still on the left, and what comes in from outside is white."""
    half = Image.new("RGB", (64, 64), "white")
    half.paste((20, 20, 20), (8, 8, 28, 56))
    preprocess = Preprocess.of(network, img_size=32, augment="draw")
    draw = preprocess.transform(True)
    white = (1 - torch.tensor(preprocess.mean)) / torch.tensor(preprocess.std)
    seen = []
    for seed in range(20):
        torch.manual_seed(seed)
        made = draw(half)
        seen.append(made)
        assert made[:, :, :16].mean() < made[:, :, 16:].mean()
        assert made[:, 0, 0].min() > 0.3 * white.min()
    assert len({float(each.sum()) for each in seen}) == 20
