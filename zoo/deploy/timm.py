"""A network alone, as a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`, and transformers too.

A run is such a folder already; this one holds the weights and no trace of the training: no checkpoints, no other towers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import nn

from ..backbones.weights import save_model
from ..train import Preprocess

_README = """# {name}, for timm

```python
{plugin}import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{what} = model(transform(picture)[None])
```

Written by `zoo export --to timm` (effnet-zoo).
"""


def plugin_line(name: str) -> str:
    """The import that a reader of a README needs first, or nothing where timm has the network itself."""
    ours = name.startswith("effnet_") or name in ("attn_swap", "pruned")
    return f"import zoo  # effnet-zoo: without this line timm has no {name}\n" if ours else ""


def export_timm(network: nn.Module, preprocess: Preprocess, out: Path, *, classes: tuple[str, ...] | None = None) -> None:
    """Write config.json, model.safetensors and a README.md into a folder; what is in it under those names is replaced.

    Args:
        network: from `timm.create_model`; a joint embedding's image tower has no classifier and gives features.
        preprocess: pictures to tensors, as in training.
        out: the folder.
        classes: names of the classes, in order.

    Raises:
        ValueError: the network did not come from `timm.create_model`.
    """
    save_model(network, out, label_names=list(classes) if classes else None, data_config=preprocess.data_config())
    name = json.loads((out / "config.json").read_text())["architecture"]
    what = "logits" if classes else "features"
    (out / "README.md").write_text(_README.format(name=name, plugin=plugin_line(name), what=what))


@torch.no_grad()
def compare_timm(network: nn.Module, preprocess: Preprocess, folder: Path, pictures: Sequence[Image.Image]) -> float:
    """The largest difference between what the network and its export say of some pictures, as a share of the largest number said."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    ours = network.eval().cpu()(torch.stack([preprocess.transform(training=False)(picture) for picture in pictures]))
    return ((model(torch.stack([theirs(picture) for picture in pictures])) - ours).abs().max() / ours.abs().max()).item()
