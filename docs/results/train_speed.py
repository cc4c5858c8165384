"""Our loop beside timm's training step, in both precisions, with and without torch.compile: writes train_speed.md beside it.

python docs/results/train_speed.py [--rounds 5] [--workers 0] [--compile]
"""

import argparse
from pathlib import Path

import zoo  # noqa: F401 (fills timm's registry)
from zoo.deploy import about, bench_train

SIZES = ((16, 224), (128, 32))
HEAD = (
    "| step | precision | compiled | ours | timm | ratio | timm, channels_last | ratio | waiting |\n|---|---|---|---|---|---|---|---|---|\n"
)


def row(batch: int, size: int, precision: str, compiled: bool, clock: str, **how: int) -> str:
    found = bench_train("effnet_cbam_b0", batch_size=batch, img_size=size, precision=precision, compile=compiled, **how)
    speed = {"wall": "images_per_second", "processor": "images_per_processor_second"}[clock]
    cells = [f"{batch} @ {size}", precision, "yes" if compiled else "", f"{getattr(found.sides['ours'], speed):.1f}"]
    for name, ratio in found.ratios.items():
        of = getattr(ratio, clock)
        cells += [f"{getattr(found.sides[name], speed):.1f}", f"{of.median:.2f} ({of.low:.2f}-{of.high:.2f})"]
    cells.append(f"{found.sides['ours'].waiting:.1%}")
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile: many minutes more")
    given = parser.parse_args()
    clock = "wall" if given.workers else "processor"  # the processor time of the training process does not see the workers
    cases = [
        (*size, precision, compiled) for compiled in (False, True)[: 1 + given.compile] for size in SIZES for precision in ("fp32", "bf16")
    ]
    lines = "".join(row(*case, clock, rounds=given.rounds, workers=given.workers) for case in cases)
    known = about()
    versions = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    waiting = "(those that were not ready)" if given.workers else "(there are no workers: the whole time of reading them)"
    command = f"python docs/results/train_speed.py --rounds {given.rounds} --workers {given.workers}{' --compile' * given.compile}"
    text = f"""# Training speed, beside timm's step

`{command}`; one line of it:
`zoo bench train --batch-size 16 --img-size 224 --precision fp32 --workers {given.workers} --json`.

Pictures a second of {"the wall clock" if given.workers else "processor time"}, from JPEG files to the optimizer, `effnet_cbam_b0`, AdamW.
Ours
is `zoo train`'s loop as it is (channels_last, torch's fused AdamW, tiny maps by matrix products); timm's is its loader,
`ClassificationTask`, `create_optimizer_v2` and schedule in the order of its training script. They take turns, and a ratio, ours by
timm's, is taken within a round: median and quartiles of {given.rounds}. Waiting: the share of our time in which a step waited for its
pictures {waiting}.

{HEAD}{lines}
{versions}; {known["cpu"]}, one thread; workers: {given.workers}.
"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
