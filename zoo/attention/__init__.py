"""Gates for convolutional feature maps, one a file; the file's name is the registered name. The contract stands in `registry.ATTENTION`."""

from .cbam import CBAM as CBAM
from .eca import ECA as ECA
from .none import NoAttention as NoAttention
from .se import SE as SE
