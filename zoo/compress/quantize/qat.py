"""Quantization-aware training: a task whose network computes as in int8 while it learns, and is a plain one whenever it is saved.

Batch norms keep their statistics, as in the network that will be folded. Checkpoints hold the ranges beside the weights, so that a run goes
on exactly.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.utils import unwrap_model
from torch import Tensor, nn

from ...train import Task
from . import fake


class _QuantizationAware(Task):
    """What is put before the class of a task."""

    def after_step(self) -> None:
        super().after_step()
        fake.step(unwrap_model(self.trainable_module))

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        network = copy.deepcopy(model)
        fake.detach(network)
        super().save(out, network, run)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "quantization_aware": True}


def quantization_aware(task: Task, network: nn.Module, batches: Sequence[Tensor]) -> Task:
    """Make a task compute as in int8, in place; `plain` turns it back.

    Args:
        task: to be trained by `zoo.fit`.
        network: the part of its model that is to be quantized.
        batches: what its ranges begin with.
    """
    fake.attach(network)
    fake.quantize_only(network, fake.watch(network, batches))
    task.freeze_bn = True
    task.__class__ = type(f"QuantizationAware{type(task).__name__}", (_QuantizationAware, type(task)), {})
    return task


def plain(task: Task) -> Task:
    """The task as it was, with the weights that it has learned."""
    fake.detach(task.trainable_module)
    task.__class__ = type(task).__mro__[2]
    return task
