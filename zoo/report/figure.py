"""What networks make of a picture, drawn: one figure, two networks side by side, on one scale in each row.

A row a stage, of the last gate in it: where it looks (its multiplier, the mean over the channels, over the picture), how it weighs channels
(all of them, ranked), and what the channels that it lets through most have seen. Of a gate that adds to its input, the size of what it adds
stands in the place of the multiplier.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .explain import STRONGEST, Gate, Look, short
from .overlay import COLOURS, overlay

STAGES = 7  # rows; of a network with more, so many of them
_SMALLEST = 0.05  # of its own size: what differs by less is drawn pale, not blown up to the whole scale
_SIDE = 256  # of the picture under a heat map, at least: smooth edges
_RIGHT, _WRONG, _INK, _FAINT, _PALE, _STRONG = "#1a7f37", "#c4391d", "#24292f", "#6e7781", "#9aa4af", "#d9480f"


def _plain(text: str) -> str:
    """As it is: matplotlib takes what stands between two dollars for mathematics."""
    return text.replace("$", r"\$")


def _large(picture: Image.Image) -> Image.Image:
    factor = max(1, math.ceil(_SIDE / min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC) if factor > 1 else picture


def _rows(looks: Sequence[Look]) -> list[int | str]:
    """Which stages are drawn: all, or so many of them, the first and the last among them."""
    numbers = sorted({key for each in looks for key in each.stages() if isinstance(key, int)})
    others = list(dict.fromkeys(key for each in looks for key in each.stages() if isinstance(key, str)))
    keys: list[int | str] = [*numbers, *others]
    if len(keys) <= STAGES:
        return keys
    return [keys[round(place * (len(keys) - 1) / (STAGES - 1))] for place in range(STAGES)]


@dataclass(frozen=True)
class _Scale:
    """Of a row: the range of the heat maps and of the bars of all networks in it."""

    low: float = 0.0
    high: float = 1.0
    bottom: float = 0.0
    top: float = 1.0

    @classmethod
    def of(cls, gates: Sequence[Gate]) -> "_Scale":
        where = [value for gate in gates if gate.where is not None for value in (gate.where.min(), gate.where.max())]
        bars = [value for gate in gates if gate.channels is not None for value in (gate.channels.min(), gate.channels.max())]
        low, high = (float(min(where)), float(max(where))) if where else (0.0, 1.0)
        if (least := _SMALLEST * max(abs(low), abs(high), 1e-6)) > high - low:
            middle = (low + high) / 2
            low, high = middle - least / 2, middle + least / 2
        bottom, top = (min(0.0, float(min(bars))), max(0.0, float(max(bars)))) if bars else (0.0, 1.0)
        return cls(low, high, bottom, top if top > bottom else bottom + 1)

    def heat(self, where: np.ndarray) -> np.ndarray:
        return (where - self.low) / (self.high - self.low)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"


def _range(values: np.ndarray) -> str:
    """From the smallest to the largest, with as many digits as it takes to tell them apart."""
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if size >= 1000:
        return f"{low:.2g} to {high:.2g}"
    fewest = 2 if size < 10 else 1 if size < 100 else 0
    digits = next((each for each in range(fewest, 5) if f"{low:.{each}f}" != f"{high:.{each}f}"), fewest)
    return f"{low:.{digits}f} to {high:.{digits}f}"


_Scales = Mapping[tuple[int | str, bool], _Scale]
"""By stage, and by whether the gate adds: sizes of what is added and factors are not compared."""


def _centred(words: str, columns: int) -> list[str]:
    return [words if place == columns // 2 else "" for place in range(columns)]


class _Columns:
    """Which columns a network's block has, their widths, and their places."""

    def __init__(self, look: Look, keys: Sequence[int | str]):
        drawn = [gate for key, gate in look.stages().items() if key in keys]
        self.where = any(gate.where is not None for gate in drawn)
        self.bars = any(gate.channels is not None for gate in drawn)
        self.widths = [*([1.0] if self.where else []), *([1.35, *[1.0] * STRONGEST] if self.bars else [])]
        self.headings = [
            *(["where it looks"] if self.where else []),
            *(["channels, ranked", *_centred("what its strongest channels see", STRONGEST)] if self.bars else []),
        ]

    @property
    def inches(self) -> float:
        return max(1.25 * sum(self.widths), 4.6)


