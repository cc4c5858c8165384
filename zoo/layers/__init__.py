"""What several gates are made of: a batch norm that survives a single value, the width of a bottleneck, the large passes over a map."""

from .batch_norm import BatchNorm as BatchNorm
from .gating import mean_pixels as mean_pixels
from .gating import pool_channels as pool_channels
from .gating import pool_pixels as pool_pixels
from .gating import scale as scale
from .gating import scale_both as scale_both
from .narrow_conv import BLOCK as BLOCK
from .narrow_conv import NarrowConv2d as NarrowConv2d
from .narrow_conv import in_blocks as in_blocks
from .reduction import rd_channels as rd_channels
