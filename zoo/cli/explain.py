"""zoo explain: where the gates of a trained network look in a picture, and what its decision rests on."""

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from ..build import load_run
from ..deploy.sources import open_sources
from ..files import write_whole
from ..progress import console as progress_console
from ..progress import progress
from ..report import Look, draw, look, rendered
from ..train import Align, Classify
from ..train.engine import Engine
from .app import Debug, Json, console, print_table, verb
from .eval import text_embedder

_KINDS = (".png", ".pdf", ".svg", ".jpg", ".webp")


@dataclass(frozen=True)
class _Picture:
    """One to be explained: what it is called, where it lies ("" of a row), its class if that is known; why it can not be read."""

    name: str
    file: str
    picture: Image.Image | None
    true: str | None = None
    why: str = ""


class _Asked:
    """A run, ready to be asked."""

    def __init__(self, path: Path, text: str | None, device: str):
        self.run = load_run(path)
        if self.run.runtime is not None:
            came = self.run.runtime.get("run", "the run it came from")
            raise ValueError(f"{path} is an exported network ({self.run.runtime['name']}), and nobody can look into that: explain {came}")
        self.task = self.run.task
        self.text: str | None = None
        self.engine = Engine(device)
        self.engine.place(self.task)
        self.task.eval()
        self.task.of_pictures()  # or there is nothing to look at
        self.towards = None
        self.reads_text = isinstance(self.task, Align) and "text" in self.task.columns
        if text is not None and isinstance(self.task, Align) and self.reads_text:
            self.text, self.towards = text, text_embedder(self.task, self.engine)([text])[0]

    def look(self, picture: _Picture, cam: bool) -> Look:
        assert picture.picture is not None
        true = picture.true if isinstance(self.task, Classify) and picture.true in self.task.classes else None
        network = self.task.name if isinstance(self.task, Classify) else str(self.run.settings["towers"]["image"])
        asked: dict[str, Any] = {"cam": cam, "text": self.text, "towards": self.towards, "device": self.engine.device}
        return look(self.task, picture.picture, name=self.run.path.resolve().name, network=network, true=true, **asked)


def _rows(asked: _Asked, split: str, number: int) -> _Picture:
    """A row of the data that the run was trained on."""
    rows = getattr(asked.run.open_data(), split)
    if number >= len(rows):
        raise ValueError(f"{split}:{number}: the run's data have {len(rows):,} rows to {split}, 0 to {len(rows) - 1}")
    row = rows[number]
    if "image" not in row:
        raise ValueError(f"{split}:{number}: the row has no picture")
    classes = asked.task.classes if isinstance(asked.task, Classify) else ()
    return _Picture(f"{split}-{number}", "", row["image"], classes[row["label"]] if classes and "label" in row else None)


def _pictures(asked: _Asked, sources: Sequence[str]) -> tuple[int | None, Iterator[_Picture]]:
    """How many, and the pictures; a file in a folder that is called as a class is taken for one of it."""
    counts: list[int | None] = []
    found: list[Iterator[_Picture]] = []
    for source in sources:
        row = re.fullmatch(r"(eval|train):(\d+)", source)
        if row is not None:
            counts.append(1)
            found.append(iter([_rows(asked, row[1], int(row[2]))]))
            continue
        count, seen = open_sources([source])
        counts.append(count)
        found.append(
            _Picture(
                Path(each.file).stem if each.frame is None else f"{Path(each.file).stem}-{each.frame}",
                each.file if each.frame is None else f"{each.file} #{each.frame}",
                each.picture,
                Path(each.file).resolve().parent.name,
                each.why,
            )
            for each in seen
        )
    return None if None in counts else sum(each for each in counts if each is not None), itertools.chain.from_iterable(found)


class _Places:
    """Where the figures go: RUN/explain/NAME.png, or as --out says; two pictures of one name do not share a file."""

    def __init__(self, out: Path | None, run: Path, beside: Path | None, total: int | None):
        self.file = out if out is not None and out.suffix.lower() in _KINDS and not out.is_dir() else None
        if self.file is not None and total != 1:
            raise ValueError(f"--out {out}: a file holds one picture, and {total or 'several'} were given: give a folder")
        self.folder = out or run / "explain"
        self.suffix = "" if beside is None else f"-beside-{beside.resolve().name}"
        self.taken: set[Path] = set()

    def of(self, name: str) -> Path:
        if self.file is not None:
            return self.file
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        path = next(path for each in names if (path := self.folder / f"{each}{self.suffix}.png") not in self.taken)
        self.taken.add(path)
        return path


