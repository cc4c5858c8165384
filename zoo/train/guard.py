"""Losses and gradients that are no numbers are found before they reach the weights, in all processes alike.

A picture with a NaN in it has passed through the batch norms, and into their statistics, before any loss tells of it. So the buffers are
kept before each step (B0 has forty thousand numbers there), and put back when a step is refused. After that step the network, its average
and the optimizer are what they were before it; a run that skips such a step goes on with the next one.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..progress import console
from .engine import Engine
from .folder import Folder
from .loader import Batch

_IN_A_ROW = 20


class Guard:
    """Refuses the steps whose loss, gradients or statistics are no numbers.

    Args:
        module: what is trained.
        engine: the processes that must agree.
        folder: where `skipped.jsonl` is written.
        policy: "stop" or "skip".
        steps_per_epoch: so many refused steps in a row, and never more than 20, stop a run that skips: its trouble is not a few rows.
    """

    in_a_row: int = 0
    """Refused steps up to now since the last one that was taken: part of the state of a run."""

    def __init__(self, module: nn.Module, engine: Engine, folder: Folder, policy: str, steps_per_epoch: int):
        self.module, self.engine, self.folder, self.policy = module, engine, folder, policy
        self.limit = min(_IN_A_ROW, steps_per_epoch)
        self._buffers = list(module.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        # a mask of a text tower holds infinities by design; statistics start as numbers
        self._watched = [buffer.is_floating_point() and bool(buffer.isfinite().all()) for buffer in self._buffers]

    def keep(self) -> None:
        """Remember the buffers; called before each step."""
        self._buffers = list(self.module.buffers())  # anew: moving a module to where it is already can make others of them
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    @property
    def _statistics(self) -> list[torch.Tensor]:
        return [buffer for buffer, watched in zip(self.module.buffers(), self._watched, strict=True) if watched]

    def refuses(self, loss: float, norm: float) -> bool:
        """Whether the loss of any process, the norm of the gradients or a statistic is no number."""
        refused = self.engine.any(not math.isfinite(loss + norm + self.engine.norm(self.module, self._statistics)))
        self.in_a_row = self.in_a_row + 1 if refused else 0
        return refused

    def refuse(self, step: int, loss: float, norm: float, micro: Sequence[Batch]) -> None:
        """Undo what the forward pass of a refused step did to the buffers; log the step, or stop.

        Raises:
            FloatingPointError: the policy is to stop, or too many steps in a row were refused.
        """
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)
        found = self.engine.every([{"loss": loss, **_rows_of(micro)}])
        losses = [each["loss"] for each in found]
        # where one process's loss tells, its rows are the suspects; gradients and statistics are everybody's
        suspects = [each for each in found if not math.isfinite(each["loss"])] or found
        rows, ids, holding = (sorted({row for each in suspects for row in each[key]}) for key in ("rows", "ids", "not_finite"))
        wrong = next((each for each in losses if not math.isfinite(each)), None)
        what = "the statistics are no numbers after" if math.isfinite(norm) else f"the gradient is {norm} in"
        told = f"the loss of step {step} is {wrong}" if wrong is not None else f"{what} step {step} (its loss is {loss:.4g})"
        told += f"; its rows are {rows}" + (f", of which {holding} hold numbers that are none" if holding else "")
        if self.policy == "stop":
            raise FloatingPointError(f"{told}; leave such steps out (--nonfinite skip), try a lower learning rate, or clip the gradient")
        if self.in_a_row >= self.limit:
            raise FloatingPointError(f"{told}; that makes {self.in_a_row} in a row; try a lower learning rate, or clip the gradient")
        # as text: NaN is no JSON
        self.folder.log_skip({"step": step, "loss": str(losses[0]), "norm": str(norm), "rows": rows, "ids": ids, "not_finite": holding})
        console.print(f"skipped: {told}", highlight=False, soft_wrap=True)

    def check_weights(self, step: int) -> None:
        """Called before anything is saved.

        Raises:
            FloatingPointError: the weights after `step` steps are no numbers; which, by name.
        """
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        watched = [*(parameter for parameter in self.module.parameters() if parameter.is_floating_point()), *self._statistics]
        if self.engine.any(not math.isfinite(self.engine.norm(self.module, watched))):
            known = {id(tensor) for tensor in watched}
            bad = [name for name, tensor in named if id(tensor) in known and not tensor.isfinite().all()]
            raise FloatingPointError(
                f"after step {step} the weights are no numbers any more ({', '.join(bad[:3]) or 'in another process'}); they were not "
                "saved, and the last checkpoint is from before; try a lower learning rate, or clip the gradient"
            )


def _rows_of(micro: Sequence[Batch]) -> dict[str, list[int]]:
    """Indices and ids of a step's rows, and the indices of those that hold numbers that are none."""
    found: dict[str, list[int]] = {"rows": [], "ids": [], "not_finite": []}
    for batch in micro:
        index = batch["index"].cpu()
        found["rows"] += index.tolist()
        found["ids"] += batch["id"].tolist()
        for name, values in batch.items():
            if torch.is_tensor(values) and values.is_floating_point() and values.ndim > 2:  # in a table a NaN is a missing cell
                bad = ~values.flatten(1).isfinite().all(1).cpu()
                rows = batch[f"rows.{name}"].cpu() if f"rows.{name}" in batch else torch.arange(len(index))
                found["not_finite"] += index[rows[bad]].tolist()
    return found
