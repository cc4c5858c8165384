"""The one file that knows Accelerate: device, precision, several processes, and where curves are shown."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list, gather_object
from torch import nn

from .config import DEVICES
from .launch import check_launch
from .shard import is_sharded, mixed

T = TypeVar("T")
_BUCKET = 1 << 25  # numbers that travel together
LOGS = "logs"  # in the run directory
_PROJECT = "zoo"


class StoppedElsewhere(RuntimeError):
    """Another process could not go on, so this one does not wait for it."""


def leave() -> None:
    """Take leave of the other processes, if there are any: one that ends without may be aborted on its way out, after all was done."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All processes' tensors of one shape, [world, ...]; the gradient of each comes back from all of them, added up."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        every = x.new_empty((dist.get_world_size(), *x.shape))
        dist.all_gather(list(every.unbind()), x.contiguous())
        return every

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def _number(x: Any) -> float:
    return float(x.full_tensor() if is_sharded(x) else x)


class Engine:
    """Where and in which precision the loop computes.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16" or "fp16".
        log: names of Accelerate's trackers, or such trackers.
        out: the run directory, for those that write into it.

    Raises:
        ValueError: a device or a precision that this machine does not have.
        ImportError: a tracker whose package is not installed.
    """

    def __init__(self, device: str = "auto", precision: str = "fp32", log: Sequence[Any] = (), out: Path | None = None):
        if device not in DEVICES:
            raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: cuda was asked for, but torch sees no CUDA device; give auto or cpu")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        if precision == "fp16" and on_cpu:
            raise ValueError("precision: fp16 needs a GPU; give bf16 or fp32 on a CPU")
        for name in log:
            if isinstance(name, str) and find_spec(name) is None:  # Accelerate would go without
                raise ImportError(f"log: {name} is not installed: pip install {name}")
        AcceleratorState._reset_state()  # it is a singleton that refuses a second precision in one process
        folders = ProjectConfiguration(str(out), str(out / LOGS)) if out else ProjectConfiguration()
        self.out = out
        self.accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(precision, precision), cpu=on_cpu, log_with=list(log) or None, project_config=folders
        )
        check_launch(self.world)

    @property
    def device(self) -> torch.device:
        device = self.accelerator.device  # of several processes "cpu:0", which is no other place, but moving to it would copy
        return torch.device("cpu") if device.type == "cpu" else device

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

    def compile(self, task: Any) -> None:
        """The task's networks through torch.compile.

        Raises:
            ValueError: this machine has no C++ compiler, which torch.compile needs.
        """
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise ValueError(f"compile: no C++ compiler ({compiler}) on this machine; install one, name one in CXX, or leave compile out")
        task.compile()

    def prepare(self, task: Any, optimizer: torch.optim.Optimizer) -> Any:
        """The task wrapped for several processes; returns the optimizer that understands the precision."""
        if self.world > 1:
            task.prepare_distributed(device_ids=[self.device.index] if self.device.type == "cuda" else None)
        return self.accelerator.prepare(optimizer)

    def autocast(self) -> AbstractContextManager:
        return self.accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    @property
    def scales(self) -> bool:
        """Whether losses are scaled (fp16): gradients that overflow are normal then, and the scaler looks after them."""
        return self.accelerator.scaler is not None

    def clip(self, module: nn.Module, norm: float | None) -> float:
        """The norm of the gradients, which are made no longer than `norm`; None leaves them as they are."""
        if norm is None:
            return self.norm(module, [parameter.grad for parameter in module.parameters() if parameter.grad is not None])
        with mixed(module):
            return _number(self.accelerator.clip_grad_norm_(module.parameters(), norm))

    @torch.no_grad()
    def norm(self, module: nn.Module, tensors: Sequence[torch.Tensor]) -> float:
        """The norm of all numbers in these tensors of a module together; no number if one of them is none."""
        with mixed(module):
            return _number(nn.utils.get_total_norm(tensors))

    def step(self, optimizer: Any, module: nn.Module) -> None:
        with mixed(module):
            optimizer.step()

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[world, ...] of the processes' tensors of one shape, with gradients: of what every process computes from it, the sum."""
        return _Gather.apply(x) if self.world > 1 else x[None]

    @torch.no_grad()
    def averaged(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of the processes' tensors of one shape, without gradients."""
        if self.world > 1:
            x = x.clone()
            dist.all_reduce(x)
            x /= self.world
        return x

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.world == 1:
            return number
        held = torch.tensor([number], device=self.device)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held.item())

    def fewest(self, numbers: Sequence[int]) -> list[int]:
        """The smallest of the processes' numbers, place by place."""
        held = torch.tensor(numbers, device=self.device)
        if self.world > 1:
            dist.all_reduce(held, dist.ReduceOp.MIN)
        return held.tolist()

    @torch.no_grad()
    def share_buffers(self, module: nn.Module) -> None:
        """The first process's buffers (statistics of batch norms) in all of them."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    @torch.no_grad()
    def share_weights(self, module: nn.Module) -> None:
        """The first process's parameters and buffers in all of them, however each of them started."""
        if self.world > 1:
            for parameter in module.parameters():
                plain = parameter.contiguous()  # of one in channels_last, a copy
                dist.broadcast(plain, 0)
                parameter.copy_(plain)
            self.share_buffers(module)

    @torch.no_grad()
    def average_gradients(self, module: nn.Module) -> None:
        """The mean of the processes' gradients in all of them. A parameter that has none anywhere keeps none, as in one process."""
        if self.world == 1:
            return
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad and not is_sharded(parameter)]
        there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        waiting: list[nn.Parameter] = []
        held = 0
        for parameter, any_has in zip(parameters, there.tolist(), strict=True):
            if not any_has:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if waiting and (waiting[0].dtype != parameter.dtype or held + parameter.numel() > _BUCKET):
                self._average(waiting)
                waiting, held = [], 0
            waiting.append(parameter)
            held += parameter.numel()
        if waiting:
            self._average(waiting)

    def _average(self, parameters: list[nn.Parameter]) -> None:
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        parts = flat.div_(self.world).split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad.copy_(part.view_as(parameter.grad))  # type: ignore[union-attr]

    def start_log(self, settings: Mapping[str, Any], step: int) -> None:
        """Open the trackers in the first process; of a run that goes on from `step`, the curves that it has drawn until there go on."""
        if not self.accelerator.log_with or not self.is_main:
            return
        out = self.out
        kept = out / LOGS / "runs.json" if out else None
        runs = json.loads(kept.read_text()) if step and kept and kept.exists() else {}
        own: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": step + 1} if step else {},  # what a killed run drew after its checkpoint is drawn again
            "wandb": {"id": runs["wandb"], "resume": "allow"} if "wandb" in runs else {},
            "mlflow": {"run_id": runs["mlflow"]} if "mlflow" in runs else {},
            "trackio": {"resume": "allow"},
        }
        if out:
            own["wandb"]["dir"] = str(out)
            for name in ("wandb", "trackio", "mlflow"):
                own[name]["run_name" if name == "mlflow" else "name"] = out.name
        plain = {key: value if isinstance(value, (bool, int, float, str)) else json.dumps(value) for key, value in settings.items()}
        self.accelerator.init_trackers(_PROJECT, config=None if step else plain, init_kwargs=own)
        for tracker in self.accelerator.trackers:
            if tracker.name in ("wandb", "mlflow"):
                runs[tracker.name] = tracker.tracker.id if tracker.name == "wandb" else tracker.tracker.info.run_id
        if kept and runs:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(runs))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """The numbers among the values, as points of the curves."""
        self.accelerator.log({key: value for key, value in values.items() if isinstance(value, (int, float))}, step=step)

    def end_log(self) -> None:
        for tracker in self.accelerator.trackers:  # `end_training` would take leave of the other processes too
            tracker.finish()

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor([float(flag)], device=self.device)).item())

    def mean(self, number: float) -> float:
        """The mean of the processes' numbers."""
        return self.averaged(torch.tensor(number, dtype=torch.float64, device=self.device)).item()

    def every(self, things: list[Any]) -> list[Any]:
        """The lists of all processes, one behind the other."""
        return [thing for theirs in self.everybodys(things) for thing in theirs]

    def shared(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def everybodys(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; anything that pickles."""
        return gather_object([value]) if self.world > 1 else [value]

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives in this process, once it is done in all of them; where it fails in one, none goes on.

        `work` must not wait for another process itself. Without this, the others would wait in the next step for one that has left, until
        somebody ends them.

        Raises:
            StoppedElsewhere: it failed in another process. What failed here is raised as it is.
        """
        if self.world == 1:
            return work()
        result, failed = None, None
        try:
            result = work()
        except Exception as error:
            failed = error
        if self.any(failed is not None):
            told = self.everybodys(None if failed is None else f"{type(failed).__name__}: {failed}")
            if failed is not None:
                raise failed
            rank, why = next((rank, why) for rank, why in enumerate(told) if why is not None)
            raise StoppedElsewhere(f"process {rank} of {self.world} stopped: {why}")
        return result  # type: ignore[return-value]

    def to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: self._moved(value) if torch.is_tensor(value) else value for key, value in batch.items()}

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(self.device, non_blocking=True, memory_format=layout)
