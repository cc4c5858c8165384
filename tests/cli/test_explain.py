"""zoo explain: a picture file a picture, the same numbers as JSON, two runs side by side; what is broken is named and left out."""

import importlib.util
import json

import pytest
from PIL import Image

explains = pytest.mark.skipif(importlib.util.find_spec("pytorch_grad_cam") is None, reason="pip install 'effnet-zoo[explain]'")


def lines(said):
    return [json.loads(line) for line in said.out.splitlines()]


@pytest.fixture(scope="module")
def bare(disk, tmp_path_factory):
    """A trained run without a gate."""
    from zoo.cli.app import run

    out = tmp_path_factory.mktemp("runs") / "bare"
    small = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")
    assert run(["train", "effnet_none_test", "--data", str(disk.manifest), "--out", str(out), *small]) == 0
    return out


@explains
def test_one_picture(zoo, classifier, disk, tmp_path):
    picture, out = disk.folder / "dark" / "0.png", tmp_path / "drawn.png"
    said = zoo("explain", classifier, picture, "--out", out)
    assert said.code == 0 and "blocks.4.0.se" in said.out and "it is dark" in said.out and f"drawn in {out}" in said.out
    with Image.open(out) as drawn:
        assert min(drawn.size) > 800
    (found,) = lines(zoo("explain", classifier, picture, "--out", out, "--json"))
    assert found["file"] == str(picture) and found["picture"] == str(out)
    (run,) = found["runs"]
    assert run["network"] == "effnet_eca_test" and run["true"] == "dark" and len(run["gates"]) == 5
    assert [gate["stage"] for gate in run["gates"]] == [0, 1, 2, 3, 4]
    for gate in run["gates"]:
        assert gate["gate"] == "eca" and gate["does"] == "multiplies" and gate["min"] <= gate["mean"] <= gate["max"]
        assert len(gate["top_channels"]) == 3 and gate["top_channels"][0]["mean"] >= gate["top_channels"][1]["mean"]
    (predicted,) = lines(zoo("predict", classifier, picture, "-k", 2, "--json"))
    for ours, theirs in zip(run["classes"], predicted["classes"], strict=True):
        assert ours["class"] == theirs["class"] and ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


@explains
def test_several_pictures_and_rows_of_the_data(zoo, classifier, disk, tmp_path):
    one, other = disk.folder / "dark" / "0.png", tmp_path / "0.png"
    other.write_bytes(one.read_bytes())
    out = tmp_path / "drawn"
    found = lines(zoo("explain", classifier, one, other, "eval:3", "--out", out, "--json"))
    assert [each["file"] for each in found] == [str(one), str(other), "eval-3"]
    assert [each["picture"] for each in found] == [str(out / name) for name in ("0.png", "0-2.png", "eval-3.png")]
    assert sorted(path.name for path in out.iterdir()) == ["0-2.png", "0.png", "eval-3.png"]
    assert [each["runs"][0]["true"] for each in found] == ["dark", None, "bright"]


@explains
def test_without_out_it_goes_into_the_run(zoo, classifier, disk, tmp_path):
    import shutil

    run = shutil.copytree(classifier, tmp_path / "run")
    (found,) = lines(zoo("explain", run, disk.folder / "dark" / "0.png", "--json"))
    assert found["picture"] == str(run / "explain" / "0.png") and (run / "explain" / "0.png").is_file()
    (found,) = lines(zoo("explain", run, disk.folder / "dark" / "0.png", "--with", classifier, "--json"))
    assert found["picture"] == str(run / "explain" / "0-beside-classifier.png") and len(found["runs"]) == 2
    assert zoo("eval", run).code == 0, "still a run"


@explains
def test_a_run_without_a_gate(zoo, bare, classifier, disk, tmp_path):
    picture = disk.folder / "bright" / "1.png"
    said = zoo("explain", bare, picture, "--out", tmp_path / "a.png")
    assert said.code == 0 and "bare (effnet_none_test) has no gate: Grad-CAM alone" in said.err
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size[1] < 600
    (found,) = lines(zoo("explain", classifier, picture, "--with", bare, "--out", tmp_path / "b.png", "--json"))
    assert [len(run["gates"]) for run in found["runs"]] == [5, 0]


@explains
def test_what_is_broken_is_named_and_left_out(zoo, classifier, disk, tmp_path):
    good, bad = disk.folder / "dark" / "0.png", tmp_path / "cut.png"
    bad.write_bytes(good.read_bytes()[:60])
    said = zoo("explain", classifier, tmp_path / "gone.png", good, bad, "--out", tmp_path / "drawn", "--json")
    assert said.code == 1 and [("broken" in each) for each in lines(said)] == [True, False, True]
    assert f"{tmp_path / 'gone.png'}: no such file; left out" in said.err and [path.name for path in (tmp_path / "drawn").iterdir()] == [
        "0.png"
    ]


@explains
def test_a_joint_embedding(zoo, mistake, joint, classifier, disk, tmp_path):
    picture = disk.folder / "dark" / "0.png"
    said = zoo("explain", joint, picture, "--text", "dark picture 0", "--out", tmp_path / "a.png")
    assert said.code == 0 and "cosine with “dark picture 0”" in said.out
    (found,) = lines(zoo("explain", joint, picture, "--out", tmp_path / "a.png", "--json"))
    assert found["runs"][0]["gates"][0]["path"] == "towers.image.blocks.0.0.se"
    assert found["runs"][0]["classes"] == [] and found["runs"][0]["network"] == "effnet_eca_test" and found["runs"][0]["true"] is None
    assert zoo("explain", joint, picture, "--with", classifier, "--out", tmp_path / "b.png").code == 0
    assert "reads no text" in mistake("explain", classifier, picture, "--text", "a cat")


def test_without_the_extra(zoo, mistake, monkeypatch, classifier, bare, disk, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    picture = disk.folder / "dark" / "0.png"
    said = zoo("explain", classifier, picture, "--out", tmp_path / "a.png")
    assert said.code == 0 and "Grad-CAM is left out: it needs pip install 'effnet-zoo[explain]'" in said.err
    assert (tmp_path / "a.png").is_file()
    said = zoo("explain", bare, picture, "--out", tmp_path / "b.png")
    assert said.code == 2 and "pip install 'effnet-zoo[explain]'" in said.err and not (tmp_path / "b.png").exists()


def test_mistakes(mistake, classifier, disk, tmp_path):
    pictures = (disk.folder / "dark" / "0.png", disk.folder / "dark" / "2.png")
    assert "a file holds one picture, and 2 were given" in mistake("explain", classifier, *pictures, "--out", tmp_path / "a.png")
    assert "no such directory" in mistake("explain", tmp_path / "gone", pictures[0])
    assert "no such directory" in mistake("explain", classifier, pictures[0], "--with", tmp_path / "gone")
    assert "have 8 rows to eval, 0 to 7" in mistake("explain", classifier, "eval:8", "--out", tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    assert "no picture in this folder" in mistake("explain", classifier, tmp_path / "empty")
    assert not (tmp_path / "a.png").exists()


def test_an_exported_folder_can_not_be_looked_into(mistake, classifier, disk, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'effnet-zoo[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")
    from zoo.cli.app import run

    assert run(["export", str(classifier), "--to", "onnx", "--out", str(tmp_path / "onnx"), "--rows", "4"]) == 0
    told = mistake("explain", tmp_path / "onnx", disk.folder / "dark" / "0.png")
    assert "is an exported network (onnx)" in told and f"explain {classifier}" in told
