"""Smaller and better than trained alone."""

from .card import costs as costs
from .card import write_card as write_card
from .distill import Distill as Distill
from .prune import PruneReport as PruneReport
from .prune import check_target as check_target
from .prune import prune as prune
