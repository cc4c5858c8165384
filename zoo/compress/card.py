"""The card of a network that was made from another: what it costs and what it is worth, before and after, as card.json and card.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones.macs import count_macs
from ..files import write_together

_UNITS = {"parameters": (1e6, "M"), "macs": (1e6, "M"), "bytes": (1e6, "MB")}


def costs(model: nn.Module, size: tuple[int, int, int], file: Path) -> dict[str, int]:
    """Parameters, multiplications for one picture [C, H, W], and bytes of the file it is in, if it is in one."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "macs": count_macs(model, size), **({"bytes": file.stat().st_size} if file.is_file() else {})}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    scale, unit = _UNITS.get(key, (1, ""))
    return f"{value / scale:,.2f} {unit}".rstrip() if isinstance(value, int | float) else str(value)


def write_card(
    out: Path,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    made: Mapping[str, Any],
    names: tuple[str, str] = ("before", "after"),
    title: str | None = None,
) -> dict[str, Any]:
    """Write card.json and card.md into a directory.

    Args:
        out: the directory of the new network.
        before, after: name of a number -> number, measured on the same data; whatever the verb has measured.
        made: how it was made, as JSON: "verb", "from", ...
        names: what the two networks are called.
        title: of the page; the directory's name by default.

    Returns:
        What stands in card.json.
    """
    card = {"made": dict(made), names[0]: dict(before), names[1]: dict(after)}
    rows = [f"| {key} | {_shown(key, before.get(key))} | {_shown(key, after.get(key))} |" for key in {**before, **after}]
    how = "\n".join(f"- {key}: {value}" for key, value in made.items())
    text = f"# {title or out.name}\n\n{how}\n\n| | {names[0]} | {names[1]} |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    write_together(out, {"card.json": (json.dumps(card, indent=2) + "\n").encode(), "card.md": text.encode()})
    return card
