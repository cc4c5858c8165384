"""Where a network looks: what its gates multiply each place of a picture by, and Grad-CAM, laid over what the network was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..datasets import Split
from ..train import Preprocess
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
    """`[h, w]`, from the least to the most of the picture as 0 to 1."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else torch.zeros_like(values)).numpy()


def spatial_maps(network: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    """(title, `[B, h, w]`) of the last gate of each stage that tells places of the picture apart; of many stages, GATES of them."""
    from .attention_maps import attention_maps

    of_stage: dict[Any, tuple[str, Tensor]] = {}
    for path, each in attention_maps(network, x).items():
        where = each.parts.get("spatial", each.multiplier).float().cpu()
        if where.ndim == 4 and min(where.shape[2:]) > 1:
            stage = path if each.stage is None else each.stage
            named = f"{each.gate}, {path if each.stage is None else f'stage {each.stage + 1}'}"
            of_stage[stage] = f"{named}, {where.shape[2]}×{where.shape[3]}", where.mean(1)
    found = list(of_stage.values())
    some = sorted({round(place) for place in np.linspace(0, len(found) - 1, min(GATES, len(found)))}) if found else []
    return [found[place] for place in some]


def looks(
    network: nn.Module, preprocess: Preprocess, split: Split, rows: Sequence[int], told: Sequence[str], *, classifier: bool
) -> tuple[list[Look], list[str]]:
    """Of a few rows where the network looked, and notes on what is left out and why.

    Args:
        network: `[B, C, H, W]` to anything; left as it is.
        told: of every row what it shows, for its caption.
        classifier: its outputs are classes, so that Grad-CAM has one to explain: the likeliest.
    """
    transform, device = preprocess.transform(False), next(network.parameters()).device
    x = torch.stack([transform(split[row]["image"]) for row in rows]).to(device)
    was_training = network.training
    network.eval()
    maps: list[tuple[str, Tensor]] = []
    notes: list[str] = []
    try:
        from .overlay import overlay

        maps = spatial_maps(network, x)
        if not maps:
            notes.append("Its gates choose channels or nothing at all, or its maps are one pixel: none of them tells places apart.")
        if classifier:
            from .grad_cam import grad_cam

            maps.append(("Grad-CAM", torch.from_numpy(np.asarray(grad_cam(network, x))).float()))
    except ImportError as error:
        notes.append(f"No Grad-CAM: {error}.")
    except (ValueError, RuntimeError) as error:  # a network without a map to explain
        notes.append(f"No further maps: {error}.")
    finally:
        network.train(was_training)
    found = []
    for number, words in enumerate(told):
        picture = as_picture(x[number], preprocess)
        over = tuple(Over(title, thumbnail(overlay(picture, _heat(values[number])))) for title, values in maps)
        found.append(Look(words, thumbnail(picture), over))
    return (found if maps else []), notes
