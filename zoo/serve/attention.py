"""Where a classifier looks, as pictures: Grad-CAM of a class, if the extra `explain` is installed, and the last gate of each stage that
weighs places.

They are laid over the picture as the network sees it, cut as it cuts, at a size for people.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..deploy import RuntimeNetwork
from ..train import Classify
from ..train.engine import Engine
from ..train.preprocess import Preprocess

_SHOWN = 320  # pixels a side, about


@dataclass(frozen=True)
class Look:
    """One map.

    Args:
        name: "Grad-CAM", or the gate's.
        stage: of the network, from 0; None: none.
        picture: the map over the picture.
    """

    name: str
    stage: int | None
    picture: Image.Image


def look(task: Classify, engine: Engine, pixels: Tensor, picture: Image.Image, target: int) -> list[Look]:
    """The maps of one picture: none of an exported network, whose inside cannot be seen.

    Args:
        pixels: `[3, H, W]`, as the network takes them.
        picture: the same, as it came.
        target: the class that Grad-CAM asks about.
    """
    from ..report.attention_maps import attention_maps
    from ..report.grad_cam import grad_cam
    from ..report.overlay import overlay

    network = task.trainable_module
    if isinstance(network, RuntimeNetwork):
        return []
    seen = as_seen_by(task.of_pictures(), picture)
    x = engine.to_device({"image": pixels[None]})["image"]
    found = []
    with suppress(ImportError, ValueError):  # its package is an extra of its own; and it needs a network that makes maps
        found.append(Look("Grad-CAM", None, overlay(seen, grad_cam(network, x, target)[0])))
    last: dict[int, Look] = {}
    with torch.no_grad():
        maps = attention_maps(network, x)
    for each in maps.values():
        heat = each.multiplier.float().mean(1)[0].cpu().numpy()
        if each.stage is not None and heat.size > 1 and np.ptp(heat) > 1e-6:
            last[each.stage] = Look(each.gate, each.stage, overlay(seen, (heat - heat.min()) / np.ptp(heat)))
    return found + [last[stage] for stage in sorted(last)]


def as_seen_by(preprocess: Preprocess, picture: Image.Image) -> Image.Image:
    """The part of the picture that reaches the network, larger than it reaches it."""
    channels, height, width = preprocess.input_size
    scale = max(1, round(_SHOWN / max(height, width)))
    larger = replace(preprocess, input_size=(channels, scale * height, scale * width)).transform(training=False)(picture)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocess.mean, preprocess.std))
    array = ((larger * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array.squeeze(2) if channels == 1 else array).convert("RGB")