def draw(looks: Sequence[Look], title: str) -> Any:
    """A matplotlib figure of what one or several networks make of the same picture; `Figure.savefig` writes it.

    Args:
        looks: what each of them makes of it.
        title: of the figure, such as the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    keys = _rows(looks)
    columns = [_Columns(each, keys) for each in looks]
    shown = [(key, gate) for each in looks for key, gate in each.stages().items() if key in keys]
    scales = {
        (key, adds): _Scale.of([gate for at, gate in shown if at == key and gate.adds == adds]) for key in keys for adds in (True, False)
    }
    head, row, foot = 2.1, 1.3, 0.3  # inches
    widths = [each.inches + 0.85 for each in columns]
    heights = [0.3, head + row * len(keys), *([foot] if keys else [])]
    tight = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(sum(widths), sum(heights)), layout=tight, dpi=150)
    top, middle, *bottom = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    top.text(0.5, 0.4, _plain(short(title, 80)), fontsize=11, fontweight="bold", color=_INK, ha="center", va="center")
    blocks = middle.subfigures(1, len(looks), squeeze=False, width_ratios=widths, wspace=0.02)[0]
    for block, each, its in zip(blocks, looks, columns, strict=True):
        parts = block.subfigures(2, 1, height_ratios=[head, row * len(keys)]) if keys else [block]
        _draw_head(parts[0], each)
        if keys:
            _draw_stages(parts[1], each, its, keys, scales)
    if any(each.where for each in columns):
        _draw_legend(bottom[0])
    return figure


def rendered(figure: Any, kind: str = "png") -> bytes:
    """The figure as the bytes of a file: "png", "pdf", "svg", "jpg" or "webp"."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks: boxes are drawn
        figure.savefig(content, format=kind)
    return content.getvalue()


def _draw_legend(part: Any) -> None:
    """What the colours of "where it looks" mean."""
    axes = part.add_axes((0.5 - 0.09, 0.45, 0.18, 0.3))
    axes.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=COLOURS)
    axes.set_axis_off()
    for x, words, side in ((-0.04, "least", "right"), (1.04, "most of its row", "left")):
        axes.text(x, 0.5, words, fontsize=6.5, color=_FAINT, ha=side, va="center", transform=axes.transAxes)


def _draw_head(part: Any, look: Look) -> None:
    """The picture, Grad-CAM over it, and what the network says."""
    part.suptitle(_plain(f"{short(look.name, 28)} · {short(look.network, 34)}"), fontsize=9, color=_FAINT)
    large = _large(look.seen)
    shown = [("as the network sees it", large)]
    if look.cam is not None:
        shown.append(("Grad-CAM" + (f" for “{short(look.asked, 12)}”" if look.asked else ""), overlay(large, look.cam)))
    axes = part.subplots(1, len(shown) + 1, width_ratios=[*[1.0] * len(shown), 1.25])
    for each, (words, picture) in zip(axes, shown, strict=False):
        each.imshow(picture)
        each.set_title(_plain(words), fontsize=7, color=_INK, pad=3)
        each.axis("off")
    _draw_said(axes[-1], look)


def _draw_said(axes: Any, look: Look) -> None:
    said = look.said[:5]
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks([])
    if not said:
        axes.text(0.5, 0.5, _plain(_wrapped(look.note or "a joint embedding: it has no classes")), ha="center", va="center", fontsize=7.5)
        return
    right = look.true is not None and said[0][0] == look.true
    first = f"“{short(said[0][0], 12)}” {said[0][1]:.0%}"
    verdict = first if look.true is None else f"{first}, right" if right else f"wrong: it is “{short(look.true, 12)}”"
    colour = _INK if look.true is None else _RIGHT if right else _WRONG
    axes.set_title(_plain(verdict), fontsize=8, color=colour, pad=3)
    for place, (name, chance) in enumerate(said):
        mine = name == look.true
        axes.barh(place, chance, height=0.62, color=_RIGHT if mine else _PALE)
        axes.text(-0.03, place, _plain(short(name, 12)), ha="right", va="center", fontsize=7, fontweight="bold" if mine else "normal")
        axes.text(chance + 0.02, place, f"{chance:.0%}", ha="left", va="center", fontsize=6.5, color=_FAINT)
    axes.set_xlim(-0.45, 1.2)
    axes.set_ylim(4.6, -0.6)


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 30))


