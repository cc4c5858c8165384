"""One step of a joint embedding in each of several processes; run by torchrun, see test_processes.py.

processes.py OUT LOSS ...     every process takes its share of 16 rows of three modalities with holes; rank 0 writes the gradients
"""

import sys

import torch
from torch import nn

from registry import LOSSES
from zoo.heads import Linear
from zoo.joint import JointEmbedding
from zoo.train import Align
from zoo.train.engine import Engine

ROWS, WIDTH = 16, 6
NAMES = ("image", "text", "table")
IDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11, 12, 13, 14, 0)
HOLES = {"image": {3}, "text": {5, 6}, "table": {0, 1, 2, 4, 6, 8, 10, 12, 14}}  # of two processes, the first has no table at all


class Vector(nn.Module):
    num_features = WIDTH

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.tanh(self.layer(x))


def make(loss: str) -> Align:
    torch.manual_seed(0)
    joint = JointEmbedding({name: Vector() for name in NAMES}, {name: Linear(WIDTH, 5) for name in NAMES}, loss=LOSSES[loss])
    joint.double().restart_scale(ROWS)
    return Align(joint, prepare=dict.fromkeys(NAMES, torch.stack), preprocess={}, description={})


def rows(chosen: list[int]) -> list[dict]:
    values = torch.randn(ROWS, len(NAMES), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [
        {
            "id": IDS[row],
            "index": row,
            **{name: values[row, number] for number, name in enumerate(NAMES) if row not in HOLES[name]},
        }
        for row in chosen
    ]


def gradients(loss: str, micro: int, engine: Engine) -> dict[str, torch.Tensor]:
    """Of this process's share of the rows, in `micro` micro-batches."""
    task = make(loss)
    task.train()
    task.progress = 0.05  # in the middle of a warm-up
    mine = list(range(ROWS))[engine.rank :: engine.world]
    parts = [mine[first::micro] for first in range(micro)]
    value = task.training_step([task.collate(rows(part)) for part in parts], engine)
    return {"value": value, **{name: each.grad for name, each in task.joint.named_parameters() if each.grad is not None}}


def main() -> None:
    out, *losses = sys.argv[1:]
    engine = Engine("cpu")
    found = {f"{loss} {micro}": gradients(loss, micro, engine) for loss in losses for micro in (1, 2)}
    if engine.is_main:
        torch.save({"world": engine.world, "found": found}, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
