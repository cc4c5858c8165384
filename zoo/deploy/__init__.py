"""What a gate and a loss cost, beside timm's and open_clip's of the same idea."""

from .benchmark import Cost as Cost
from .benchmark import Measured as Measured
from .benchmark import Spread as Spread
from .benchmark import about as about
from .benchmark import bench_attention as bench_attention
from .loss_memory import LossCost as LossCost
from .loss_memory import LossMeasured as LossMeasured
from .loss_memory import bench_loss as bench_loss
