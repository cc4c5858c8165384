"""zoo eval: what a run is worth; and what is said of a run that is not whole."""

import json
import shutil

import pytest
from PIL import Image


@pytest.fixture
def damaged(classifier, tmp_path):
    """A copy of a run, to be broken."""
    return shutil.copytree(classifier, tmp_path / "damaged")


def test_a_classifier_as_json(zoo, classifier):
    said = zoo("eval", classifier, "--json")
    assert said.code == 0 and not said.err
    assert said.json["rows"] == 8 and said.json["run"] == str(classifier)
    confusion = said.json["confusion"]
    assert said.json["top1"] == pytest.approx(100 * (confusion[0][0] + confusion[1][1]) / 8)
    assert sum(map(sum, confusion)) == 8


def test_it_measures_what_training_measured(zoo, classifier, joint):
    for run, metric in ((classifier, "top1"), (joint, "R@1")):
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert zoo("eval", run, "--json", "--batch-size", "3").json[metric] == last[metric]


def test_a_joint_embedding_as_json(zoo, joint, disk):
    said = zoo("eval", joint, "--json")
    assert said.code == 0 and said.json["data"] == str(disk.manifest)
    for way in ("image->text", "text->image"):
        assert said.json[way]["queries"] == 8 and said.json[way]["R@10"] == 100
        assert said.json[way]["chance"]["R@1"] == pytest.approx(12.5)


def test_tables(zoo, classifier, joint):
    said = zoo("eval", classifier)
    assert said.code == 0 and "top1" in said.out and "dark" in said.out and "predicted" in said.out
    said = zoo("eval", joint)
    assert said.code == 0 and "R@10" in said.out and "chance" in said.out and "text->image" in said.out


def test_other_data_of_the_same_classes(zoo, classifier, disk):
    said = zoo("eval", classifier, "--data", disk.folder, "--json")
    assert said.code == 0 and said.json["data"] == str(disk.folder) and said.json["rows"] != 8


def test_other_classes(mistake, classifier, tmp_path):
    for name in ("cat", "dog", "eel"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16)).save(tmp_path / "animals" / name / f"{number}.png")
    told = mistake("eval", classifier, "--data", tmp_path / "animals")
    assert "other classes" in told and "2 (bright, dark)" in told and "3 (cat, dog, eel)" in told


def test_data_without_labels(mistake, classifier, disk, tmp_path):
    manifest = tmp_path / "captions.csv"
    manifest.write_text(f"image,caption,split\n{disk.folder}/dark/0.png,a dark picture,eval\n")
    assert "also needs label" in mistake("eval", classifier, "--data", manifest)


def test_no_rows_to_evaluate_on(mistake, classifier, disk, tmp_path):
    manifest = tmp_path / "train.csv"
    manifest.write_text(f"image,label,split\n{disk.folder}/dark/0.png,dark,train\n{disk.folder}/bright/1.png,bright,train\n")
    assert "the eval split has no rows" in mistake("eval", classifier, "--data", manifest)


def test_data_that_is_gone(mistake, damaged):
    config = json.loads((damaged / "config.json").read_text())
    config["zoo"]["data"] = "/gone/manifest.csv"
    (damaged / "config.json").write_text(json.dumps(config))
    assert "/gone/manifest.csv: no such manifest" in mistake("eval", damaged)
    del config["zoo"]["data"]
    (damaged / "config.json").write_text(json.dumps(config))
    assert "give --data" in mistake("eval", damaged)


def test_no_such_directory(mistake, tmp_path):
    assert "nowhere: no such directory" in mistake("eval", tmp_path / "nowhere")


def test_a_directory_that_is_no_run(mistake, tmp_path):
    assert "is not a run" in mistake("eval", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')  # somebody else's model
    assert "is not a run" in mistake("eval", tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"zoo": 3}', '{"zoo": {}}', '{"zoo": {"task": "classify"}}', "\udcff"])
def test_a_damaged_config(mistake, damaged, content):
    (damaged / "config.json").write_text(content, errors="surrogateescape")
    assert str(damaged) in mistake("eval", damaged)


@pytest.mark.parametrize("file, kept", [("model.safetensors", 0), ("model.safetensors", 1000), ("model.safetensors", None)])
def test_damaged_weights(mistake, damaged, file, kept):
    if kept is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes((damaged / file).read_bytes()[:kept])
    assert f"{damaged}: the run does not load" in mistake("eval", damaged)


def test_weights_of_another_network(mistake, zoo, damaged, disk, tmp_path):
    other = tmp_path / "other"
    small = ("--img-size", "32", "--epochs", "1")
    assert zoo("train", "effnet_none_test", "--data", disk.manifest, "--out", other, *small).code == 0
    shutil.copy(other / "model.safetensors", damaged)
    assert f"{damaged}: the run does not load" in mistake("eval", damaged)


@pytest.mark.parametrize("file", ["joint.safetensors", "tokenizer.text.json", "model.safetensors"])
def test_a_joint_embedding_with_a_file_missing(mistake, joint, tmp_path, file):
    copy = shutil.copytree(joint, tmp_path / "copy")
    (copy / file).unlink()
    assert f"{copy}: the run does not load" in mistake("eval", copy)


def test_another_tokenizer(mistake, joint, tmp_path):
    copy = shutil.copytree(joint, tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.text.json").read_text())
    tokenizer["added_tokens"][0]["lstrip"] = not tokenizer["added_tokens"][0]["lstrip"]
    (copy / "tokenizer.text.json").write_text(json.dumps(tokenizer))
    assert "tokenizer.text.json is not the one" in mistake("eval", copy)
    (copy / "tokenizer.text.json").write_text("{")
    assert "not a tokenizer's JSON" in mistake("eval", copy)


def test_an_unknown_device(mistake, classifier):
    assert "device: expected one of auto, cpu, cuda, got 'toaster'" in mistake("eval", classifier, "--device", "toaster")
