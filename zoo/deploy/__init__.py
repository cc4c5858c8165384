"""What leaves the house: folders that others load, and how fast a gate is beside timm's class of the same idea."""

from .benchmark import Cost as Cost
from .benchmark import Measured as Measured
from .benchmark import Spread as Spread
from .benchmark import about as about
from .benchmark import bench_attention as bench_attention
from .open_clip import Difference as Difference
from .open_clip import compare_open_clip as compare_open_clip
from .open_clip import export_open_clip as export_open_clip
from .open_clip import text_modality as text_modality
from .timm import compare_timm as compare_timm
from .timm import export_timm as export_timm
