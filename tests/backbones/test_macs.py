"""Multiplications, against those counted by hand and by torchinfo."""

import timm
import torch
from torch import nn

import zoo  # noqa: F401
from zoo.backbones.macs import count_macs
from zoo.cli.list import measure


def test_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_macs(network, (3, 4, 4)) == 16 * 8 * 27 + 8 * 16 * 5
    assert next(network.parameters()).device == torch.device("cpu") and network.training


def test_as_zoo_list_counts_them():
    for name in ("effnet_cbam_test", "effnet_eca_lite0"):
        known = measure(name)
        counted = count_macs(timm.create_model(name, device="meta"), tuple(known["input_size"]))
        assert abs(counted / known["macs"] - 1) < 1e-3
