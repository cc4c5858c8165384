"""A joint embedding as a folder that open_clip loads: `open_clip.create_model_and_transforms("local-dir:FOLDER")`, the same embeddings.

open_clip builds both towers from a JSON: the pictures' by its timm name, the text's as its own transformer. What these cannot say is
refused here, with what can be said instead; what they say differently (the crop of a picture, the cleaning of a text) is told.
docs/decisions/open-clip.md says what was tried.

open_clip 3.3: Ilharco et al., OpenCLIP, 2021, doi 10.5281/zenodo.5143773.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ..backbones.swapped import origin
from ..heads import MLP, Linear
from ..joint import JointEmbedding
from ..towers import ClipText, Tokenizer
from ..train import Preprocess
from .timm import plugin_line

_README = """# {name} and its text tower, for open_clip

```python
{plugin}import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:THIS_FOLDER")
model.eval()  # open_clip gives it in training mode, in which batch norms read the batch
images = model.encode_image(preprocess(picture)[None], normalize=True)
texts = model.encode_text(tokenizer(["what it shows"]), normalize=True)
```

{notes}
Written by `zoo export --to open_clip` (effnet-zoo).
"""
_CLEANING = (
    "open_clip repairs a text before it is read (curly quotes, HTML entities, wide letters), and the run did not; "
    "`tokenizer.clean_fn = str` leaves texts as they are, as in the run"
)


def _names(tower: Any) -> list[str]:
    """Names under which timm may build this network: the one it came from, and where all gates were swapped for another, that one's."""
    name, args = origin(tower)
    if name is None:
        raise ValueError(f"image: a {type(tower).__name__} that is not from timm.create_model has no name for open_clip to build it by")
    if "pruned" in (name, tower.pretrained_cfg["architecture"]):
        raise ValueError("image: a pruned network has no name for open_clip to build it by; export the run before it was pruned")
    kinds = {each["attention"] for each in args["slots"].values()}
    family, _, rest = name.partition("_")
    return [name] if len(kinds) != 1 or family != "effnet" else [name, f"effnet_{kinds.pop()}_{rest.partition('_')[2]}"]


@torch.no_grad()
def _is(tower: Any, name: str, pixels: Tensor) -> bool:
    """Whether the network that open_clip builds by this name is this one: its weights, and what it says."""
    if not timm.is_model(name.partition(".")[0]):
        return False
    theirs: Any = timm.create_model(name)
    theirs.reset_classifier(0)
    state = tower.state_dict()
    if {key: value.shape for key, value in theirs.state_dict().items()} != {key: value.shape for key, value in state.items()}:
        return False
    theirs.load_state_dict(state)
    ours = tower(pixels)
    return torch.allclose(theirs.to(pixels.device).eval()(pixels), ours, rtol=1e-4, atol=1e-5 * ours.abs().max().item())


def _name(tower: Any, preprocess: Preprocess) -> str:
    pixels = torch.randn(1, *preprocess.input_size, generator=torch.Generator().manual_seed(0)).to(next(tower.parameters()).device)
    names = _names(tower)
    for name in names:
        if _is(tower, name, pixels):
            return name
    _, args = origin(tower)
    own = {**args, **args["base_args"]}
    told = {key: value for key, value in own.items() if value and key not in ("base", "base_args", "slots", "num_classes")}
    made = "other gates in some places" if args["slots"] else told
    raise ValueError(
        f"image: open_clip builds a network by its name alone, and {names[0]} is another than this one, which has {made}; "
        "train one that its name describes"
    )


def _size(preprocess: Preprocess) -> int | list[int]:
    _, height, width = preprocess.input_size
    return height if height == width else [height, width]


