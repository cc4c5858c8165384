"""How fast a gate is, beside timm's class of the same idea."""

from .benchmark import Cost as Cost
from .benchmark import Measured as Measured
from .benchmark import Spread as Spread
from .benchmark import about as about
from .benchmark import bench_attention as bench_attention
