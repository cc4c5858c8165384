"""Whatever the pages show of code is true.

A ```python block runs, after those before it on its page, in one session in an empty folder. So do the `zoo` lines of a ```console block,
with a small network, small data and one epoch in place of what they say (SMALLER). Other blocks are not run; every line in them that calls
`zoo` must be one that the command line understands.

What a page takes for granted, or a check of what came out, stands beside the block as `<!-- hidden` ... `-->`, Python that a reader does
not see. A block that cannot be run carries `<!-- not run: the reason -->`; a page whose blocks take long, `<!-- long: the reason -->`, and
`make test-long` runs it.
"""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer
from PIL import Image

from registry import DATASETS
from zoo.cli.app import app, run
from zoo.datasets import Data
from zoo.datasets.digits import digits

ROOT = Path(__file__).parents[2]
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "clients" not in page.parts]  # those are files that tests/clients runs

SMALLER = [
    (r"\b(effnet_[a-z0-9]+)_(b\d|lite\d)\b", r"\1_test"),
    (r"\btext=transformer\b", "text=transformer:width=32,depth=1,heads=2"),
    (r"--data glyphs\b(?!:)", "--data glyphs:characters=12"),
    (r"(--epochs|--finetune-epochs|--qat-epochs|--steps) \d+", r"\1 1"),
]
ALSO = {
    "train": {"--epochs": "1", "--img-size": "32", "--batch-size": "8"},
    "prune": {"--steps": "1", "--finetune-epochs": "1"},
    "bench": {"--rounds": "1", "--runtime": "onnx"},
}


def photos(folder: str) -> None:
    """Sixteen cats, bright, and sixteen dogs, dark: FOLDER/cat/1.png, FOLDER/dog/2.png, ... For pages, in what is hidden."""
    for number in range(1, 33):
        kind = "cat" if number % 2 else "dog"
        file = Path(folder, kind, f"{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 60, (24, 32, 3))
        Image.fromarray((noise + (number % 2) * 180).astype(np.uint8)).save(file)


def table(file: str, columns: str, lines: list[str]) -> None:
    """A .csv of these lines; for pages, in what is hidden."""
    Path(file).write_text("\n".join([columns, *lines]) + "\n")


def few_digits() -> Data:
    """Every tenth of the digits, under their name."""
    whole = digits()
    return replace(whole, train=whole.train.take(range(0, len(whole.train), 10)), eval=whole.eval.take(range(0, len(whole.eval), 10)))


class Block(NamedTuple):
    """`kind` is the language after the fence, or "hidden"."""

    kind: str
    text: str
    line: int
    reason: str


def blocks(text: str) -> list[Block]:
    found = []
    fence = r"^(?:<!-- not run: (?P<reason>.*?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$"
    hidden = r"^<!-- hidden\n(?P<hidden>.*?)^-->$"
    for match in re.finditer(f"{hidden}|{fence}", text, flags=re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start("hidden" if match["hidden"] is not None else "text")) + 1
        if match["hidden"] is not None:
            found.append(Block("hidden", match["hidden"], line, ""))
        else:
            found.append(Block(match["kind"], match["text"], line, match["reason"] or ""))
    return found


def commands(text: str) -> list[str]:
    """The `zoo` command lines of a block: continued lines put together, prompts and what is said behind two blanks left out."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = []
    for line in joined.splitlines():
        called = re.match(r"\s*(?:\$ )?(?:(?:srun )?(?:torchrun|accelerate)\b.* -m )?(zoo .*)", line)
        if called:
            found.append(re.split(r"\s{2,}|\s#", called[1].strip())[0])
    return found


def smaller(command: str) -> list[str]:
    for pattern, instead in SMALLER:
        command = re.sub(pattern, instead, command)
    arguments = shlex.split(command)[1:]
    for option, value in ALSO.get(arguments[0], {}).items():
        if option not in arguments:
            arguments += [option, value]
    return arguments


def fault(command: str) -> str:
    """What the command line says against a command, without running it; "" if nothing. With `...` in it only names are looked at."""
    given = [word for word in shlex.split(command.replace("[", "").replace("]", ""))[1:] if not word.startswith("$")]
    partial = "..." in given or "[" in command
    level = typer.main.get_command(app)
    context, words = level.make_context("zoo", [], resilient_parsing=True), [word for word in given if word != "..."]
    while hasattr(level, "commands"):
        verb = words[0] if words else ""
        if verb not in level.commands and "networks" in level.commands:  # `zoo bench NAME` is `zoo bench networks NAME`
            verb, words = "networks", ["networks", *words]
        if verb not in level.commands:
            return f"no command {verb!r}"
        level, words = level.commands[verb], words[1:]
    if partial:
        known = {option for parameter in level.params for option in parameter.opts}
        return ", ".join(f"no option {word}" for word in words if re.match(r"--?[a-z]", word) and word not in known)
    try:
        level.make_context("zoo", list(words), parent=context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


RUN = [page for page in PAGES if any(block.kind in ("python", "console") for block in blocks(page.read_text(encoding="utf-8")))]


def name(page: Path) -> str:
    return page.relative_to(ROOT / "docs").with_suffix("").as_posix()


def told(page: Path):
    """The page as a test's argument: marked as long where it says so itself."""
    long = "<!-- long: " in page.read_text(encoding="utf-8")
    return pytest.param(page, id=name(page), marks=[pytest.mark.long] if long else [])


@pytest.mark.parametrize("page", [told(page) for page in RUN])
def test_the_blocks_run_in_order(page, tmp_path, monkeypatch, forget_names, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS._things, "digits", few_digits)
    session = {"__name__": "page", "photos": photos, "table": table}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.reason:
            continue
        if block.kind in ("python", "hidden"):
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), session)
        elif block.kind == "console":
            for command in commands(block.text):
                code = run(smaller(command))
                assert code == 0, f"{page}, line {block.line}: {shlex.join(smaller(command))}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_every_command_line_is_understood(page):
    text = page.read_text(encoding="utf-8")
    indented = "\n".join(re.findall(r"^ {4}(?:(?:zoo|torchrun) (?:.*\\\n)*.*)", text, flags=re.MULTILINE))
    whole = [command for block in blocks(text) if block.kind != "python" for command in commands(block.text)] + commands(indented)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spoken = [f"{span} ..." for span in re.findall(r"`(zoo [a-z]+ [^`]*)`", prose.replace("\n", " "))]
    faults = {command: fault(command) for command in whole + spoken}
    assert {command: said for command, said in faults.items() if said} == {}


