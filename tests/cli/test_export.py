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


@pytest.mark.parametrize("which", ["classifier", "joint"])
def test_for_a_runtime(zoo, request, which, tmp_path):
    run, out = request.getfixturevalue(which), tmp_path / "out"
    said = zoo("export", run, "--to", "torchscript", "--out", out, "--rows", 5, "--json")
    parts = ["model.ts"] if which == "classifier" else ["image.ts", "text.ts", "tokenizer.text.json"]
    assert said.code == 0 and files(out) == sorted(["README.md", "config.json", *parts]) and not said.json["notes"]
    checked = said.json["checked"]
    assert checked["rows"] == 5 and max(checked["difference"].values()) <= 1e-4 < checked["tolerance"]
    config, ours = (json.loads((folder / "config.json").read_text()) for folder in (out, run))
    assert config["zoo"] == ours["zoo"] and config["runtime"]["checked"] == checked and config["runtime"]["run"] == str(run)
    metric = "top1" if which == "classifier" else "R@1"
    assert zoo("eval", out, "--json").json[metric] == zoo("eval", run, "--json").json[metric]
    assert f"take {run} instead" in zoo("export", out, "--to", "timm", "--out", tmp_path / "again").err
    if which == "joint":
        assert len(zoo("search", out, "dark picture", "-k", 2, "--rebuild", "--json").json["results"]) == 2
    assert zoo("export", run, "--to", "torchscript", "--out", out, "--overwrite").code == 0 and "index" not in files(out)


def test_the_readme_of_a_runtimes_folder_is_true(zoo, classifier, disk, tmp_path):
    out = tmp_path / "out"
    said = zoo("export", classifier, "--to", "torch-export", "--out", out)
    assert "checked with torch 2." in said.out and " on 8 rows, largest difference: image " in said.out
    text = (out / "README.md").read_text()
    code = text.split("```")[1].removeprefix("python").replace("THIS_FOLDER", str(out))
    code = code.replace('model("', 'said = model("').replace("photo.jpg", str(disk.folder / "dark" / "0.png"))
    found: dict = {}
    exec(code, found)
    assert set(found["said"]) == {"dark", "bright"}
    assert "`model.pt2` reads any batch x 3 x 32 x 32 float32" in text


def test_a_runtimes_export_that_differs_is_refused_and_kept_aside(mistake, zoo, classifier, tmp_path, monkeypatch):
    from zoo.deploy.runtimes import torchscript

    out = tmp_path / "out"
    open_as_it_is = torchscript.open
    monkeypatch.setattr(torchscript, "open", lambda *args, **more: lambda x: open_as_it_is(*args, **more)(x) * 1.01)
    told = mistake("export", classifier, "--to", "torchscript", "--out", out)
    assert f"{out} was not written: its outputs differ from PyTorch's (image by " in told and f"it is kept in {out}-refused" in told
    assert not out.exists() and not list(tmp_path.glob(".writing*")) and "model.ts" in files(tmp_path / "out-refused")
    assert "this export was refused: its outputs differ" in mistake("eval", tmp_path / "out-refused")
    mistake("export", classifier, "--to", "torchscript", "--out", out)  # a second one replaces the first
    monkeypatch.undo()
    assert zoo("export", classifier, "--to", "torchscript", "--out", out).code == 0


def test_size_of_a_runtimes_file(zoo, mistake, classifier, tmp_path):
    out = tmp_path / "out"
    assert zoo("export", classifier, "--to", "torch-export", "--out", out, "--img-size", 40, "--rows", 2).code == 0
    assert json.loads((out / "config.json").read_text())["runtime"]["preprocess"]["image"]["input_size"] == [3, 40, 40]
    assert zoo("eval", out, "--json").code == 0
    assert zoo("export", classifier, "--to", "torch-export", "--out", tmp_path / "any", "--any-size", "--rows", 2).code == 0
    assert "pictures in the run's size" in mistake("export", classifier, "--to", "timm", "--out", tmp_path / "x", "--img-size", 40)
    assert "one size of pictures" in mistake("export", classifier, "--to", "executorch", "--out", tmp_path / "x", "--any-size")
    assert not (tmp_path / "x").exists()


def test_a_runtime_that_is_not_installed(mistake, classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'effnet-zoo[openvino]'" in mistake("export", classifier, "--to", "openvino", "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())
