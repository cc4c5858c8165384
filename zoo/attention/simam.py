"""Simple, parameter-free Attention Module: a value counts by how far it stands out from its channel.

    d = (x - mean_hw(x))^2       v = sum_hw(d) / (H W - 1)       y = x * sigmoid(d / (4 (v + lambda)) + 1 / 2)

The closed form of an energy that asks how well a linear rule separates one neuron from the others of its channel. It weighs single values,
with nothing to learn, so it can be put into a trained network. The gate is never below sigmoid(1/2) = 0.62.

Yang et al., SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.pixels import degrees_of_freedom
from ..layers.precision import at_least_float32


@ATTENTION.register("simam")
class SimAM(nn.Module):
    """Gate of every value without parameters; use it where a network must not grow, or is already trained.

    Args:
        channels: accepted for the contract; every channel is weighed by itself.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        regularization: the paper's lambda, added to the variance; 1e-4 by default.
        calm: accepted for the contract; there is nothing to start.

    Raises:
        ValueError: a lambda that is not positive.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        regularization: float = 1e-4,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if regularization <= 0:
            raise ValueError(f"simam regularization: expected a small positive number such as 1e-4, got {regularization}")
        self.regularization = regularization
        self.init_weights()

    def init_weights(self) -> None:
        """Nothing to set."""

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: every channel is weighed by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = at_least_float32(x)
        d = (wide - wide.mean((2, 3), keepdim=True)).square()
        v = d.sum((2, 3), keepdim=True) / degrees_of_freedom(x)
        gate = torch.sigmoid(d / (4 * (v + self.regularization)) + 0.5)
        return x * gate.to(x.dtype)
