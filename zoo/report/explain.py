"""What a trained network makes of a picture: what it says, what that rests on, and what its gates do stage by stage; figure.py draws it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..train import Align, Classify, Task
from .attention_maps import AttentionMap, attention_maps
from .grad_cam import grad_cam

STRONGEST = 3  # channels whose maps are drawn
_SILENT = 0.1  # of the mean over the channels: a channel that sees less has nothing to show


@dataclass(frozen=True, eq=False)
class Gate:
    """What a gate does to one picture, in the shapes in which it is drawn and told.

    Args:
        path, name, stage: of the gate; stage None: it stands in none.
        shape: of its input, (channels, height, width).
        adds: what follows is the size of what it adds, not what it multiplies by.
        derived: as in `AttentionMap`.
        where: [h, w], the mean over the channels; None: the same everywhere.
        channels: [C], the mean over the places; None: the same in all.
        values: mean, smallest and largest.
        strongest: the first channels by `channels`, less those that are silent in this picture, and [h, w] of what each of them got to see;
            empty where all are alike.
    """

    path: str
    name: str
    stage: int | None
    shape: tuple[int, int, int]
    adds: bool
    derived: bool
    where: np.ndarray | None
    channels: np.ndarray | None
    values: tuple[float, float, float]
    strongest: tuple[tuple[int, np.ndarray], ...]

    @classmethod
    def of(cls, path: str, found: AttentionMap, picture: int = 0) -> "Gate":
        """Of one picture of the batch that `attention_maps(..., inputs=True)` was asked about."""
        adds = found.added is not None and not found.parts
        weight = found.added if adds else found.multiplier
        assert weight is not None and found.input is not None
        weight = weight[min(picture, len(weight) - 1)].float()
        # the size of what is added: a mean would cancel
        mean = (lambda dims: weight.square().mean(dims).sqrt()) if adds else weight.mean
        where = mean(0).cpu().numpy() if weight.shape[1:] != (1, 1) else None
        channels = mean((1, 2)).cpu().numpy() if weight.shape[0] > 1 else None
        seen = found.input[picture].float().cpu().numpy()
        loud = np.sqrt((seen**2).mean((1, 2)))
        speaks = loud > _SILENT * loud.mean()
        ranked = [] if channels is None else [each for each in np.argsort(-channels, kind="stable").tolist() if speaks[each]][:STRONGEST]
        size = weight.abs() if adds else weight
        return cls(
            path=path,
            name=found.gate,
            stage=found.stage,
            shape=tuple(found.shape[1:]),  # type: ignore[arg-type]
            adds=adds,
            derived=found.derived,
            where=where if where is None else np.broadcast_to(where, found.shape[2:]),
            channels=channels,
            values=(float(size.mean()), float(size.min()), float(size.max())),
            strongest=tuple((channel, seen[channel]) for channel in ranked),
        )

    def told(self) -> dict[str, Any]:
        """For JSON."""
        mean, low, high = self.values
        top = [] if self.channels is None else [(channel, float(self.channels[channel])) for channel, _ in self.strongest]
        return {
            "path": self.path,
            "gate": self.name,
            "stage": self.stage,
            "channels": self.shape[0],
            "map": list(self.shape[1:]),
            "does": "adds" if self.adds else "multiplies",
            **({"derived": True} if self.derived else {}),
            "mean": mean,
            "min": low,
            "max": high,
            "top_channels": [{"channel": channel, "mean": value} for channel, value in top],
        }


@dataclass(frozen=True, eq=False)
class Look:
    """What one network makes of one picture.

    Args:
        name: what to call it, such as the run.
        network: its name.
        seen: the picture as the network is given it.
        said: classes and their probabilities, the likeliest first; empty of a joint embedding.
        true: the class, where it is known.
        gates: in the order of the network.
        cam: [H, W] in 0..1, Grad-CAM; None: left out.
        asked: the class or the text that Grad-CAM was asked about; "" is the embedding as a whole.
        note: one more line, such as how near a text is.
    """

    name: str
    network: str
    seen: Image.Image
    said: tuple[tuple[str, float], ...] = ()
    true: str | None = None
    gates: tuple[Gate, ...] = ()
    cam: np.ndarray | None = None
    asked: str = ""
    note: str = ""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        said = [{"class": name, "probability": value} for name, value in self.said]
        return {
            "run": self.name,
            "network": self.network,
            "classes": said,
            "true": self.true,
            "gates": [each.told() for each in self.gates],
        }

    def stages(self) -> dict[int | str, Gate]:
        """The last gate of each stage; one that stands in none is called by its path."""
        return {each.path if each.stage is None else each.stage: each for each in self.gates}


def _as_seen(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """The tensor that a network takes, [C, H, W], as a picture again."""
    values = x.cpu() * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")


def look(
    task: Task,
    picture: Image.Image,
    *,
    name: str,
    network: str,
    true: str | None = None,
    cam: bool = True,
    text: str | None = None,
    towards: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Look:
    """Ask a trained network about a picture.

    Args:
        task: what was trained, in eval mode and on the device.
        picture: as it was read.
        name, network: as in `Look`.
        true: the class, where it is known.
        cam: with Grad-CAM.
        text, towards: of a joint embedding, a text and its embedding [D], which Grad-CAM is asked about; without them, about the length of
            the picture's own embedding.

    Raises:
        ImportError: `cam`, and the extra `explain` is not installed.
        ValueError: the task reads no pictures, or the network's answer is NaN.
    """
    preprocess = task.of_pictures()
    x = preprocess.transform(training=False)(picture)[None].to(device)
    known: dict[str, Any] = {"name": name, "network": network, "true": true, "seen": _as_seen(x[0], preprocess.mean, preprocess.std)}
    if isinstance(task, Classify):
        model: Any = task.trainable_module
        with torch.no_grad():
            logits = model(x)[0].double().cpu()
        if not logits.isfinite().all():
            raise ValueError(f"{name} answers this picture with numbers that are none; nothing can be drawn of them")
        chances = logits.sigmoid() if task.multi_label else logits.softmax(0)
        order = chances.argsort(descending=True).tolist()
        said = tuple((task.classes[index], float(chances[index])) for index in order)
        heat = grad_cam(model, x, order[0])[0] if cam else None
        known |= {"said": said, "cam": heat, "asked": said[0][0]}
    else:
        assert isinstance(task, Align)
        model = task.joint
        heat = grad_cam(model, x, towards=towards)[0] if cam else None
        known |= {"cam": heat, "asked": text or ""}
        if towards is not None:
            with torch.no_grad():
                cosine = float(model({"image": x})["image"][0].double().cpu() @ towards.double().cpu().flatten())
            known["note"] = f"cosine with “{short(text or '', 60)}”: {cosine:.3f}"
    found = attention_maps(model, x, inputs=True)
    return Look(gates=tuple(Gate.of(path, each) for path, each in found.items()), **known)


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
