"""`ela` against the paper's equations in float64 NumPy loops, the paper's four sizes, and timm's class where the two agree."""

import numpy as np
import pytest
import torch
from timm.layers.coord_attn import EfficientLocalAttn
from torch import nn

from zoo.attention import ELA


def strip_gate(strip: np.ndarray, kernel: np.ndarray, weight, bias, norm_groups: int) -> np.ndarray:
    """sigmoid(GN(F(z))) for one picture's strip z, [C, L]; kernel [C, channels a group, k]."""
    channels, length = strip.shape
    _, width, size = kernel.shape
    conv = np.zeros_like(strip)
    for c in range(channels):
        first = c // width * width
        for i in range(length):
            for j in range(size):
                position = i + j - size // 2
                if 0 <= position < length:
                    conv[c, i] += kernel[c, :, j] @ strip[first : first + width, position]
    groups = conv.reshape(norm_groups, -1)
    normed = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)
    return 1 / (1 + np.exp(-(normed.reshape(channels, length) * weight[:, None] + bias[:, None])))


def reference(gate: ELA, picture: np.ndarray, norm_groups: int) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    gated = np.empty_like(picture)
    for b in range(len(picture)):
        kernels = value["conv_h.weight"][..., 0], value["conv_w.weight"][:, :, 0]
        rows = strip_gate(picture[b].mean(2), kernels[0], value["norm_h.weight"], value["norm_h.bias"], norm_groups)
        columns = strip_gate(picture[b].mean(1), kernels[1], value["norm_w.weight"], value["norm_w.bias"], norm_groups)
        gated[b] = picture[b] * rows[:, :, None] * columns[:, None, :]
    return gated


def stirred(channels: int, **kwargs) -> ELA:
    gate = ELA(channels, **kwargs)
    for norm in (gate.norm_h, gate.norm_w):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return gate


SIZES = {  # the paper's
    "T": {"kernel_size": 5, "norm_groups": 32},
    "B": {},
    "S": {"kernel_size": 5, "group_width": 8},
    "L": {"kernel_size": 7, "group_width": 8},
}


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_equations(size):
    gate = stirred(64, **SIZES[size]).double()
    x = torch.randn(2, 64, 9, 5, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), {"T": 32}.get(size, 16))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size, kernel, width, groups", [("T", 5, 1, 32), ("B", 7, 1, 16), ("S", 5, 8, 16), ("L", 7, 8, 16)])
def test_the_papers_sizes(size, kernel, width, groups):
    gate = ELA(64, **SIZES[size])
    assert gate.conv_h.weight.shape == (64, width, kernel, 1) and gate.conv_w.weight.shape == (64, width, 1, kernel)
    assert gate.norm_h.num_groups == gate.norm_w.num_groups == groups and gate.norm_h.eps == 1e-5
    assert gate.conv_h.bias is None and gate.conv_w.bias is None


@pytest.mark.parametrize("channels, groups", [(8, 8), (16, 16), (24, 12), (40, 10), (144, 16), (176, 16), (1152, 16)])
def test_norm_groups_divide(channels, groups):
    assert ELA(channels).norm_h.num_groups == groups


def test_timms_with_its_activation_removed():
    """With one norm group, timm's differs by its activation alone; with its activation it is another function."""
    ours = stirred(24, norm_groups=1)
    x = torch.randn(2, 24, 7, 5)
    for act, same in ((nn.Identity, True), (nn.SiLU, False)):
        timms = EfficientLocalAttn(24, act_layer=act)
        timms.load_state_dict(ours.state_dict(), strict=True)
        assert torch.allclose(ours(x), timms(x), atol=1e-6) is same


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"kernel_size": 4}, "odd number.* got 4"),
        ({"kernel_size": -1}, "odd number.* got -1"),
        ({"group_width": 5}, "divisor of 24.* got 5"),
        ({"group_width": 0}, "divisor of 24.* got 0"),
        ({"norm_groups": 0}, "positive.* got 0"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        ELA(24, **wrong)


def test_calm_is_one_quarter():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(ELA(24, calm=True)(x), x / 4)