def _draw_stages(part: Any, look: Look, columns: _Columns, keys: Sequence[int | str], scales: _Scales) -> None:
    stages = look.stages()
    if not any(key in stages for key in keys):
        _blank(part.subplots(), "no gate in this network")
        return
    large = _large(look.seen)
    grid = part.subplots(len(keys), len(columns.widths), squeeze=False, width_ratios=columns.widths)
    for key, cells in zip(keys, grid, strict=True):
        gate = stages.get(key)
        words = f"stage {key}" if isinstance(key, int) else short(key, 14)
        if gate is None:
            for cell in cells:
                _blank(cell)
            _blank(cells[0], "no gate")
        else:
            channels, height, width = gate.shape
            words += f"\n{short(gate.name, 12)}\n{channels:,} ch\n{height} × {width}" + ("\nadds" if gate.adds else "")
            scale = scales[key, gate.adds]
            if columns.where:
                _draw_where(cells[0], gate, large, scale)
            if columns.bars:
                bars, *maps = cells[int(columns.where) :]
                _draw_bars(bars, gate, scale)
                _draw_strongest(maps, gate)
        cells[0].set_ylabel(_plain(words), rotation=0, ha="right", va="center", fontsize=7, color=_INK, labelpad=6)
        cells[0].set_xlabel(cells[0].get_xlabel() or " ", fontsize=6, color=_FAINT, labelpad=1.5)  # so that all rows are of one height
    for cell, heading in zip(grid[0], columns.headings, strict=True):
        cell.set_title(heading, fontsize=7.5, color=_INK, pad=4)


def _blank(axes: Any, words: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    if words:
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=6.5, color=_FAINT, transform=axes.transAxes)


def _draw_where(axes: Any, gate: Gate, picture: Image.Image, scale: _Scale) -> None:
    if gate.where is None or gate.where.size == 1:
        _blank(axes, "a single pixel" if gate.shape[1:] == (1, 1) else "the same\neverywhere")
    else:
        axes.imshow(overlay(picture, scale.heat(gate.where)))
        _blank(axes)
        axes.set_xlabel(_range(gate.where), fontsize=6, color=_FAINT, labelpad=1.5)


def _draw_bars(axes: Any, gate: Gate, scale: _Scale) -> None:
    if gate.channels is None:
        _blank(axes, "all channels\nalike")
        return
    order = np.argsort(-gate.channels, kind="stable")
    ranked = gate.channels[order]
    places = np.arange(len(ranked) + 1)
    axes.fill_between(places, np.append(ranked, ranked[-1]), step="post", color=_PALE, linewidth=0)
    width = max(1.0, len(ranked) / 60)  # of a thousand channels one would not be seen
    for channel, _ in gate.strongest:
        axes.bar(int(np.flatnonzero(order == channel)[0]), gate.channels[channel], width=width, align="edge", color=_STRONG, linewidth=0)
    axes.set_xlim(0, len(ranked))
    axes.set_ylim(scale.bottom, scale.top * 1.04 if scale.top > 0 else 0)
    axes.set_xticks([])
    axes.tick_params(labelsize=6, length=2, pad=1.5, colors=_FAINT)
    axes.locator_params(axis="y", nbins=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#d0d7de")
    axes.set_xlabel(_range(ranked), fontsize=6, color=_FAINT, labelpad=2.5)


def _draw_strongest(cells: Sequence[Any], gate: Gate) -> None:
    one = gate.shape[1:] == (1, 1)
    nothing = "a single pixel" if one else "all silent" if not gate.strongest and gate.channels is not None else ""
    for place, (cell, words) in enumerate(zip(cells, _centred(nothing, len(cells)), strict=True)):
        _blank(cell, words)
        if place < len(gate.strongest) and not one:
            channel, seen = gate.strongest[place]
            assert gate.channels is not None
            low, high = min(0.0, float(seen.min())), max(0.0, float(seen.max()))  # from 0: what is alike everywhere may still be much
            cell.imshow(seen, cmap="magma", interpolation="nearest", vmin=low, vmax=high)
            cell.set_xlabel(
                f"#{channel}  {'+' if gate.adds else '×'}{_number(gate.channels[channel])}", fontsize=6, color=_FAINT, labelpad=1.5
            )
