"""The one file that knows Accelerate: device, precision, several processes."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from .config import DEVICES


class Engine:
    """Where and in which precision the loop computes.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: a device or a precision that this machine does not have.
    """

    def __init__(self, device: str = "auto", precision: str = "fp32"):
        if device not in DEVICES:
            raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: cuda was asked for, but torch sees no CUDA device; give auto or cpu")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        if precision == "fp16" and on_cpu:
            raise ValueError("precision: fp16 needs a GPU; give bf16 or fp32 on a CPU")
        AcceleratorState._reset_state()  # it is a singleton that refuses a second precision in one process
        self.accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), cpu=on_cpu)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def place(self, task: Any) -> None:
        """The task on its device, in channels_last, in which a training step on a CPU takes half the time."""
        task.to(device=self.device, memory_format=torch.channels_last)

    def prepare(self, task: Any, optimizer: torch.optim.Optimizer) -> Any:
        """The task wrapped for several processes; returns the optimizer that understands the precision."""
        if self.world > 1:
            task.prepare_distributed(device_ids=[self.device.index] if self.device.type == "cuda" else None)
        return self.accelerator.prepare(optimizer)

    def autocast(self) -> AbstractContextManager:
        return self.accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, module: nn.Module, norm: float) -> None:
        self.accelerator.clip_grad_norm_(module.parameters(), norm)

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor([float(flag)], device=self.device)).item())

    def shared(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: self._moved(value) if torch.is_tensor(value) else value for key, value in batch.items()}

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, non_blocking=True, memory_format=layout)
