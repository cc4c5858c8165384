"""What a trained network is used for: how fast a gate is beside timm's class of the same idea, and an index to search in."""

from .benchmark import Cost as Cost
from .benchmark import Measured as Measured
from .benchmark import Spread as Spread
from .benchmark import about as about
from .benchmark import bench_attention as bench_attention
from .index import Index as Index
from .index import build_index as build_index
from .index import kept_index as kept_index
from .index import model_digest as model_digest
