"""Smaller and better than trained alone."""

from .distill import Distill as Distill
