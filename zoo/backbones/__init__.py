"""Every attention on every EfficientNet, as timm models."""

from . import effnet as effnet
from .slots import attention_slots as attention_slots
from .variants import VARIANTS as VARIANTS
from .variants import Variant as Variant
from .weights import save_model as save_model
