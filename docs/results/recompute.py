"""What computing again instead of keeping saves and costs: writes recompute.md beside it.

python docs/results/recompute.py [--rounds 9]
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import timm
import torch
from torch import nn

import zoo  # noqa: F401 (fills timm's registry)
from zoo.backbones.recompute import recomputed
from zoo.deploy import about
from zoo.deploy.rounds import on_threads, spread

CASES = [(name, *size) for size in ((16, 224), (128, 32)) for name in ("effnet_se_b0", "effnet_cbam_b0")] + [("effnet_se_v2_b0", 16, 192)]
HEAD = "| network | batch | pixels | saved, MiB | share | time | gradients and statistics |\n|---|---|---|---|---|---|---|\n"


@contextmanager
def counted(own: set[int], found: dict[int, int]) -> Iterator[None]:
    """Bytes of every storage that the forward pass keeps, once; parameters and buffers are there anyway."""

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def step(model: nn.Module, x: torch.Tensor, again: bool, counting=nullcontext) -> float:
    """Processor time of forward and backward."""
    torch.manual_seed(1)
    model.zero_grad()
    with recomputed(model) if again else nullcontext():
        began = time.process_time()
        with counting():
            loss = model(x).square().mean()
        loss.backward()
        return time.process_time() - began


def measure(name: str, batch: int, size: int, rounds: int) -> str:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.1).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    kept, after = {}, {}
    for again in (False, True):
        model.load_state_dict(state)
        found: dict[int, int] = {}
        step(model, x, again, lambda found=found: counted(own, found))
        kept[again] = sum(found.values()) / 2**20
        after[again] = [*(each.grad.clone() for each in model.parameters()), *(each.clone() for each in model.buffers())]
    same = all(torch.equal(one, two) for one, two in zip(after[False], after[True], strict=True))
    ratios = []
    for number in range(rounds):
        taken = {again: step(model, x, again) for again in ((False, True) if number % 2 else (True, False))}
        ratios.append(taken[True] / taken[False])
    time_of = spread(ratios)
    share = f"{kept[True] / kept[False]:.2f}"
    cells = [
        name,
        batch,
        size,
        f"{kept[True]:,.0f} / {kept[False]:,.0f}",
        share,
        f"{time_of.median:.2f} ({time_of.low:.2f}-{time_of.high:.2f})",
    ]
    return f"| {' | '.join(map(str, cells))} | {'equal to the last bit' if same else 'DIFFERENT'} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with on_threads(1):
        lines = "".join(measure(*case, rounds) for case in CASES)
    known = about()
    versions = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    text = f"""# Computing again instead of keeping

`python docs/results/recompute.py --rounds {rounds}`; in training: `zoo train ... --recompute`.

Between the convolutions of an EfficientNet block stand batch norm, activation and gate. They are cheap to compute, and what each of them
keeps for the backward pass is as large as a convolution's output. With `--recompute` only what leaves a convolution is kept; the rest is
computed a second time when the backward pass comes to it (`zoo/backbones/recompute.py`). No convolution is run twice, and running
statistics are counted once.

Saved: all storages that forward keeps for backward, each once, parameters and buffers aside; with recomputation / without. Time: of
forward and backward, with by without, taking turns in one process: median and quartiles of {rounds} rounds.

{HEAD}{lines}
{versions}; {known["cpu"]}, one thread, float32, channels_last, processor time.
"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
