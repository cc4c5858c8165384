"""`none`: the control."""

import torch
from torch import nn

from zoo.attention import NoAttention


def test_gives_back_the_very_tensor():
    x = torch.randn(2, 8, 3, 3)
    assert NoAttention(8)(x) is x


def test_has_nothing():
    gate = NoAttention(8, rd_ratio=0.1, act_layer=nn.SiLU, calm=True, device="meta", dtype=torch.float16)
    assert isinstance(gate, nn.Identity) and not gate.state_dict()
