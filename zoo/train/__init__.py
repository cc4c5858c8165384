"""One loop for every task: what to train is a task object, how is a TrainConfig."""

from .align import Align as Align
from .classify import Classify as Classify
from .config import TrainConfig as TrainConfig
from .find_lr import find_lr as find_lr
from .loop import fit as fit
from .measure import evaluate as evaluate
from .preprocess import Preprocess as Preprocess
from .signals import Stopped as Stopped
from .task import Task as Task
