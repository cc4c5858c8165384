"""Losses of two sides' embeddings, pure functions of tensors. A file a loss, named as registered.

`infonce`, `hinges` and `rows` have no name: several losses are made of them.
"""

from .align import align as align
from .barlow import barlow as barlow
from .clip import clip as clip
from .dcl import dcl as dcl
from .siglip import siglip as siglip
from .triplet import triplet as triplet
from .vicreg import vicreg as vicreg
from .vsepp import vsepp as vsepp
