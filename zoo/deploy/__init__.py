"""What a trained network is used for: an index to search in, folders that others load; and how fast it is, beside timm's and others'."""

from .benchmark import Cost as Cost
from .benchmark import Measured as Measured
from .benchmark import bench_attention as bench_attention
from .index import Index as Index
from .index import build_index as build_index
from .index import kept_index as kept_index
from .index import model_digest as model_digest
from .loss_memory import LossCost as LossCost
from .loss_memory import LossMeasured as LossMeasured
from .loss_memory import bench_loss as bench_loss
from .open_clip import Difference as Difference
from .open_clip import compare_open_clip as compare_open_clip
from .open_clip import export_open_clip as export_open_clip
from .open_clip import text_modality as text_modality
from .rounds import Spread as Spread
from .rounds import about as about
from .timm import compare_timm as compare_timm
from .timm import export_timm as export_timm
from .train_speed import TrainMeasured as TrainMeasured
from .train_speed import bench_train as bench_train
