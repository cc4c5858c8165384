"""Smaller and better than trained alone."""

from .distill import Distill as Distill
from .prune import PruneReport as PruneReport
from .prune import prune as prune
