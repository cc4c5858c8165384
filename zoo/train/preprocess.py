"""Pictures to tensors, for training and for evaluation, by timm's transforms and the numbers that the model was made for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm.data
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

AUGMENTS = ("none", "shift", "draw", "crop", "rand")


@dataclass(frozen=True)
class Preprocess:
    """What becomes of a picture before it reaches the network.

    Args:
        input_size: (channels, height, width); one channel reads grey, three RGB.
        mean, std: of the channels, as the weights expect them.
        interpolation: of the resize.
        crop_pct: share of the resized picture that the evaluation keeps.
        crop_mode: timm's: "center" cuts, "squash" resizes to the very shape.
        augment: "none"; "shift" by a sixteenth, for pictures of which the mirror image is another thing; "draw", for drawings by other
            hands: size, place, turn, colours, blur, on white, not mirrored; "crop" and mirror, for photos; "rand", the same with
            RandAugment and erasing.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    augment: str = "crop"

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTS:
            raise ValueError(f"augment: expected one of {', '.join(AUGMENTS)}, got {self.augment!r}")
        if self.input_size[0] not in (1, 3):
            raise ValueError(f"pictures have 1 channel (grey) or 3 (RGB), the model wants {self.input_size[0]}")

    @classmethod
    def of(cls, model: nn.Module, *, img_size: int | None = None, augment: str = "crop") -> "Preprocess":
        """What this model's weights were made for, at another size if one is given."""
        config = timm.data.resolve_model_data_config(model)
        channels, *size = config["input_size"]  # as the weights were trained; the network may have been given another stem
        channels = getattr(model, "in_chans", channels)
        if img_size is not None:
            if img_size < 8:
                raise ValueError(f"img_size: expected at least 8 pixels, got {img_size}")
            size = [img_size, img_size]
        whole = augment in ("shift", "draw")  # drawn or cropped already: nothing to cut off
        return cls(
            input_size=(channels, *size),
            mean=_of_channels(config["mean"], channels),
            std=_of_channels(config["std"], channels),
            interpolation="bilinear" if whole else config["interpolation"],
            crop_pct=1.0 if whole else config["crop_pct"],
            crop_mode="squash" if whole else config["crop_mode"],
            augment=augment,
        )

    def data_config(self) -> dict[str, Any]:
        """For timm: the part that describes the evaluation."""
        return {key: value for key, value in asdict(self).items() if key != "augment"}

    def transform(self, training: bool) -> Callable[[Image.Image], torch.Tensor]:
        """PIL picture -> [C, H, W] float32."""
        mode = "L" if self.input_size[0] == 1 else "RGB"
        if not training or self.augment == "none":
            steps = timm.data.create_transform(**self.data_config())
        elif self.augment == "shift":
            height, width = self.input_size[1:]
            resize = transforms.InterpolationMode(self.interpolation)
            steps = transforms.Compose(
                [
                    transforms.Resize((height, width), resize),
                    transforms.RandomCrop((height, width), padding=(max(1, width // 16), max(1, height // 16)), padding_mode="edge"),
                    transforms.ToTensor(),
                    transforms.Normalize(self.mean, self.std),
                ]
            )
        elif self.augment == "draw":
            steps = transforms.Compose(
                [
                    transforms.Resize(self.input_size[1:], transforms.InterpolationMode(self.interpolation)),
                    transforms.RandomAffine(15, (0.1, 0.1), (0.75, 1.1), 8, transforms.InterpolationMode.BILINEAR, fill=255),
                    transforms.ColorJitter(0.4, 0.4, 0.4, 0.05) if mode == "RGB" else transforms.ColorJitter(0.4, 0.4),
                    transforms.RandomApply([transforms.GaussianBlur(3, (0.1, 1.5))], 0.3),
                    transforms.ToTensor(),
                    transforms.Normalize(self.mean, self.std),
                ]
            )
        else:
            strong: dict[str, Any] = (
                {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"} if self.augment == "rand" else {}
            )
            colour = {"color_jitter": 0.4 if mode == "RGB" and not strong else None}
            shape: dict[str, Any] = {
                **colour,
                "input_size": self.input_size,
                "mean": self.mean,
                "std": self.std,
                "interpolation": self.interpolation,
            }
            steps = timm.data.create_transform(**shape, is_training=True, scale=(0.35, 1.0), **strong)
        return _Convert(mode, steps)


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The three numbers of RGB, or their mean for grey: normalising one channel by three would make it three."""
    return tuple(values) if channels == len(values) else (sum(values) / len(values),)


class _Convert:
    """A picture in another mode first; a class, so that it travels to workers."""

    def __init__(self, mode: str, steps: Callable[[Image.Image], torch.Tensor]):
        self.mode, self.steps = mode, steps

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return self.steps(picture if picture.mode == self.mode else picture.convert(self.mode))
