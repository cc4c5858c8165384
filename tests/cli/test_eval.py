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


def test_retrieval_shows_map_and_the_median_rank(zoo, joint):
    found = zoo("eval", joint, "--json").json
    assert 0 < found["image->text"]["mAP"] <= 100 and found["image->text"]["chance"]["mAP"] == pytest.approx(33.97, abs=0.01)
    said = zoo("eval", joint).out
    assert "mAP" in said and "median rank" in said and f"{found['image->text']['mAP']:.1f}" in said


def test_zero_shot(zoo, joint, disk, tmp_path):
    said = zoo("eval", joint, "--zero-shot", "--json")
    assert said.code == 0, said
    assert said.json["measured"] == "zero-shot" and said.json["rows"] == 8 and said.json["data"] == str(disk.manifest)
    assert 0 <= said.json["top1"] <= 100 and said.json["chance"]["top1"] == 50 and "{}" in said.json["templates"]
    templates = tmp_path / "templates.txt"
    templates.write_text("{} picture\n")
    said = zoo("eval", joint, "--zero-shot", "--templates", templates, "--data", disk.folder, "--json", "--batch-size", "3")
    assert said.json["templates"] == ["{} picture"] and said.json["data"] == str(disk.folder)
    table = zoo("eval", joint, "--zero-shot")
    assert (
        table.code == 0
        and "mean_class_recall" in table.out
        and "chance" in table.out
        and "zero-shot, 8 pictures" in " ".join(table.out.split())
    )


def test_zero_shot_of_a_trained_embedding(zoo, disk, tmp_path):
    """What its captions taught it: the class is in their words."""
    out = tmp_path / "longer"
    trained = ("--img-size", "32", "--batch-size", "8", "--epochs", "12", "--lr", "3e-3")
    assert zoo("train", "image=effnet_eca_test", "text=bag", "--data", disk.manifest, "--out", out, *trained).code == 0
    templates = tmp_path / "templates.txt"
    templates.write_text("{} picture\n")
    found = zoo("eval", out, "--zero-shot", "--templates", templates, "--json").json
    assert found["top1"] == 100


@pytest.mark.parametrize("run", ["joint", "classifier"])
def test_linear_probe(zoo, run, disk, request):
    said = zoo("eval", request.getfixturevalue(run), "--linear-probe", "--json")
    assert said.code == 0, said
    assert said.json["measured"] == "linear-probe" and said.json["train_rows"] == 24 and said.json["rows"] == 8
    assert said.json["top1"] == 100 and said.json["strength"] > 0, "dark and bright pictures, also to a network that was hardly trained"
    table = zoo("eval", request.getfixturevalue(run), "--linear-probe", "--data", disk.folder)
    assert table.code == 0 and "held_out_top1" in table.out and "linear probe, 3 pictures" in " ".join(table.out.split())


def test_linear_probe_of_other_classes(zoo, classifier, tmp_path):
    """A classifier's features may be probed for any classes: its own are not asked."""
    for number, name in enumerate(("cat", "dog", "eel")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for picture in range(8):
            Image.new("RGB", (16, 16), (number * 100, picture, 200 - number * 100)).save(tmp_path / "animals" / name / f"{picture}.png")
    said = zoo("eval", classifier, "--linear-probe", "--data", tmp_path / "animals", "--json")
    assert said.code == 0 and said.json["top1"] == 100, said


def test_the_features_are_those_before_the_classifier(classifier):
    """They times the classifier's weights are the logits."""
    import torch

    from zoo.build import load_run

    network = load_run(classifier).task.trainable_module.eval()
    pixels = torch.randn(2, 3, 32, 32)
    features = network.forward_head(network.forward_features(pixels), pre_logits=True)
    assert features.shape == (2, network.num_features)
    assert torch.allclose(network.classifier(features), network(pixels), atol=1e-6)


def test_a_picture_with_two_captions_counts_once_and_rows_without_a_label_do_not(zoo, joint, disk, tmp_path):
    lines = ["image,label,caption,split"]
    for index in range(32):
        label = ("dark", "bright")[index % 2]
        file, split = disk.folder / label / f"{index}.png", "eval" if index >= 24 else "train"
        lines += [f"{file},{'' if index in (3, 30) else label},{caption} {label},{split}" for caption in ("a", "the")]
    manifest = tmp_path / "captions.csv"
    manifest.write_text("\n".join(lines) + "\n")
    assert zoo("eval", joint, "--zero-shot", "--data", manifest, "--json").json["rows"] == 7
    found = zoo("eval", joint, "--linear-probe", "--data", manifest, "--json", "--batch-size", "1").json
    assert found["rows"] == 7 and found["train_rows"] == 23


def test_zero_shot_and_linear_probe_refuse(mistake, classifier, joint, disk, tmp_path):
    assert "is a classifier and has no text tower" in mistake("eval", classifier, "--zero-shot")
    assert "one of the two" in mistake("eval", joint, "--zero-shot", "--linear-probe")
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}\na picture\n")
    assert "--templates are the sentences of --zero-shot" in mistake("eval", joint, "--templates", templates)
    assert "line 2: 'a picture' has no {}" in mistake("eval", joint, "--zero-shot", "--templates", templates)
    assert "gone.txt" in mistake("eval", joint, "--zero-shot", "--templates", tmp_path / "gone.txt")
    manifest = tmp_path / "captions.csv"
    manifest.write_text(f"image,caption,split\n{disk.folder}/dark/0.png,a dark picture,eval\n{disk.folder}/dark/2.png,another,train\n")
    for measure in ("--zero-shot", "--linear-probe"):
        told = mistake("eval", joint, measure, "--data", manifest)
        assert "captions.csv has no labels (its rows have image, text); give --data with a label" in told
    manifest.write_text(f"image,label,split\n{disk.folder}/dark/0.png,dark,eval\n{disk.folder}/bright/1.png,bright,eval\n")
    assert "the train split has no rows" in mistake("eval", joint, "--linear-probe", "--data", manifest)
