"""timm, with the attention you choose. Importing this package fills timm's registry with `effnet_<attention>_<variant>`."""

import registry as _registry

if not hasattr(_registry, "ATTENTION"):  # a folder or package of that common name earlier on the path
    raise ImportError(f"effnet-zoo needs its own package `registry`, but Python finds {_registry.__file__}; rename that one or move it")

from . import attention as attention
from . import datasets as datasets
from . import heads as heads
from . import losses as losses
from . import towers as towers
from .backbones import attention_slots as attention_slots
from .backbones import finish_swap as finish_swap
from .backbones import save_model as save_model
from .backbones import set_share as set_share
from .backbones import swap_attention as swap_attention
from .build import create_joint as create_joint
from .build import create_task as create_task
from .build import load_run as load_run
from .build import open_data as open_data
from .compress import PruneReport as PruneReport
from .compress import prune as prune
from .deploy import load_exported as load_exported
from .joint import JointEmbedding as JointEmbedding
from .report import attention_maps as attention_maps
from .train import TrainConfig as TrainConfig
from .train import evaluate as evaluate
from .train import fit as fit

__version__ = "0.1.0"