def _print_one(looks: Sequence[Look]) -> None:
    """What each gate does to the picture."""
    for each in looks:
        rows = []
        for gate in each.gates:
            told = gate.told()
            top = ", ".join(str(channel["channel"]) for channel in told["top_channels"])
            values = [f"{told[key]:.3f}" for key in ("mean", "min", "max")]
            rows.append([gate.path, gate.name + (" (adds)" if gate.adds else ""), *values, top])
        if rows:
            print_table(f"{each.name}: what is multiplied by", ["slot", "attention", "mean", "min", "max", "strongest channels"], rows)


def _said(each: Look) -> str:
    if not each.said:
        return each.note or "an embedding"
    return f"{each.said[0][0]} ({each.said[0][1]:.0%}" + (")" if each.true is None else f"; it is {each.true})")


@verb("explain")
def explain(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    images: Annotated[list[str], typer.Argument(help="Picture files, folders of them, or rows of the run's own data, as eval:3.")],
    beside: Annotated[Path | None, typer.Option("--with", help="A second run, drawn beside it on the same scale.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"A file ({' '.join(_KINDS)}) or a folder; RUN/explain by default.")] = None,
    text: Annotated[str | None, typer.Option(help="Of a joint embedding: what Grad-CAM is to look for.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Where each attention looks, as a picture; and what the decision rests on (Grad-CAM).

    A row a stage: where its last gate looks, how it weighs the channels, and what those that it lets through most see. A file that is there
    is replaced. The exit code is 1 where a picture could not be read: it is named and left out.

    zoo explain runs/signs photo.jpg
    zoo explain runs/cbam photo.jpg --with runs/se --out both.pdf
    zoo explain runs/digits eval:0 eval:1 --json           rows of the run's own data; a line of JSON a picture
    zoo explain runs/glyphs alpha.png --text "greek small letter alpha"
    """
    asked = [_Asked(path, text, device) for path in (run, beside) if path is not None]
    if text is not None and not any(each.reads_text for each in asked):
        raise ValueError(f"--text: {run} reads no text; only a joint embedding of pictures and text does")
    cam = importlib.util.find_spec("pytorch_grad_cam") is not None
    if not cam:
        progress_console.print("Grad-CAM is left out: it needs pip install 'effnet-zoo[explain]'", highlight=False, soft_wrap=True)
    total, pictures = _pictures(asked[0], images)
    places = _Places(out, run, beside, total)
    broken = 0
    told: list[list[str]] = []
    last: list[Look] = []
    with progress(total, "explain") as advance:
        for picture in pictures:
            if picture.picture is None:
                broken += 1
                progress_console.print(f"{picture.file}: {picture.why}; left out", highlight=False, soft_wrap=True)
                if as_json:
                    print(json.dumps({"file": picture.file, "broken": picture.why}), flush=True)
                advance("")
                continue
            looks = [each.look(picture, cam) for each in asked]
            for each in looks:
                if not each.gates and not cam:
                    raise ValueError(f"{each.name} has no gate, and Grad-CAM needs pip install 'effnet-zoo[explain]': nothing to show")
                if not each.gates and not told:
                    progress_console.print(f"{each.name} ({each.network}) has no gate: Grad-CAM alone", highlight=False, soft_wrap=True)
            path = places.of(picture.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, rendered(draw(looks, Path(picture.file).name or picture.name), path.suffix[1:].lower()))
            if as_json:
                print(json.dumps({"file": picture.file or picture.name, "picture": str(path), "runs": [each.told() for each in looks]}))
            told.append([picture.file or picture.name, "; ".join(map(_said, looks)), str(path)])
            last = looks
            advance(path.name)
    if not as_json:
        if len(told) == 1:
            _print_one(last)
        for file, said, where in told:
            console.print(f"{file}: {said}; drawn in {where}", highlight=False, soft_wrap=True)
    if broken:
        raise typer.Exit(1)
