"""zoo serve: a trained network as a page on this machine, and as a JSON API."""

import functools
import secrets
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from ..build import Run, load_run
from ..datasets import Data, Split
from ..deploy import build_index, kept_index, model_digest
from ..serve import Classifier, Limits, Searcher
from ..train import Align, Classify
from ..train.engine import Engine
from .app import Debug, console, verb
from .search import SPLITS, known

_SHORTEST = 16  # characters of a token


def library() -> None:
    """Look whether what serves is installed, before a network is loaded."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("a run is served by FastAPI and uvicorn: pip install 'effnet-zoo[serve]'") from error


def open_served(
    path: Path, engine: Engine, *, data: str | None = None, split: str = "eval", rebuild: bool = False, workers: int = 0
) -> Classifier | Searcher:
    """A run directory or an exported folder, to be served; of a joint embedding the index is read, or made and kept."""
    digest = model_digest(path)
    opened = load_run(path)
    name = path.resolve().name
    if isinstance(opened.task, Classify):
        if data is not None:
            raise ValueError(f"--data: {path} is a classifier, and searches nothing; a joint embedding does")
        return Classifier(opened.task, engine, name)
    assert isinstance(opened.task, Align)
    return _searcher(opened, opened.task, engine, name, digest, data=data, split=split, rebuild=rebuild, workers=workers)


def _searcher(
    opened: Run, task: Align, engine: Engine, name: str, digest: str, *, data: str | None, split: str, rebuild: bool, workers: int
) -> Searcher:
    if not {"image", "text"} & set(task.columns):
        raise ValueError(f"{opened.path} embeds {', '.join(task.columns)}; zoo serve reads pictures and texts")

    @functools.cache
    def opened_data() -> Data:
        return opened.open_data(data)

    def rows(name: str) -> Split:
        return getattr(opened_data(), name)

    named = data or opened.settings.get("data") or ""
    indices = {}
    for which in ("train", "eval") if split == "all" else (split,):
        build = functools.partial(lambda which: build_index(task, rows(which), engine, workers=workers, broken=opened.broken), which)
        indices[which] = kept_index(opened.path, named, which, build, model=digest, rebuild=rebuild)
    if not any(index.embeddings for index in indices.values()):
        raise ValueError(f"{named} has no {split} rows to search; give --split or --data")
    return Searcher(task, engine, name, indices, rows, opened_data().classes)


def _token(given: str | None, *, loopback: bool) -> str | None:
    """The token that requests must know: the one given, or, where others reach the server, a new one."""
    if given is None:
        return None if loopback else secrets.token_urlsafe(24)
    if len(given) < _SHORTEST or not given.isascii() or not given.isprintable() or " " in given:
        raise ValueError(f"--token: expected at least {_SHORTEST} letters and digits, got {len(given)} characters; without it one is made")
    return given


@verb("serve")
def serve(
    run: Annotated[Path, typer.Argument(help="A run directory, or an exported folder.")],
    data: Annotated[str | None, typer.Option(help="Where a joint embedding searches; the run's own data by default.")] = None,
    split: Annotated[str, typer.Option(help="Which of its rows: eval, train or all.")] = "eval",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0: any free port.")] = 8000,
    host: Annotated[str, typer.Option(help="Which address; any but this machine's own demands a token.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(envvar="ZOO_TOKEN", help="What requests must know; made where it is needed.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests that are computed together, at most; 1: one at a time.")] = Limits.batch,
    max_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that one waits for others.")] = 1000 * Limits.wait,
    queue: Annotated[int, typer.Option(min=1, help="Requests at once, at most; more are told to come again.")] = Limits.queue,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to send a request, and to answer it.")] = Limits.timeout,
    max_upload: Annotated[float, typer.Option(min=0.001, help="Megabytes of a picture, at most.")] = Limits.upload / 1e6,
    max_pixels: Annotated[float, typer.Option(min=0.001, help="Megapixels of a picture, at most.")] = Limits.pixels / 1e6,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Embed the rows again, whether or not anything has changed.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read rows.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    debug: Debug = False,
) -> None:
    """A page on this machine where a trained network is asked, and a JSON API.

    Of a classifier: drop a picture, see its classes and where the network looks. Of a joint embedding: type a text or drop a picture, see
    what is nearest. Ctrl-C ends it. The API is described at /docs.

    zoo serve runs/digits
    zoo serve runs/glyphs --split all --port 8080
    zoo serve exported --host 0.0.0.0                     reached from elsewhere, with a token that is printed
    """
    library()
    known("--split", split, SPLITS, "which rows")
    limits = Limits(batch_size, max_wait / 1000, queue, timeout, round(max_upload * 1e6), round(max_pixels * 1e6))
    from ..serve.app import create_app
    from ..serve.guard import LOOPBACK
    from ..serve.server import address, bind, is_loopback, server

    near = is_loopback(host)
    secret = _token(token, loopback=near)
    with bind(host, port) as bound:  # before a network is loaded: a port that is taken is known at once
        served = open_served(run, Engine(device), data=data, split=split, rebuild=rebuild, workers=workers)
        application = create_app(served, limits, token=secret, hosts={*LOOPBACK, host.lower()} if near else None)
        at = f"{address(bound)}/" + (f"?token={quote(secret, safe='')}" if secret else "")
        told = functools.partial(console.print, f"{run} at {at}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        server(application, limits, told).run(sockets=[bound])
    console.print("stopped", highlight=False)
