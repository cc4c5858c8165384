"""Which layers do not bear int8: the error that each makes alone, and the search for those that must stay in float.

The error of a layer is what the outputs of the whole network lose when that layer alone is quantized, in PyTorch (fake.py), on rows that
the ranges were not taken from: SQNR = 10 log10(sum y^2 / sum (y' - y)^2) dB. 20 dB is noise of a tenth of the outputs. The worst layers are
kept in float, twice as many each time, until the file itself, run by its runtime, passes the threshold.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...progress import tracked
from . import fake

LEAST_SQNR = 20.0  # dB that the outputs of the file must reach
_MOST = 1 / 4  # of the layers may stay in float; a network that needs more is not one for int8


@dataclass(frozen=True)
class Layer:
    """A layer and what int8 does to it.

    Args:
        name: its path in the network.
        sqnr: of the network's outputs when it alone is quantized, in dB.
        kept: whether it stays in float.
    """

    name: str
    sqnr: float
    kept: bool = False


@dataclass(frozen=True)
class Sensitivity(Sequence[Layer]):
    """The layers, the worst first; prints as a table.

    Args:
        layers: with the error of each.
        sqnr: of the outputs of the file, in dB, on the held-out rows.
        agree: per cent of those rows whose largest output is the same one; None of embeddings.
        least: the threshold for `sqnr`.
        rows: how many were held out.
    """

    layers: tuple[Layer, ...]
    sqnr: float
    agree: float | None
    least: float
    rows: int

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        return self.layers[index]

    @property
    def passed(self) -> bool:
        return self.sqnr >= self.least

    def told(self) -> str:
        """The outcome, in a line."""
        kept = sum(layer.kept for layer in self.layers)
        of = f"{kept} of {len(self)} layers stay in float; " if self.layers else ""
        agree = f", {self.agree:.1f} % agree" if self.agree is not None else ""
        limit = f"of at least {self.least:g}" if self.passed else f"below the {self.least:g} that were asked for"
        return f"{of}the outputs' SQNR on {self.rows} held-out rows is {self.sqnr:.1f} dB, {limit}{agree}"

    def table(self, most: int = 12) -> str:
        rows = [(layer.name, f"{layer.sqnr:.1f} dB", "float" if layer.kept else "int8") for layer in self.layers]
        shown = rows[: max(most, sum(layer.kept for layer in self.layers))]
        head = ("layer", "SQNR of it alone", "kept in")
        width = [max(len(row[column]) for row in (head, *shown)) for column in range(3)]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, width, strict=True)).rstrip() for row in (head, *shown)]
        more = [f"and {len(rows) - len(shown)} that bear it better"] if len(rows) > len(shown) else []
        return "\n".join([lines[0], "  ".join("-" * size for size in width), *lines[1:], *more])

    def __str__(self) -> str:
        return (self.table() + "\n" if self.layers else "") + self.told()


def sqnr(wanted: Tensor, found: Tensor) -> float:
    """Signal to quantization noise of outputs, in dB; infinite where they are equal, minus infinite where one is no number."""
    noise = (found.double() - wanted.double()).square().sum().item()
    if not math.isfinite(noise):
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(max(wanted.double().square().sum().item(), 1e-300) / noise)


def agreement(wanted: Tensor, found: Tensor) -> float:
    """Per cent of rows with the same largest output."""
    return 100 * (wanted.argmax(1) == found.argmax(1)).float().mean().item()


@torch.no_grad()
def outputs(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """`[N, D]` on the CPU, in float32, of a network in evaluation mode."""
    device = next(network.parameters()).device
    return torch.cat([network(batch.to(device)).float().cpu() for batch in batches])


def errors(network: nn.Module, batches: Sequence[Tensor], held_out: Sequence[Tensor]) -> list[Layer]:
    """Every layer that the network calls, the worst first.

    Args:
        network: `[B, ...]` -> `[B, D]`; it is left as it is.
        batches: for the ranges.
        held_out: to measure on.
    """
    network = copy.deepcopy(network).eval()
    fake.attach(network)
    called = fake.watch(network, batches)
    wanted = outputs(network, held_out)
    found = []
    for path in tracked(called, len(called), "error of each layer"):
        fake.quantize_only(network, {path})
        found.append(Layer(path, sqnr(wanted, outputs(network, held_out))))
    return sorted(found, key=lambda layer: layer.sqnr)


def search(
    write: Callable[[Sequence[str]], Callable[[np.ndarray], np.ndarray]],
    network: nn.Module,
    batches: Sequence[Tensor],
    held_out: Sequence[Tensor],
    *,
    least: float = LEAST_SQNR,
    classifier: bool = True,
    searches: bool = True,
    keep: Sequence[str] | None = None,
) -> Sensitivity:
    """Write the file, with ever more layers in float until it passes, or with those that are named.

    Args:
        write: paths of layers to keep in float -> the file, open. The last call is the file that stays.
        network: in float.
        batches, held_out: calibration, and rows to measure on.
        least: dB that the outputs must reach.
        classifier: whether outputs are logits.
        searches: False where the target can keep no layer in float: the file is written and measured.
        keep: the layers to keep in float; no other is looked for.
    """
    wanted = outputs(network.eval(), held_out)

    def measure(keep: Sequence[str]) -> Sensitivity:
        run = write(keep)
        found = torch.cat([torch.from_numpy(run(batch.numpy())).float() for batch in held_out])
        return Sensitivity((), sqnr(wanted, found), agreement(wanted, found) if classifier else None, least, len(wanted))

    if keep is not None:
        return measure(keep)
    ranked = errors(network, batches, held_out[:1]) if searches else []  # a batch is enough to rank by, and it is one pass a layer
    most, count = int(len(ranked) * _MOST), 0
    best = found = measure([])
    best_count = 0
    while not found.passed and count < most:
        count = min(max(1, 2 * count), most)
        found = measure([layer.name for layer in ranked[:count]])
        if found.sqnr > best.sqnr:
            best, best_count = found, count
    if best_count != count:  # the last one is not the best
        best = measure([layer.name for layer in ranked[:best_count]])
    return replace(best, layers=tuple(replace(layer, kept=place < best_count) for place, layer in enumerate(ranked)))
