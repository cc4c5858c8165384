"""Features to joint space: to `[B, embed_dim]`, not normalised. A file a head, named as registered.

A head reads the pooled vector `[B, in_features]`; with `reads = "map"`, what the tower has before it pools; with `reads = "stages"`, the
means of its last stages' maps.
"""

from .attnpool import AttnPool as AttnPool
from .gem import GeM as GeM
from .linear import Linear as Linear
from .map import MAP as MAP
from .mlp import MLP as MLP
from .none import NoHead as NoHead
from .stages import Stages as Stages
