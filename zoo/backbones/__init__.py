"""Every attention on every EfficientNet, and any attention in any timm network that has a place for one."""

from . import effnet as effnet
from . import pruned as pruned
from .graft import HandOver as HandOver
from .graft import set_share as set_share
from .slots import attention_slots as attention_slots
from .swap import SwapReport as SwapReport
from .swap import finish_swap as finish_swap
from .swap import swap_attention as swap_attention
from .variants import VARIANTS as VARIANTS
from .variants import Variant as Variant
from .weights import save_model as save_model