def test_what_is_not_run_says_why():
    """And is little: the pages are for code that works."""
    skipped = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8")) if block.reason]
    assert len(skipped) <= 6, skipped
    assert all(block.kind in ("python", "console") and len(block.reason) > 15 for block in skipped)


def test_the_parser_sees():
    page = "<!-- hidden\nx = 1\n-->\n```python\ny = x\n```\n\n"
    page += "<!-- not run: it needs eight GPUs -->\n```console\n$ zoo train a \\\n  --data b  # c\n```\n"
    assert [(block.kind, block.line, block.reason) for block in blocks(page)] == [
        ("hidden", 2, ""),
        ("python", 5, ""),
        ("console", 10, "it needs eight GPUs"),
    ]
    assert commands(blocks(page)[2].text) == ["zoo train a --data b"]
    assert commands("torchrun --nproc_per_node 8 -m zoo train a    eight of them\nzoo list        every name") == [
        "zoo train a",
        "zoo list",
    ]
    assert smaller("zoo train effnet_cbam_b0 --data digits --epochs 5")[1:5] == ["effnet_cbam_test", "--data", "digits", "--epochs"]


@pytest.mark.parametrize(
    "command",
    [
        "zoo trian effnet_cbam_b0 --data digits",
        "zoo train effnet_cbam_b0 --data digits --epoch 5",
        "zoo train effnet_cbam_b0 --data digits --epochs five",
        "zoo train ... --resumed",
        "zoo prune runs/x --macs 0.5",  # --out is missing
        "zoo data chek photos",
    ],
)
def test_a_wrong_command_is_found(command):
    assert fault(command)


def test_a_wrong_block_is_found(tmp_path, monkeypatch, forget_names, capsys):
    page = tmp_path / "page.md"
    for text in ("```python\n1 / 0\n```\n", "```console\nzoo show no_such_network\n```\n"):
        page.write_text(text)
        with pytest.raises((ZeroDivisionError, AssertionError)):
            test_the_blocks_run_in_order(page, tmp_path, monkeypatch, forget_names, capsys)
