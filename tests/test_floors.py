"""The floors: imports point down, a shelf entry stands alone, and `registry` needs nothing but Python."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = [path.relative_to(ROOT).as_posix() for package in ("registry", "zoo") for path in sorted((ROOT / package).rglob("*.py"))]

# A room may import from rooms of a lower floor and from itself; `shelf` rooms from `registry`, `layers` and themselves only.
SHELVES = ("attention", "towers", "heads", "losses", "datasets")
FLOOR = {
    "registry": 0,
    "zoo.layers": 0.5,  # what several gates are made of
    **{f"zoo.{shelf}": 1 for shelf in SHELVES},
    "zoo.backbones": 2,
    "zoo.joint": 2,
    "zoo.train": 3,
    "zoo.evaluate": 3,
    "zoo.deploy": 4,
    "zoo.compress": 4.5,  # quantizing writes what runtimes read
    "zoo.report": 4.5,  # it measures speed, and reads what others have made
    "zoo.serve": 4.7,  # shows what deploy finds and what report draws; is given a run that was opened
    "zoo.build": 5,
    "zoo.cli": 6,
    "zoo.__main__": 7,
    "zoo": 7,  # zoo/__init__.py: the public names, for people
}
ANYBODY = {
    "zoo.progress",
    "zoo.files",
}  # a bar on the screen, a file written whole: they import nothing of ours, so every floor can use them

GIVEN_OBJECTS = {"zoo.train", "zoo.evaluate"}  # names become objects in zoo.build; `registry.nearest`, for messages, is anybody's

OUTSIDE = {"torch", "einops", "timm.layers"}  # what a shelf entry is made of
ALSO = {
    "zoo/attention/se.py": {"timm.models._efficientnet_blocks"},  # `se` is timm's own EfficientNet gate, key for key
    "zoo/datasets/shards.py": {"braceexpand"},  # webdataset's, for names such as train-{0..9}.tar
    "zoo/datasets/hf": {"datasets"},  # Hugging Face's, which zoo.datasets.hf reads
    "zoo/datasets/timm_data.py": {"torchvision.datasets"},  # of which timm gives some
    "zoo/datasets/forward_shards.py": {"webdataset"},
    "zoo/datasets/": {"numpy", "PIL", "matplotlib", "pyarrow", "sklearn", "timm.data"},  # pictures, tables and fonts come before tensors
    "zoo/towers/": {"tokenizers", "numpy"},  # a text tower brings its vocabulary; raw values come before tensors
    "zoo/towers/sound.py": {"scipy", "soundfile"},  # sound files come before tensors too
    "zoo/towers/spectrogram.py": {"timm"},  # a picture of a sound is for any timm network, which only timm can make
    "zoo/towers/hf.py": {"transformers", "huggingface_hub"},  # what it wraps
}


def imported(source: str, path: str) -> Iterator[str]:
    """Every module that a file names in an import, absolute, also inside functions; `from a import b` may mean the module a.b."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(module: str, known: set[str]) -> bool:
    return any(module == each or module.startswith(each + ".") for each in known)


def room(module: str) -> str:
    """zoo.attention.cbam -> zoo.attention; zoo.create_joint, a public name, -> zoo."""
    parts = module.split(".")
    if parts[0] == "registry":
        return "registry"
    inner = ".".join(parts[:2])
    return inner if inner in FLOOR or inner in ANYBODY or (ROOT / "zoo" / parts[-1]).is_dir() else "zoo"


def home(path: str) -> str:
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return "registry" if parts[0] == "registry" else ".".join(parts[:2])


