"""Folding batch norms: the same function, none of them left, and no network for which it would be another one."""

import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401
from zoo.deploy.fold import folded


def lived_in(network):
    """With statistics as training leaves them: of a fresh network every norm is nearly none."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3), module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["effnet_se_test", "effnet_cbam_test", "effnet_coord_test", "mobilenetv3_small_050", "effnet_eca_lite0"])
def test_the_same_function_without_norms(name):
    network = lived_in(timm.create_model(name, num_classes=7))
    x = torch.randn(2, 3, 48, 48)
    wanted = network(x)
    found = folded(network, x)
    assert (found(x) - wanted).abs().max() < 1e-3 * wanted.abs().max()
    in_trunk = [path for path, module in found.named_modules() if isinstance(module, nn.BatchNorm2d) and ".se." not in path]
    assert not in_trunk
    assert found.conv_stem.bias is not None and found.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.conv_stem.bias is None and torch.equal(network(x), wanted), "the network itself stays as it is"


def test_a_convolution_with_two_readers_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    with pytest.raises(ValueError, match="cannot be folded: outputs differ by"):
        folded(lived_in(Twice()), torch.randn(2, 3, 4, 4))
