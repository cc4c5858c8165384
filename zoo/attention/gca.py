"""Global context, added: y = x + W2 act(LN(W1 c + b1)) + b2, with c the attention-weighted mean of `gc`.

The authors' default fusion; timm's name for it. Not a gate in the strict sense: it moves every pixel of a channel by the same amount.

Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492.
"""

import torch

from registry import ATTENTION

from ..layers.attend import attend
from .gc import GlobalContext

torch.fx.wrap("attend")


@ATTENTION.register("gca")
class GlobalContextAdd(GlobalContext):
    """Adds a global context to every pixel; use it in place of a non-local block, whose long ranges it has for the price of a pooling.

    Args: those of `gc`. At the start the last layer is zero, and the output is the input.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, context = attend(x, self.mask.weight, self.mask.bias, alone=False)
        return x + self.transform(context)
