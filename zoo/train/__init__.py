"""One loop for every task: what to train is a task object, how is a TrainConfig."""

from .align import Align as Align
from .classify import Classify as Classify
from .config import TrainConfig as TrainConfig
from .loop import Stopped as Stopped
from .loop import evaluate as evaluate
from .loop import fit as fit
from .preprocess import Preprocess as Preprocess
from .task import Task as Task
