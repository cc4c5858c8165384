"""Pictures on disk, some of which can not be read; a training over them in several processes, run by torchrun, see test_broken.py.

pictures.py FOLDER OUT POLICY
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

LABELS = ("dark", "bright")
MODEL = "effnet_eca_test"


def noise(index: int) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 60, (16, 16, 3)) + (index % 2) * 180
    return Image.fromarray(pixels.astype(np.uint8))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header says that it has so many pixels; who decodes them finds the file cut off."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(1 + width))) + _chunk(b"IEND", b"")


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    {
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("not a picture"),
        "bomb": lambda: path.write_bytes(bomb(30_000, 3_000)),
        "gone": path.unlink,
    }[how]()


def paths(folder: Path) -> list[Path]:
    """Forty-eight pictures to train on and sixteen to evaluate on."""
    sides = [("train", index) for index in range(48)] + [("val", index) for index in range(48, 64)]
    return [folder / side / LABELS[index % 2] / f"{index:02}.png" for side, index in sides]


def draw(folder: Path) -> list[Path]:
    files = paths(folder)
    for index, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(index).save(file)
    return files


def main() -> None:
    import zoo
    from zoo.train.engine import Engine, leave

    folder, out, policy = sys.argv[1:]
    data = zoo.datasets.read_folder(folder)
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, img_size=32, augment="none")
    config = zoo.TrainConfig(out=out, epochs=2, batch_size=6, device="cpu", broken=policy)
    zoo.fit(task, data.train, data.eval, config)
    engine = Engine("cpu")
    assert engine.world == 2 and engine.mean(engine.rank) == 0.5 and engine.every([engine.rank] * 2) == [0, 0, 1, 1]
    leave()


if __name__ == "__main__":
    main()
