"""What a trained network has learned, to look at: where its gates look, and what its decision rests on."""

from .attention_maps import AttentionMap as AttentionMap
from .attention_maps import attention_maps as attention_maps
from .explain import Gate as Gate
from .explain import Look as Look
from .explain import draw as draw
from .explain import look as look
from .explain import rendered as rendered
from .grad_cam import grad_cam as grad_cam
from .overlay import overlay as overlay
