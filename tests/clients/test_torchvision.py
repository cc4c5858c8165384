"""Faster R-CNN: docs/clients/torchvision.md."""

import pytest
import timm
import torch

pytestmark = pytest.mark.clients
CLIENT = "torchvision"


def test_the_script(page, gates):
    detector, losses = page["detector"], page["losses"]
    assert gates(detector) == gates(detector, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    assert [sorted(each) for each in page["found"]] == [["boxes", "labels", "scores"]] * 2


@torch.no_grad()
def test_it_comes_back(page, same):
    x = torch.stack(page["pictures"])
    same(page["again"].backbone(x), page["detector"].eval().backbone(x))
    same(page["found"], page["detector"](page["pictures"]))


@torch.no_grad()
def test_changed_networks(page, gates, same, folder, network):
    body = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    pyramid = page["Pyramid"](body, 16)
    x = torch.randn(1, 3, 64, 64)
    assert [tuple(each.shape) for each in pyramid(x).values()] == [(1, 16, size, size) for size in (16, 8, 4, 2, 1)]
    assert gates(pyramid) == gates(network)
    same(body(x), network.forward_intermediates(x, indices=(1, 2, 3, 4), intermediates_only=True))


def test_frozen_norms_keep_the_activations(page, gates):
    """What the page says of timm's freeze_batch_norm_2d."""
    network = timm.create_model("effnet_cbam_test", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(x)[-1]
        frozen = timm.utils.model.freeze_batch_norm_2d(network)
        torch.testing.assert_close(frozen(x)[-1], before)
    page["Pyramid"](frozen, 16)(x)["0"].sum().backward()
    assert gates(frozen, that_learn=True) == {"cbam": 5}