def offences(source: str, path: str) -> list[str]:
    """What a file imports although its floor does not allow it."""
    here = home(path)
    if here not in FLOOR and here not in ANYBODY:
        return [f"{path} has no floor: give {here} one"]
    found = []
    shelf = here.removeprefix("zoo.") in SHELVES
    for module in imported(source, path):
        root = module.split(".")[0]
        if root in ("registry", "zoo"):
            there = room(module)
            up = FLOOR.get(there, 0) >= FLOOR.get(here, 0) or here in ANYBODY or (shelf and there not in ("registry", "zoo.layers"))
            same_floor = {here, there} == {"zoo.train", "zoo.evaluate"} and here == "zoo.train"  # training is told how to measure
            public = there == "zoo" and here == "zoo.cli"  # a command may use what a person may
            if there != here and there not in ANYBODY and up and not same_floor and not public:
                found.append(f"{path}: {here} imports {module}")
            if here in GIVEN_OBJECTS and there == "registry" and module.split(".")[-1].isupper():
                found.append(f"{path}: {here} is given objects and looks up no names: {module}")
        elif root in sys.stdlib_module_names:
            continue
        elif here == "registry":
            found.append(f"{path}: registry is standard library only: {module}")
        elif (shelf or here == "zoo.layers") and not within(
            module, OUTSIDE.union(*(more for prefix, more in ALSO.items() if path.startswith(prefix)))
        ):
            found.append(f"{path}: a shelf entry imports {module}")
    return found


@pytest.mark.parametrize("path", PARTS)
def test_imports_point_down(path):
    assert offences((ROOT / path).read_text(), path) == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("registry/table.py", "import numpy"),
        ("registry/table.py", "from zoo.attention import CBAM"),
        ("zoo/attention/x.py", "from zoo.heads.mlp import MLP"),
        ("zoo/attention/x.py", "from ..heads import MLP"),
        ("zoo/attention/x.py", "from .. import backbones"),
        ("zoo/attention/x.py", "def f():\n    import zoo"),
        ("zoo/attention/x.py", "import timm"),
        ("zoo/attention/x.py", "from timm.models import create_model"),
        ("zoo/attention/x.py", "from timm.models._efficientnet_blocks import SqueezeExcite"),
        ("zoo/attention/x.py", "import numpy as np"),
        ("zoo/losses/x.py", "import tokenizers"),
        ("zoo/layers/x.py", "from ..attention import CBAM"),
        ("zoo/layers/x.py", "import numpy"),
        ("zoo/backbones/x.py", "from ..train import fit"),
        ("zoo/backbones/x.py", "from ..joint import JointEmbedding"),
        ("zoo/joint.py", "from .build import create_joint"),
        ("zoo/train/x.py", "from registry import LOSSES"),
        ("zoo/train/x.py", "from zoo import build"),
        ("zoo/train/x.py", "from zoo import create_joint"),
        ("zoo/evaluate/x.py", "from zoo.cli import main"),
        ("zoo/evaluate/x.py", "from ..train.loop import fit"),
        ("zoo/build.py", "from .cli import main"),
        ("zoo/progress.py", "from .train import fit"),
        ("zoo/utils/x.py", ""),
    ],
)
def test_the_guard_sees(path, source):
    assert len(offences(source, path)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("registry/table.py", "import re\nfrom .other import thing"),
        (
            "zoo/attention/x.py",
            "import math\nimport torch\nfrom torch import nn\nfrom timm.layers import Mlp\nfrom registry import ATTENTION",
        ),
        ("zoo/attention/x.py", "from .cbam import CBAM"),
        ("zoo/attention/x.py", "from ..layers import BatchNorm"),
        ("zoo/datasets/x.py", "import numpy as np\nfrom PIL import Image\nfrom ..progress import bar"),
        ("zoo/backbones/x.py", "import timm\nfrom ..attention import CBAM\nfrom registry import ATTENTION"),
        ("zoo/train/x.py", "from ..joint import JointEmbedding\nfrom ..evaluate import retrieval\nimport accelerate"),
        ("zoo/build.py", "from .train import fit\nfrom registry import LOSSES"),
        ("zoo/cli/x.py", "from .. import build\nimport zoo"),
        ("zoo/__init__.py", "from .build import create_joint\nfrom .train import fit"),
    ],
)
def test_the_guard_lets_pass(path, source):
    assert offences(source, path) == []
