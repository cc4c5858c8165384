"""A split measured by as many processes as there are, and what becomes of an error in one of them; run by torchrun, see test_measures.py.

measures.py OUT     the first process writes what every process measured, and how long an error elsewhere took to arrive
"""

import importlib.util
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

import zoo
from zoo.train.engine import Engine, StoppedElsewhere, leave
from zoo.train.loader import InOrder

STAYS = 3.0  # seconds that a process which failed does not leave
BATCH = 4


def _runs():
    spec = importlib.util.spec_from_file_location("runs", Path(__file__).with_name("runs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def task(kind: str, rank: int):
    """Trained nowhere, but its batch norms have seen something, and something else in each process."""
    runs = _runs()
    torch.manual_seed(0)
    made = getattr(runs, kind)(**({"model_options": {"calm": False}} if kind == "classifier" else {}))
    made.train()
    torch.manual_seed(rank)
    network = made.trainable_module if kind == "classifier" else made.joint.towers["image"]
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32))
    return made


def measured(kind: str, engine: Engine) -> dict:
    """Of 11 rows in three batches, so that of four processes one has none."""
    made = task(kind, engine.rank)
    return zoo.evaluate(made, _runs().data().eval, engine=engine, batch_size=BATCH)


def fails(engine: Engine, guarded: bool) -> float:
    """Seconds until this process knows that the second one, which fails and does not leave, will not come."""

    def work():
        if engine.rank == 1:
            Image.open(Path(__file__))  # no picture

    began = time.monotonic()
    if engine.rank == 1:
        with suppress(OSError):
            engine.together(work) if guarded else work()
        time.sleep(STAYS)
    elif guarded:
        try:
            engine.together(work)
        except StoppedElsewhere as error:
            assert "process 1 of" in str(error) and "UnidentifiedImageError" in str(error), error
    if not guarded:
        engine.any(False)  # the next step
    waited = time.monotonic() - began
    engine.barrier()
    return waited


def main() -> None:
    engine = Engine("cpu")
    engine.barrier()
    found = {kind: engine.everybodys(measured(kind, engine)) for kind in ("classifier", "joint")}
    plans = [engine.everybodys(list(InOrder(11, BATCH, engine.rank, engine.world, fill=fill))) for fill in (False, True)]
    waited = {guarded: fails(engine, guarded) for guarded in (True, False)}
    if engine.is_main:
        torch.save({"world": engine.world, "found": found, "plans": plans, "waited": waited}, sys.argv[1])
    leave()


if __name__ == "__main__":
    main()
