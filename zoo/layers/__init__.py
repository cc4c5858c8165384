"""What several gates are made of, below the shelves: a batch norm that survives a single value, the width of a bottleneck."""

from .batch_norm import BatchNorm as BatchNorm
from .reduction import rd_channels as rd_channels
