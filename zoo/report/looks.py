"""Where a network looks: what its gates multiply each place of a picture by, and Grad-CAM, laid over what the network was given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..datasets import Split
from ..train import Preprocess
from .attention_maps import attention_maps
from .overlay import overlay
from .thumbnail import thumbnail

GATES = 4  # shown of a network, from its first stages to its last
_SIDE = 144  # pixels a picture is enlarged to before a map is laid over it


@dataclass(frozen=True)
class Over:
    """A map over a picture, as a data: URI."""

    title: str
    picture: str


@dataclass(frozen=True)
class Look:
    """A picture as the network was given it, and where it looked; `told` says what the picture is."""

    told: str
    picture: str
    maps: tuple[Over, ...]


def as_picture(pixels: Tensor, preprocess: Preprocess) -> Image.Image:
    """What a network was given, `[C, H, W]`, as a picture again."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    colours = ((pixels.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    array = colours[0] if len(colours) == 1 else colours.permute(1, 2, 0)
    picture = Image.fromarray(array.numpy()).convert("RGB")
    scale = max(1, round(_SIDE / max(picture.size)))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _heat(values: Tensor) -> np.ndarray:
    """`[h, w]`, from the least to the most of the picture as 0 to 1; a few places at its edge do not decide where these lie."""
    low, high = values.flatten().quantile(torch.tensor([0.02, 0.98])).tolist()
    return ((values - low) / (high - low) if high > low else torch.zeros_like(values)).clamp(0, 1).numpy()


def spatial_maps(network: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    """(title, `[B, h, w]`) of the last gate of each stage that tells places of the picture apart; of many stages, GATES of them."""
    of_stage: dict[Any, tuple[str, Tensor]] = {}
    for path, each in attention_maps(network, x).items():
        where = each.multiplier.float().cpu()
        if min(where.shape[2:]) > 1:
            stage = path if each.stage is None else each.stage
            named = f"{each.gate}, {path if each.stage is None else f'stage {each.stage + 1}'}"
            of_stage[stage] = f"{named}, {where.shape[2]}×{where.shape[3]}", where.mean(1)
    found = list(of_stage.values())
    some = sorted({round(place) for place in np.linspace(0, len(found) - 1, min(GATES, len(found)))}) if found else []
    return [found[place] for place in some]


def looks(
    network: nn.Module,
    preprocess: Preprocess,
    split: Split,
    rows: Sequence[int],
    told: Sequence[str],
    *,
    explained: tuple[str, Callable[[Tensor], np.ndarray]] | None,
) -> tuple[list[Look], list[str]]:
    """Of a few rows where the network looked, and notes on what is left out and why.

    Args:
        network: `[B, C, H, W]` to anything; left as it is.
        told: of every row what it shows, for its caption.
        explained: what a decision rests on, its name and a function from `[B, C, H, W]` to `[B, H, W]` in 0 to 1.
    """
    transform = preprocess.transform(False)
    x = torch.stack([transform(split[row]["image"]) for row in rows]).to(next(network.parameters()).device)
    maps: list[tuple[str, Tensor]] = []
    notes: list[str] = []
    try:
        maps = spatial_maps(network, x)
        if not maps:
            notes.append("None of its gates tells places of the picture apart: they weigh channels, or see one pixel, or there are none.")
    except (ValueError, RuntimeError) as error:  # somebody else's network
        notes.append(f"Its gates cannot be shown: {error}")
    if explained is not None:
        try:
            maps.append((explained[0], torch.from_numpy(explained[1](x))))
        except (ImportError, ValueError, RuntimeError) as error:
            notes.append(f"Grad-CAM is missing: {error}")
    found = []
    for number, words in enumerate(told):
        picture = as_picture(x[number], preprocess)
        over = tuple(Over(title, thumbnail(overlay(picture, _heat(values[number])))) for title, values in maps)
        found.append(Look(words, thumbnail(picture), over))
    return (found if maps else []), notes
