"""zoo export: a run for open_clip and for timm, checked on its own rows; nothing is lost, and what cannot go is named."""

import json
import sys

import pytest
import timm
import torch

from zoo.build import load_run
from zoo.cli import export as verb
from zoo.cli import export_library
from zoo.cli.app import run as command
from zoo.deploy import Difference

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")
OPEN_CLIP = ["README.md", "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"]
TIMM = ["README.md", "config.json", "model.safetensors"]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def pair(disk, tmp_path_factory):
    """A trained run that open_clip can express; not to be written into."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    towers = ("image=effnet_eca_test", "text=clip_text")
    assert command(["train", *towers, "--data", str(disk.manifest), "--out", str(out), *SMALL]) == 0
    return out


def test_for_open_clip(zoo, pair, tmp_path):
    out = tmp_path / "new" / "exported"
    said = zoo("export", pair, "--to", "open_clip", "--out", out, "--rows", 4, "--json")
    assert said.code == 0 and files(out) == OPEN_CLIP and said.json["folder"] == str(out) and said.json["unchecked"] is None
    found = said.json["checked"]
    assert found["rows"] == 4 and max(found["same_pixels"], found["text"]) <= 1e-5 and found["texts"] == 0
    (note,) = said.json["notes"]  # this network was made for pictures whose rim is cut off
    assert "keeps the middle 0.95 of the resized picture" in note and found["pixels"] > 0.01
    assert not list(out.parent.glob(".writing*"))
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert config["timm_model_name"] == "effnet_eca_test" and config["timm_drop_path"] == 0.05


def test_it_says_what_it_checked(zoo, pair, tmp_path):
    said = zoo("export", pair, "--to", "open_clip", "--out", tmp_path / "out")
    first, note, last = said.out.splitlines()
    assert first.endswith("out is for open_clip; its README.md says how to load it") and "keeps the middle" in note
    assert last.startswith("checked with open_clip 3.") and " on 8 rows, largest difference: pictures " in last
    assert "; open_clip prepares pictures otherwise: of the same pixels " in last and "other tokens" not in last


@pytest.mark.parametrize("which", ["classifier", "joint"])
def test_for_timm(zoo, request, which, tmp_path):
    run, out = request.getfixturevalue(which), tmp_path / "out"
    said = zoo("export", run, "--to", "timm", "--out", out, "--json")
    assert said.code == 0 and files(out) == TIMM and said.json["checked"]["image"] <= 1e-5
    config = json.loads((out / "config.json").read_text())
    assert "zoo" not in config and config["num_classes"] == (2 if which == "classifier" else 0)
    assert config.get("label_names") == (["bright", "dark"] if which == "classifier" else None)
    one, other = (timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict() for folder in (run, out))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    code = (out / "README.md").read_text().split("```")[1]
    assert "import zoo" in code and ("logits =" in code) == (which == "classifier")


def test_an_export_is_replaced_when_asked_and_nothing_else_ever(zoo, mistake, pair, tmp_path):
    out = tmp_path / "out"
    assert zoo("export", pair, "--to", "open_clip", "--out", out).code == 0
    assert "already holds an export; replace it (--overwrite)" in mistake("export", pair, "--to", "timm", "--out", out)
    assert zoo("export", pair, "--to", "timm", "--out", out, "--overwrite").code == 0 and files(out) == TIMM
    (out / "thesis.txt").write_text("mine")
    assert "holds other things than an export" in mistake("export", pair, "--to", "timm", "--out", out, "--overwrite")
    before = {path: path.read_bytes() for path in pair.iterdir() if path.is_file()}
    assert "holds other things" in mistake("export", pair, "--to", "timm", "--out", pair, "--overwrite")
    assert before == {path: path.read_bytes() for path in pair.iterdir() if path.is_file()}
    (tmp_path / "file").write_text("mine")
    assert "holds other things" in mistake("export", pair, "--to", "timm", "--out", tmp_path / "file")


def test_what_cannot_go_is_named_and_nothing_is_written(mistake, classifier, joint, tmp_path):
    out = tmp_path / "out"
    assert "is a classifier, and open_clip joins pictures and texts" in mistake("export", classifier, "--to", "open_clip", "--out", out)
    assert "got text: Bag. Train image=... text=clip_text" in mistake("export", joint, "--to", "open_clip", "--out", out)
    assert (
        "to: expected onnx, openvino, executorch, torch-export, torchscript, timm or open_clip, got 'openclip'; did you mean 'open_clip'"
        in mistake("export", joint, "--to", "openclip", "--out", out)
    )
    assert "no such directory" in mistake("export", tmp_path / "nothing", "--to", "timm", "--out", out)
    assert not out.exists() and not list(tmp_path.iterdir())


def test_unchecked_without_open_clip_or_without_the_rows(zoo, mistake, pair, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "open_clip", None)
        said = zoo("export", pair, "--to", "open_clip", "--out", tmp_path / "one", "--json")
        assert said.code == 0 and said.json["checked"] is None and "effnet-zoo[open_clip]" in said.json["unchecked"]
    lost = load_run(pair)
    lost.settings["data"] = str(tmp_path / "moved.csv")
    monkeypatch.setattr(verb, "load_run", lambda path: lost)
    said = zoo("export", pair, "--to", "open_clip", "--out", tmp_path / "two", "--json")
    assert said.code == 0 and "moved.csv" in said.json["unchecked"] and files(tmp_path / "two") == OPEN_CLIP
    assert "gone.csv" in mistake("export", pair, "--to", "open_clip", "--out", tmp_path / "three", "--data", tmp_path / "gone.csv")
    assert not (tmp_path / "three").exists()


def test_an_export_that_says_something_else_is_a_defect(zoo, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(export_library, "compare_open_clip", lambda *_: Difference(0.0, 0.0, 0.0, 0.01, 0.0, 0))
    said = zoo("export", pair, "--to", "open_clip", "--out", tmp_path / "out")
    assert said.code == 1 and "says something else" in said.err
