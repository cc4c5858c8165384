"""Two runs, small and not worth anything, trained once; each served in this process, by a real uvicorn, or by `zoo serve`."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from zoo.cli.app import run
from zoo.cli.serve import open_served
from zoo.serve import Limits
from zoo.serve.app import create_app
from zoo.serve.server import address, bind, server
from zoo.train.engine import Engine

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Thirty-two pictures, half of them dark and half of them bright, each with a caption of its own; eight to be found."""
    root = tmp_path_factory.mktemp("served")
    lines = ["image,label,caption,split"]
    for index in range(32):
        label = ("dark", "bright")[index % 2]
        noise = np.random.default_rng(index).integers(0, 60, (16, 16, 3))
        Image.fromarray((noise + (index % 2) * 180).astype(np.uint8)).save(root / f"{index}.png")
        lines.append(f"{index}.png,{label},{label} picture {index},{'eval' if index >= 24 else 'train'}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root / "manifest.csv"


@pytest.fixture(scope="session")
def classifier_run(manifest, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "classifier"
    assert run(["train", "effnet_cbam_test", "--data", str(manifest), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="session")
def joint_run(manifest, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "joint"
    assert run(["train", "image=effnet_cbam_test", "text=bag", "--data", str(manifest), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="session")
def classifier(classifier_run):
    return open_served(classifier_run, Engine("cpu"))


@pytest.fixture(scope="session")
def joint(joint_run):
    return open_served(joint_run, Engine("cpu"))


@dataclass
class Server:
    """A uvicorn in a thread."""

    url: str
    client: httpx.Client
    app: Any

    def alive(self) -> bool:
        return self.client.get("/health").json() == {"live": True, "ready": True, "why": None}


@contextmanager
def running(served: Any, limits: Limits | None = None, **more: Any) -> Iterator[Server]:
    limits = limits or Limits()
    app = create_app(served, limits, **more)
    bound, started = bind("127.0.0.1", 0), threading.Event()
    uvicorn = server(app, limits, started.set)
    thread = threading.Thread(target=uvicorn.run, args=([bound],))
    thread.start()
    try:
        assert started.wait(20)
        url = address(bound)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Server(url, client, app)
    finally:
        uvicorn.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def classifying(classifier) -> Iterator[Server]:
    with running(classifier, Limits(upload=300_000, pixels=1_000_000)) as server:
        yield server


@pytest.fixture(scope="session")
def searching(joint) -> Iterator[Server]:
    with running(joint, Limits(upload=300_000, pixels=1_000_000)) as server:
        yield server


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded("JPEG", (40, 30)): a picture's bytes."""

    def make(kind: str = "PNG", size: tuple[int, int] = (16, 16), colour: int = 200, **options: Any) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, (colour, colour, colour)).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
