"""Whether int8 suits a network is read from what it runs."""

import pytest
import timm
import torch

from zoo.compress.quantize import obstacles


@pytest.mark.parametrize(
    "name, args, many, gates",
    [
        ("effnet_se_test", {}, True, 2),
        ("effnet_cbam_test", {}, True, 5),
        ("effnet_none_test", {}, True, 0),
        ("effnet_se_test", {"act_layer": "relu6"}, False, 2),
        ("effnet_none_lite0", {}, False, 0),
        ("mobilenetv3_small_050", {}, True, 9),
    ],
)
def test_smooth_activations_are_counted(name, args, many, gates):
    found = obstacles(timm.create_model(name, num_classes=10, **args), torch.randn(1, 3, 32, 32))
    assert (found.many, found.gates) == (many, gates) and found.layers >= 14