def _vision(joint: JointEmbedding, preprocess: Preprocess, drop_path: float | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tower, head = joint.towers["image"], joint.heads["image"]
    if preprocess.input_size[0] != 3:
        raise ValueError(f"image: open_clip reads RGB pictures, the run reads {preprocess.input_size[0]} channel")
    config = {
        "timm_model_name": _name(tower, preprocess),
        "timm_pool": "",  # the network's own, which is the one that was trained
        "timm_proj": "linear",
        "timm_drop_path": drop_path or None,
        "image_size": _size(preprocess),
    }
    state = {f"visual.trunk.{key}": value for key, value in tower.state_dict().items()}
    if isinstance(head, Linear):
        state["visual.head.proj.weight"] = head.proj.weight
    elif isinstance(head, MLP):
        config["timm_proj"] = "mlp"
        first = head.mlp.fc1.weight
        state |= {"visual.head.mlp.fc1.weight": first, "visual.head.mlp.fc1.bias": first.new_zeros(len(first))}  # open_clip's has one
        state["visual.head.mlp.fc2.weight"] = head.mlp.fc2.weight
    else:
        raise ValueError(f"image: head {type(head).__name__} is not for open_clip; expected linear or mlp")
    return config, state


def text_modality(joint: JointEmbedding) -> str:
    """The one whose tower open_clip can express.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [name for name, tower in joint.towers.items() if isinstance(tower, ClipText)]
    if len(found) == 1:
        return found[0]
    towers = ", ".join(f"{name}: {type(tower).__name__}" for name, tower in joint.towers.items() if name != "image")
    raise ValueError(
        f"open_clip's text tower reads a text at its end token, each token seeing those before it; expected one tower that does, "
        f"got {towers}. Train image=... text=clip_text"
    )


def _text(tower: ClipText, head: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not isinstance(head, Linear):
        raise ValueError(
            f"text: open_clip's text tower ends in one linear map, and the head is {type(head).__name__}; train with --head linear"
        )
    config = {
        "context_length": tower.max_length,
        "vocab_size": tower.tokenizer.vocab_size,
        "width": tower.num_features,
        "heads": tower.config["heads"],
        "layers": tower.config["depth"],
        "norm_kwargs": {"eps": tower.norm.eps},
        "pool_type": "eos",
        "eos_id": tower.tokenizer.end,
        "hf_tokenizer_name": ".",  # whatever it says, of a local-dir open_clip takes the tokenizer that lies in it
    }
    state = {
        "token_embedding.weight": tower.tokens.weight,
        "positional_embedding": tower.positions,
        "ln_final.weight": tower.norm.weight,
        "ln_final.bias": tower.norm.bias,
        "text_projection": head.proj.weight.T,
    }
    names = {
        "norm1": "ln_1",
        "attention.qkv.": "attn.in_proj_",
        "attention.proj": "attn.out_proj",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for key, value in tower.blocks.state_dict().items():
        number, _, rest = key.partition(".")
        ours = next(each for each in names if rest.startswith(each))
        state[f"transformer.resblocks.{number}.{names[ours]}{rest.removeprefix(ours)}"] = value
    return config, state


def _pictures(preprocess: Preprocess) -> tuple[dict[str, Any], str | None]:
    """open_clip's preprocessing, and in what it differs from the run's."""
    config = {
        "size": _size(preprocess),
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": {"squash": "squash", "border": "longest"}.get(preprocess.crop_mode, "shortest"),
        "fill_color": [round(255 * each) for each in preprocess.mean],
    }
    told = []
    if preprocess.interpolation not in ("bicubic", "bilinear"):
        config["interpolation"] = "bicubic"
        told.append(f"resizes bicubic where the run does {preprocess.interpolation}")
    if preprocess.crop_pct != 1:
        told.append(f"cuts nothing off where the run keeps the middle {preprocess.crop_pct:g} of the resized picture")
    if not told:
        return config, None
    exact = {key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.data_config().items()}
    return config, f"open_clip's preprocess {' and '.join(told)}; the run's own is `timm.data.create_transform(**{exact})`"


def _write_tokenizer(tokenizer: Tokenizer, out: Path, length: int) -> None:
    if tokenizer.is_bytes:
        raise ValueError(
            "text: it was read byte by byte, for which open_clip has no tokenizer; train with captions to learn a vocabulary from"
        )
    (out / "tokenizer.json").write_text(tokenizer.to_json())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "model_max_length": length,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # "<pad>" in a caption is five characters
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def export_open_clip(joint: JointEmbedding, preprocess: Preprocess, out: Path, *, drop_path: float | None = None) -> list[str]:
    """Write open_clip_config.json, open_clip_model.safetensors, the tokenizer's two files and a README.md into a folder.

    The joint embedding is in evaluation mode afterwards.

    Args:
        joint: with an image tower from timm and a `clip_text`; towers of other modalities stay behind.
        preprocess: pictures to tensors, as in training.
        out: the folder; what is in it under those names is replaced.
        drop_path: stochastic depth of the image tower, for who trains on.

    Returns:
        What is not the same over there, a sentence each, beside the cleaning of texts, of which the README.md tells.

    Raises:
        ValueError: a tower, head or preprocessing that open_clip cannot express; what it can is named.
    """
    if "image" not in joint.towers:
        raise ValueError(f"open_clip joins pictures and texts; this run joins {', '.join(joint.modalities)}")
    joint.eval()
    text = text_modality(joint)
    tower: Any = joint.towers[text]
    vision_config, state = _vision(joint, preprocess, drop_path)
    text_config, text_state = _text(tower, joint.heads[text])
    preprocess_config, difference = _pictures(preprocess)

    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(tower.tokenizer, out, tower.max_length)
    model_config: dict[str, Any] = {"embed_dim": joint.embed_dim, "vision_cfg": vision_config, "text_cfg": text_config}
    pair = next((number for number, names in enumerate(joint.pairs) if set(names) == {"image", text}), None)
    if pair is None:
        raise ValueError(f"this run never joined image and {text}; its pairs are {', '.join('-'.join(names) for names in joint.pairs)}")
    scale = torch.zeros(()) if joint.logit_scale is None else joint.logit_scale[pair]  # a loss without one compares plain cosines
    state = {**state, **text_state, "logit_scale": scale}
    if joint.logit_bias is not None:
        model_config["init_logit_bias"] = joint.logit_bias[pair].item()
        state["logit_bias"] = joint.logit_bias[pair]
    whole = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}  # a clone: none may share its memory
    safetensors.torch.save_file(whole, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess_config}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")

    rest = [name for name in joint.modalities if name not in ("image", text)]
    left = [f"left out: {', '.join(rest)}; open_clip joins pictures and texts"] if rest else []
    notes = [*left, *([difference] if difference else [])]
    name = vision_config["timm_model_name"]
    (out / "README.md").write_text(
        _README.format(name=name, plugin=plugin_line(name), notes="".join(f"- {note}.\n" for note in [*notes, _CLEANING]))
    )
    return notes


@dataclass(frozen=True)
class Difference:
    """Largest differences between the embeddings of a run and of its export, of unit length both.

    Args:
        image, text: through open_clip's own preprocess and tokenizer, as a user would call them.
        same_pixels, same_ids: given what the run's own preprocessing makes.
        pixels: between the two preprocessings.
        texts: how many texts became other token ids.
    """

    image: float
    text: float
    same_pixels: float
    same_ids: float
    pixels: float
    texts: int


def _library() -> ModuleType:
    try:
        import open_clip
        import transformers  # noqa: F401  (open_clip reads the tokenizer with it)
    except ImportError as error:
        raise ImportError("the check of an export needs open_clip: pip install 'effnet-zoo[open_clip]'") from error
    return open_clip


@torch.no_grad()
def compare_open_clip(
    joint: JointEmbedding, preprocess: Preprocess, folder: Path, pictures: Sequence[Image.Image], texts: Sequence[str]
) -> Difference:
    """Load the folder with open_clip and embed pictures and texts both ways, on the CPU.

    Raises:
        ImportError: open_clip or transformers is not installed.
    """
    library = _library()
    model, _, theirs = library.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = library.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    joint.eval().cpu()
    text = text_modality(joint)
    tower: Any = joint.towers[text]
    transform = preprocess.transform(training=False)
    pixels, their_pixels = (torch.stack([each(picture) for picture in pictures]) for each in (transform, theirs))
    their_ids = tokenizer(list(texts))
    ids = nn.functional.pad(short := tower.prepare(list(texts)), (0, their_ids.shape[1] - short.shape[1]))
    ours = joint({"image": pixels, text: ids})

    def apart(one: Tensor, other: Tensor) -> float:
        return (one - other).abs().max().item()

    return Difference(
        image=apart(ours["image"], model.encode_image(their_pixels, normalize=True)),
        text=apart(ours[text], model.encode_text(their_ids, normalize=True)),
        same_pixels=apart(ours["image"], model.encode_image(pixels, normalize=True)),
        same_ids=apart(ours[text], model.encode_text(ids, normalize=True)),
        pixels=apart(pixels, their_pixels),
        texts=int((ids != their_ids).any(1).sum()),
    )
