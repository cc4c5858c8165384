"""The means of the last stages' maps side by side, each channel on its own scale, then a linear map.

    x = (mean(A_s-2), mean(A_s-1), mean(A_s));   embedding = W BN(x)

The last layer of a pretrained network has dropped what its classes did not need; colours and shapes are a few stages earlier. So it is
for pictures that are not photographs, or that differ in what no ImageNet class differs in. The stages speak at very different volumes:
without the norm the loudest is all that is heard.

Hariharan et al., "Hypercolumns for Object Segmentation and Fine-grained Localization", arXiv 1411.5752, for a picture as a whole.
"""

from torch import Tensor, nn

from registry import HEADS

from ..layers.batch_norm import BatchNorm


@HEADS.register("stages")
class Stages(nn.Module):
    """The stages' means `[B, in_features]`, which the model takes from the tower -> `[B, embed_dim]`.

    A single row in train mode is laid on the learned scale: it has no variance of its own.
    """

    reads = "stages"

    def __init__(self, in_features: int, embed_dim: int):
        super().__init__()
        self.norm = BatchNorm(in_features, affine=False)
        self.proj = nn.Linear(in_features, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x))
