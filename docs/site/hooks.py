"""What becomes of the pages beyond Markdown: data-flow pictures, a gate's numbers, the arguments of a class, the picture of the house.

A page of a shelf is written by hand and finished here. Where a page wants one of them stands `<!-- table of gates -->` (or of towers,
heads, losses), `<!-- picture of the house -->`, or `<!-- picture of cbam -->`, a gate's. A line of the nav that ends in / is every page of
that folder, the index first; without pages the line goes.
"""

import html
import re
from pathlib import Path
from typing import Any

import house
import numbers_of_gates
import torch
from flow import CHANNELS, Flow, sample
from flow_picture import picture

import zoo  # noqa: F401  (fills the registry)
from registry import ATTENTION, HEADS, LOSSES, TOWERS

DOCS = Path(__file__).resolve().parents[1]
FLOW = re.compile(r"^```flow *(.*?)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SHELVES = {"attention": ATTENTION, "heads": HEADS, "losses": LOSSES, "towers": TOWERS}


def on_config(config: Any) -> Any:
    config["nav"] = _unfolded(config["nav"])
    return config


def _unfolded(nav: list[Any]) -> list[Any]:
    found: list[Any] = []
    for item in nav:
        ((title, target),) = item.items() if isinstance(item, dict) else [(None, item)]
        if isinstance(target, list):
            found.append({title: _unfolded(target)})
        elif target.endswith("/"):
            pages = sorted((DOCS / target).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
            if pages:
                paths = [page.relative_to(DOCS).as_posix() for page in pages]
                short = target.rstrip("/") in SHELVES  # an entry's page is called by its name
                found.append({title: [{Path(path).stem: path} if short and not path.endswith("index.md") else path for path in paths]})
        else:
            found.append(item)
    return found


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder in SHELVES and name in SHELVES[folder]:
        markdown = finished(markdown, folder, name)
        page.meta.setdefault("hide", ["toc"])
    if folder in SHELVES and name == "index":
        page.meta.setdefault("hide", ["toc"])
    return re.sub(r"<!-- (table|picture) of (.*?) -->", lambda wanted: _generated(wanted[1], wanted[2]), markdown)


def _generated(kind: str, what: str) -> str:
    """What stands for `<!-- table of gates -->` and the like."""
    if kind == "picture":
        return house.picture() if what == "the house" else _pictures(what)
    return numbers_of_gates.table() if what == "gates" else _table(what)


def _pictures(gate: str) -> str:
    page = (DOCS / "attention" / f"{gate}.md").read_text(encoding="utf-8")
    return "\n".join(_picture(gate, arguments, lines) for arguments, lines in FLOW.findall(page))


def _table(shelf: str) -> str:
    """Name, what it is, and when to use it, of every page of a shelf, as the page says it."""
    lines = ["| name | what it is | use it |", "|---|---|---|"]
    for name in sorted(SHELVES[shelf]):
        text = (DOCS / shelf / f"{name}.md").read_text(encoding="utf-8")
        title = text.partition("\n")[0].partition(": ")[2]
        use = re.search(r"\*\*Use it\*\* (.*)", text)
        lines.append(f"| [{name}]({name}.md) | {title} | {use[1].rstrip('.') if use else ''} |")
    return "\n".join(lines)


def finished(markdown: str, folder: str, name: str) -> str:
    """A page of a shelf, with its pictures, numbers and arguments."""
    if folder == "attention":
        markdown = FLOW.sub(lambda block: _picture(name, block[1], block[2]), markdown)
        markdown += "\n" + numbers_of_gates.section(name)
    entry = SHELVES[folder][name]
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return f"{markdown}\n## From Python\n\n::: {entry.__module__}.{entry.__qualname__}\n{options}"


def _picture(name: str, arguments: str, lines: str) -> str:
    """The picture of a flow, and its lines below it for whoever wants them."""
    gate = ATTENTION[name](CHANNELS, **eval(f"dict({arguments})"))
    x = sample(gate)
    with torch.no_grad():
        drawn = picture(Flow(lines, gate, x), f"The data flow of {name}: {'; '.join(lines.strip().splitlines())}")
    code = html.escape(lines.strip())
    return (
        f'<div class="flow-frame" tabindex="0">{drawn}</div>\n\n'
        '<details markdown="0"><summary>The same as lines</summary>'
        f"<pre><code>{code}</code></pre><p>A test runs them, and gets the gate's own output.</p></details>\n"
    )
