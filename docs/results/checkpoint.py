"""How long a checkpoint of an EfficientNet-B0 takes: weights, their average, AdamW's state.

    python docs/results/checkpoint.py [FOLDER]

Written with and without hashing, in turns, and read with every hash looked at; beside a training step of batch 32 at 224 px.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import timm
import torch

import zoo  # noqa: F401
from zoo.train import checkpoint, manifest

TIMES = 7


def median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"


def main() -> None:
    model = timm.create_model("effnet_cbam_b0").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    pictures = torch.randn(32, 3, 224, 224).to(memory_format=torch.channels_last)
    steps = []
    for _ in range(3):
        began = time.perf_counter()
        model(pictures).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.perf_counter() - began)
    state = model.state_dict()
    found: dict[str, list[float]] = {"with sha256": [], "without": [], "read": []}
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as folder:
        for step in range(TIMES):
            for name in ("with sha256", "without"):
                record = manifest.record if name == "with sha256" else lambda content: {"bytes": len(content), "sha256": ""}
                with patch.object(manifest, "record", record):
                    began = time.perf_counter()
                    path = checkpoint.write(
                        Path(folder) / name, step, {"model": state, "ema": state}, {"optimizer": optimizer.state_dict()}, {}
                    )
                    found[name].append(time.perf_counter() - began)
                if name == "with sha256":
                    began = time.perf_counter()
                    checkpoint.read(path)
                    found["read"].append(time.perf_counter() - began)
        size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{size / 1e6:.1f} MB; {torch.get_num_threads()} threads; a step of 32 pictures takes {median(steps[1:])}")
    for name, seconds in found.items():
        print(f"{name:12} {median(seconds)}")


if __name__ == "__main__":
    main()
