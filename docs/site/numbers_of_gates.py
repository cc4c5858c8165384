"""A gate's numbers, out of docs/results/*.json and out of the networks themselves: nothing is typed here."""

import functools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from registry import ATTENTION
from zoo.cli.list import measure_attention

RESULTS = Path(__file__).resolve().parents[1] / "results"


@functools.cache
def _results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@functools.cache
def size(gate: str) -> dict[str, Any]:
    """Parameters and multiplications of all the gates of an EfficientNet-B0, counted in the network."""
    return measure_attention(gate)


def learned(gate: str, whose: str = "zoo") -> list[float]:
    """Top-1 in percent of each seed; [] where timm's version was not trained."""
    return [value for key, value in sorted(_results("gates").items()) if key.startswith(f"{whose} {gate} ")]


def _cost(gate: str, batch_size: int) -> dict[str, Any]:
    return next(row for row in _results("attention_speed")["gates"] if row["gate"] == gate and row["batch_size"] == batch_size)


def _in_another_form(gate: str) -> bool:
    """Whether what was timed (the gate without arguments) is not what the networks have by default."""
    return len(ATTENTION[gate](64).state_dict()) != len(ATTENTION[gate](64, calm=True).state_dict())


def _ratio(cost: dict[str, Any] | None) -> str:
    return f"{cost['median']:.2f} ({cost['low']:.2f}-{cost['high']:.2f})" if cost else ""


def section(gate: str) -> str:
    """Markdown: what the gate costs in EfficientNet-B0, how long it takes beside timm's, and how it learns."""
    if gate == "none":
        return "## Numbers\n\n" + _accuracy(gate)
    known = size(gate)
    lines = [
        "## Numbers",
        "",
        f"All gates of an EfficientNet-B0 at 224 pixels together have {known['parameters']:,} parameters"
        f" and {known['macs'] / 1e6:,.1f} million multiplications.",
        "",
        "Their time for one thread of a CPU, in copies of their input ([what that is](../results/attention_speed.md)):",
        "",
        "| batch | forward | with backward | timm's forward | timm's with backward | ratio | ratio with backward |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch_size in (1, 16):
        row = _cost(gate, batch_size)
        timm = row["timm"]
        theirs = [f"{timm['forward']:.1f}", f"{timm['train']:.1f}", _ratio(row["forward"]), _ratio(row["train"])] if timm else [""] * 4
        lines.append("| " + " | ".join([str(batch_size), f"{row['ours']['forward']:.1f}", f"{row['ours']['train']:.1f}", *theirs]) + " |")
    known_of = _results("attention_speed")
    notes = [] if _cost(gate, 1)["timm"] else ["timm has no gate to compare it with."]
    if _cost(gate, 1)["note"]:
        notes.append(f"Timed on {_cost(gate, 1)['note']}.")
    if _in_another_form(gate):
        notes.append("Timed as it is without arguments, which is not the form that the networks have by default.")
    notes.append(
        f"{known_of['cpu']}, {known_of['rounds']} rounds, torch {known_of['versions']['torch']}, timm {known_of['versions']['timm']}."
    )
    return "\n".join([*lines, "", " ".join(notes), "", _accuracy(gate)])


def _accuracy(gate: str) -> str:
    ours, timm = learned(gate), learned(gate, "timm")
    said = f"`effnet_{gate}_b0` from scratch on handwritten digits: top-1 {_seeds(ours)} in percent"
    said += f"; timm's network with its version of the gate {_seeds(timm)}" if timm else ""
    return f"{said}. [The same run for every gate](../results/gates.md) says what this number can tell and what not.\n"


def _seeds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} (median of {', '.join(f'{value:.1f}' for value in values)})"


def table(pages: str = "", uses: bool = True) -> str:
    """Markdown: every gate in a line.

    Args:
        pages: where the gates' pages are, such as "docs/attention/".
        uses: whether a line also says when to use the gate.
    """
    columns = ["gate", "weighs", "parameters", "M MACs", "forward", "with backward", "digits, top-1", *(["use it"] if uses else [])]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for gate in sorted(ATTENTION):
        known = size(gate)
        note = "\\*" if gate != "none" and (_cost(gate, 1)["note"] or _in_another_form(gate)) else ""
        times = ["", ""] if gate == "none" else [f"{_cost(gate, 1)['ours'][what]:.1f}{note}" for what in ("forward", "train")]
        page = (RESULTS.parent / "attention" / f"{gate}.md").read_text(encoding="utf-8")
        use = page.partition("**Use it** ")[2].partition("\n")[0].rstrip(".")
        cells = [f"[{gate}]({pages}{gate}.md)", known["attends"], f"{known['parameters']:,}", f"{known['macs'] / 1e6:,.1f}", *times]
        lines.append("| " + " | ".join([*cells, f"{statistics.median(learned(gate)):.1f}", *([use] if uses else [])]) + " |")
    return "\n".join(lines)


BEGIN, END = "<!-- gates: written by `python docs/site/numbers_of_gates.py README.md` -->\n", "<!-- /gates -->\n"


def with_table(text: str) -> str:
    """A page whose table between the two marks is as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table('docs/attention/', uses=False)}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
