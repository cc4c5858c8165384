"""The edge variant: ReLU6, no gates, the same weights; it comes back through timm."""

import copy

import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.compress.quantize import obstacles, to_edge


@torch.no_grad()
def test_the_same_weights_and_what_int8_likes(network):
    before = copy.deepcopy(network.state_dict())
    made = to_edge(network)
    assert [name for _, name, _ in zoo.attention_slots(made)] == ["se>none"] * 2  # they hand over while it is trained
    assert all(torch.equal(made.state_dict()[key], each) for key, each in before.items() if ".se." not in key)
    zoo.finish_swap(made)
    found = obstacles(made, torch.randn(1, 3, 32, 32))
    assert (found.smooth, found.gates) == (0, 0) and any(isinstance(part, nn.ReLU6) for part in made.modules())
    assert all(torch.equal(network.state_dict()[key], each) for key, each in before.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ["effnet_cbam_test", "effnet_none_test", "mobilenetv3_small_050"])
def test_it_comes_back(name, tmp_path):
    network = timm.create_model(name, num_classes=10)
    if name == "effnet_cbam_test":
        zoo.swap_attention(network, "eca", keep="fresh")  # one that was changed before
    made = to_edge(network).eval()
    zoo.save_model(made, tmp_path)
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(x), made(x)) and obstacles(back, x[:1]).smooth == 0


def test_what_has_nothing_to_replace():
    with pytest.raises(ValueError, match="effnet_none_lite0 has no gates and no smooth activations.* leave --edge out"):
        to_edge(timm.create_model("effnet_none_lite0", num_classes=3))
    with pytest.raises(ValueError, match="expected a network from timm.create_model, got Linear"):
        to_edge(nn.Linear(2, 2))
