"""What the loop asks of a task: `timm.task.TrainingTask`, plus how rows become batches, how a step is taken, and what is saved.

The loop hands a task the list of micro-batches of one optimizer step, because a contrastive loss over a large batch is not a sum of losses
over small ones. The default is the sum.
"""

import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..datasets.data import Row, Split
from .config import TrainConfig
from .engine import Engine
from .freeze import Frozen
from .loader import Batch
from .preprocess import Preprocess
from .shard import mixed
from .sync_bn import sync_batch_norms


class Task(TrainingTask):
    """Abstract; `Classify` and `Align` are its kinds.

    Args:
        module: what is trained.
        freeze_bn: batch norms keep their statistics.
    """

    kind: str
    columns: tuple[str, ...] = ()
    default_batch_size: int
    default_lr: float
    metric: str
    """The name of the number that stands for all, in `evaluate`'s result."""
    holes: bool = False
    """Whether rows may lack a modality; a row whose picture can not be read is then one that lacks it."""
    progress: float = 1.0
    """The share of all steps that is done; the loop sets it before each step, for losses that warm up."""
    frozen: Frozen | None = None
    """Parts that do not learn, or not yet."""
    in_step: bool = False
    """Whether all processes must run the model equally often, because they talk to each other inside it."""

    def __init__(self, module: nn.Module, *, freeze_bn: bool = False):
        super().__init__(verbose=False)
        self.trainable_module = module
        self.freeze_bn = freeze_bn

    def train(self, mode: bool = True) -> "Task":
        super().train(mode)
        if mode and self.freeze_bn:
            for part in self.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        if mode and self.frozen is not None:
            self.frozen.rest(unwrap_model(self.trainable_module))
        return self

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: Any) -> "Task":
        self._distributed = {"device_ids": device_ids, **ddp_kwargs}
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def networks(self) -> Sequence[nn.Module]:
        """What `compile` is worth for; called before the task is spread over several processes."""
        return [self.trainable_module]

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> None:
        """In place, so that names and kinds of the modules stay what they are."""
        for network in self.networks():
            network.compile(backend=backend, mode=mode, **compile_kwargs)

    def plan_freezing(self, unfreeze_at: int | None) -> None:
        """Called before the optimizer is made: frozen parts thaw in that epoch, counted from 1; never, with None.

        Raises:
            ValueError: nothing is frozen, or a gate that is to take over would never learn.
        """
        if self.frozen is not None:
            self.frozen.plan(self.trainable_module, None if unfreeze_at is None else unfreeze_at - 1)
        elif unfreeze_at is not None:
            raise ValueError("unfreeze_at: nothing is frozen that could thaw; give freeze as well, such as trunk")

    def begin_epoch(self, epoch: int) -> None:
        """Called before every epoch, counted from 0, also of a run that is resumed in it."""
        if self.frozen is None or not self.frozen.at(unwrap_model(self.trainable_module), epoch):
            return
        if isinstance(self.trainable_module, DistributedDataParallel):  # it waits for the gradients of what learned when it was made
            self.trainable_module = self.trainable_module.module
            gc.collect()  # the old one must leave its hooks
            self.prepare_distributed(**self._distributed)

    def sync_batch_norms(self, engine: Engine) -> None:
        """Let batch norms take their statistics over the rows of all processes."""
        sync_batch_norms(self.trainable_module, engine.device)

    def shard(self, modalities: Sequence[str], engine: Engine) -> None:
        """Cut towers into shards, one a process.

        Raises:
            ValueError: the task has none that can be.
        """
        raise ValueError(
            "shard: a classifier is one convolutional network, small enough for every process (B7: 66 M parameters), and its batch norms "
            "are not sharded; it trains in several processes without"
        )

    def update_ema(self, step: int | None = None) -> None:
        with mixed(self):
            super().update_ema(step)

    def check(self, split: Split, which: str) -> None:
        """Whether rows can be used.

        Raises:
            ValueError: they lack a column.
        """
        missing = [column for column in self.columns if column not in split.columns]
        if missing:
            raise ValueError(f"the {which} rows have {', '.join(split.columns)}; this task also needs {', '.join(missing)}")

    def of_pictures(self) -> Preprocess:
        """What becomes of the pictures of `image`.

        Raises:
            ValueError: the task reads none.
        """
        raise NotImplementedError

    def prepare(self, training: bool) -> Callable[[Row], Row]:
        """The function that turns a row of raw values into one that `collate` can put into a batch; it travels to workers."""
        raise NotImplementedError

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Prepared rows to one batch of tensors; it travels to workers."""
        raise NotImplementedError

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch, a scalar with a graph."""
        raise NotImplementedError

    def look(self, train: Split, engine: Engine) -> None:
        """Called before the first step, also of a run that is resumed: a task may look its training rows over, and warn."""

    def begin(self, config: TrainConfig, world: int) -> None:
        """Called before the first step of a run, not when one is resumed."""

    def training_step(self, batches: Sequence[Batch], engine: Engine) -> torch.Tensor:
        """Gradients of one optimizer step; returns its loss, detached. By default the mean over all rows, of all processes."""
        rows = engine.mean(sum(len(batch["index"]) for batch in batches))  # the processes' gradients are averaged
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, 1):
            with nullcontext() if number == len(batches) else self.no_sync():
                with engine.autocast():
                    loss = self.batch_loss(batch) * (len(batch["index"]) / rows)
                engine.backward(loss)
            total = total + loss.detach()
        return engine.averaged(total)

    def after_step(self) -> None:
        """Called after every optimizer step."""

    def outputs(self, batch: Batch, model: nn.Module) -> dict[str, torch.Tensor]:
        """What `model` makes of one batch: all of it that is measured, small enough to travel between processes."""
        raise NotImplementedError

    def measure(self, outputs: Iterable[dict[str, torch.Tensor]], split: Split) -> dict[str, Any]:
        """Metrics from the outputs of all batches, which hold every row of the split once, in order; as JSON."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What is trained, as JSON: enough to build the task again and to tell two runs apart."""
        raise NotImplementedError

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        """Write `model` into the run directory, in the form in which others read it; `run` goes into its `config.json` under "zoo"."""
        raise NotImplementedError
