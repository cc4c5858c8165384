"""What a decision rests on: Grad-CAM, by the `grad-cam` package, for classifiers and for joint embeddings.

The last map of the network, each channel weighted by the mean gradient of the decision: what of the map spoke for it. It needs no gate.
The last map that is at least 4 x 4: of a small picture the last one may be a single pixel. Of a network of tokens it is what the last
attention reads, since behind it only the class token has a gradient.

Selvaraju et al., Grad-CAM, arXiv 1610.02391.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..joint import JointEmbedding
from .attention_maps import untouched


class _Embeds(nn.Module):
    """Of a joint embedding: pixels to what the image head gives, not yet of unit length."""

    def __init__(self, joint: JointEmbedding):
        super().__init__()
        self.joint = joint

    def forward(self, x: Tensor) -> Tensor:
        return self.joint.heads["image"](self.joint.features("image", x))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient, no tower is frozen; afterwards all is as it was, gradients included."""
    held = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    joints = [(module, module.frozen) for module in model.modules() if isinstance(module, JointEmbedding)]
    try:
        for parameter, _, _ in held:
            parameter.requires_grad_(False)
        for joint, _ in joints:
            joint.frozen = frozenset()  # a frozen tower is run without gradients, and here those of its maps are wanted
        with untouched(model), torch.enable_grad():
            yield
    finally:
        for joint, frozen in joints:
            joint.frozen = frozen
        for parameter, wanted, grad in held:
            parameter.requires_grad_(wanted)
            parameter.grad = grad


def _side(y: Tensor, width: int | None) -> int:
    """Of the map that a module gives, in places; 0 where it is none."""
    if y.ndim == 4:
        return min(y.shape[1:3] if _channels_last(y, width) else y.shape[2:])
    return int(y.shape[1] ** 0.5) if y.ndim == 3 and y.shape[2] == width else 0


def _channels_last(y: Tensor, width: int | None) -> bool:
    return y.ndim == 4 and y.shape[3] == width != y.shape[1]


@torch.no_grad()
def cam_layer(model: nn.Module, x: Tensor) -> tuple[str, nn.Module]:
    """The module whose output Grad-CAM weights, and its path.

    Raises:
        ValueError: the network makes no map of x.
    """
    tower = model.joint.towers["image"] if isinstance(model, _Embeds) else model
    width = getattr(tower, "num_features", None)
    seen: list[tuple[str, nn.Module, int, bool]] = []

    def watch(path: str) -> Callable[..., None]:
        def leaving(module: nn.Module, args: Any, y: Any) -> None:
            if isinstance(y, Tensor) and _side(y, width):
                seen.append((path, module, _side(y, width), y.ndim == 3))

        return leaving

    handles = [module.register_forward_hook(watch(path)) for path, module in tower.named_modules() if path]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    for least in (4, 2, 1):
        large = [(path, module, tokens) for path, module, side, tokens in seen if side >= least]
        if large:
            path, module, tokens = large[-1]
            before = [each for each in large if each[0].rpartition(".")[2] == "norm1"] if tokens else []
            return before[-1][:2] if before else (path, module)
    raise ValueError(f"{type(tower).__name__} makes no feature map, which Grad-CAM could show")


def _as_map(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What a layer gives, as [B, C, h, w]."""
    tower: Any = model.joint.towers["image"] if isinstance(model, _Embeds) else model
    width, prefix = getattr(tower, "num_features", None), getattr(tower, "num_prefix_tokens", 0)

    def turned(y: Tensor) -> Tensor:
        if y.ndim == 3:
            y = y[:, prefix:]
            height = round((y.shape[1] * x.shape[2] / x.shape[3]) ** 0.5)
            if y.shape[1] % max(height, 1):
                raise ValueError(f"{y.shape[1]} tokens can not be laid out over a picture of {x.shape[2]} x {x.shape[3]}")
            y = y.unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        elif _channels_last(y, width):
            y = y.permute(0, 3, 1, 2)
        return y.float()  # NumPy has no bfloat16

    return turned


def grad_cam(model: nn.Module, x: Tensor, target: int | None = None, *, towards: Tensor | None = None) -> np.ndarray:
    """Where in the pictures lies what speaks for a class, or, of a joint embedding, for a text.

    The model stays as it is: weights, statistics, modes and gradients.

    Args:
        model: a classifier, [B, C, H, W] -> [B, classes]; or a joint embedding with an image tower.
        x: [B, C, H, W] as the network takes it.
        target: the class; by default, for each picture, the likeliest. Not for a joint embedding.
        towards: of a joint embedding, [D]: the embedding to be like. By default what is asked is the length of the picture's own, before
            it is made 1: where there is anything.

    Returns:
        [B, H, W] float32; 0 is nothing, and 1 the most in its picture.

    Raises:
        ImportError: the extra `explain` is not installed.
        ValueError: there is no such class, or the network makes no map.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError as error:
        raise ImportError("Grad-CAM is the grad-cam package: pip install 'effnet-zoo[explain]'") from error
    while hasattr(model, "_orig_mod"):  # what torch.compile returns
        model = model._orig_mod  # type: ignore[assignment]
    if isinstance(model, JointEmbedding):
        if target is not None:
            raise ValueError(f"target {target}: a joint embedding has no classes; give towards=, an embedding")
        model = _Embeds(model)
    elif towards is not None:
        raise ValueError("towards: expected a joint embedding, got a classifier; give target=, a class")
    with _undisturbed(model):
        _, layer = cam_layer(model, x)
        asked = x.detach().clone().requires_grad_(True)
        targets = _targets(model, x, target, towards)
        cam = GradCAM(model, [layer], _as_map(model, x))
        # as small as the map is: enlarged here, smoothly
        cam.get_target_width_height = lambda _: cam.activations_and_grads.activations[0].shape[:1:-1]
        try:
            small = torch.from_numpy(np.asarray(cam(asked, targets), dtype=np.float32))
        finally:
            cam.activations_and_grads.release()
    whole = F.interpolate(small[:, None], x.shape[2:], mode="bicubic")[:, 0].clamp(min=0)
    return (whole / whole.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def _targets(model: nn.Module, x: Tensor, target: int | None, towards: Tensor | None) -> list[Callable[[Tensor], Tensor]]:
    """For each picture, the number of its output whose gradient is asked for."""
    if isinstance(model, _Embeds):
        if towards is None:
            return [lambda output: output.float().norm()] * len(x)
        goal = towards.to(x.device, torch.float32).flatten()
        return [lambda output: torch.cosine_similarity(output.float(), goal, dim=0)] * len(x)
    with torch.no_grad():
        logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ValueError(f"Grad-CAM asks a classifier, [B, C, H, W] -> [B, classes]; {type(model).__name__} gives something else")
    if target is not None and not 0 <= target < logits.shape[1]:
        raise ValueError(f"target {target}: expected a class from 0 to {logits.shape[1] - 1}")
    wanted = logits.argmax(1).tolist() if target is None else [target] * len(x)
    return [lambda output, number=number: output[number] for number in wanted]  # type: ignore[misc]
