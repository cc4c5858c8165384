"""Pictures with several labels, or none: from a manifest to a run and back."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score

import zoo
from zoo.build import load_run, open_data
from zoo.cli.eval import print_metrics
from zoo.train.preprocess import Preprocess

COLOURS = ("blue", "green", "red")


def labels_of(number: int) -> list[str]:
    return [name for bit, name in enumerate(reversed(COLOURS)) if number >> bit & 1]  # none, one, two or three


@pytest.fixture
def manifest(tmp_path):
    """Pictures whose channels are the answer."""
    (tmp_path / "p").mkdir()
    lines = []
    for number in range(64):
        told = labels_of(number % 8)
        pixels = np.random.default_rng(number).integers(0, 60, (16, 16, 3))
        pixels += [180 * (name in told) for name in ("red", "green", "blue")]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "p" / f"{number}.png")
        lines.append((f"p/{number}.png", told, "train" if number < 48 else "eval"))
    file = tmp_path / "m.csv"
    file.write_text("image,labels,split\n" + "".join(f"{name},{'|'.join(told)},{split}\n" for name, told, split in lines))
    return file


@pytest.fixture
def data(manifest):
    return open_data(manifest)


def test_a_cell_holds_several_labels(data):
    assert data.classes == COLOURS and data.multi_label and data.columns == ("image", "labels")
    told = [tuple(sorted(COLOURS.index(name) for name in labels_of(number % 8))) for number in range(64)]
    assert [row["labels"] for row in data.train] == told[:48] and [row["labels"] for row in data.eval] == told[48:]
    assert data.train[0]["labels"] == ()  # an empty cell says that there is none


def test_jsonl_says_it_with_lists_and_may_say_nothing(manifest, tmp_path):
    told = [["red", "blue"], [], "green|red", None]
    file = tmp_path / "m.jsonl"
    rows = [{"image": f"p/{number}.png", "labels": labels, "split": "train"} for number, labels in enumerate(told)]
    rows += [{"image": "p/9.png", "split": "train"}, {"image": "p/10.png", "labels": ["blue"], "split": "eval"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_data(file)
    assert [row.get("labels") for row in data.train] == [(0, 2), (), (1, 2), None, None]
    with pytest.raises(ValueError, match=r"m.jsonl, line [45]: a row has no labels; a classifier needs one in every row"):
        zoo.fit(zoo.create_task("effnet_none_test", data, img_size=32), data.train, data.eval, zoo.TrainConfig(epochs=1))
    file.write_text(json.dumps({"image": "p/1.png", "labels": {"red": 1}}) + "\n")
    with pytest.raises(ValueError, match=r'm.jsonl, line 1: labels is \{"red": 1\}; expected a list of names or numbers'):
        open_data(file)
    file.write_text(json.dumps({"image": "p/1.png", "label": ["red"]}) + "\n")
    with pytest.raises(ValueError, match="several labels of a row go into a column called labels"):
        open_data(file)


def test_no_label_is_held_out_altogether(manifest, tmp_path):
    """Without a split column; each label is on one or two pictures, so that most would be gone from training now and then."""
    file = tmp_path / "rare.csv"
    for turn in range(5):
        names = [f"p/{number}.png,rare{turn}{number // 2}|often" for number in range(40)]
        file.write_text("image,labels\n" + "\n".join(names) + "\n")
        data = open_data(file)
        assert {label for row in data.train for label in row["labels"]} == set(range(21)) and len(data.eval) >= 1


def test_a_manifest_has_one_label_or_several(tmp_path, manifest):
    (tmp_path / "both.csv").write_text("image,label,labels\np/1.png,a,a|b\n")
    with pytest.raises(ValueError, match="there is a column label and a column labels; a row has one label, or several"):
        open_data(tmp_path / "both.csv")


def batch_of(task, split, indices):
    prepare = task.prepare(True)
    return task.collate([{**prepare(split[i]), "id": i, "index": i} for i in indices])


def test_the_loss_is_binary_cross_entropy_smoothed_towards_a_half(data):
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    task.eval()
    batch = batch_of(task, data.train, range(8))
    assert batch["label"].tolist() == [[float(name in labels_of(number)) for name in COLOURS] for number in range(8)]
    expected = F.binary_cross_entropy_with_logits(task.trainable_module(batch["image"]), batch["label"] * 0.9 + 0.05)
    assert task.batch_loss(batch).item() == pytest.approx(expected.item(), abs=1e-6)


def test_mixup_mixes_the_answers(data):
    task = zoo.create_task("effnet_none_test", data, img_size=32, mixup=1.0, smoothing=0.0)
    task.eval()
    seen = []
    task.criterion.register_forward_pre_hook(lambda criterion, given: seen.append(given[1]))
    for count in (4, 5, 1):
        batch = batch_of(task, data.train, range(count))
        task.batch_loss(batch)
        one = batch["label"]
        other = torch.cat([one, one[-1:]]).flip(0)[:count] if count % 2 else one.flip(0)
        share = ((seen[-1] - other) / (one - other))[one != other]  # lambda, wherever the two differ
        assert seen[-1].shape == (count, 3) and (count == 1 or torch.allclose(share, share[0].expand_as(share), atol=1e-5))
        assert torch.equal(seen[-1][one == other], one[one == other])


def test_a_run_is_trained_measured_and_opened_again(data, tmp_path, capsys):
    torch.manual_seed(0)
    task = zoo.create_task("effnet_se_test", data, img_size=32, augment="none")
    config = zoo.TrainConfig(epochs=6, batch_size=16, lr=5e-3, out=str(tmp_path / "run"))
    metrics = zoo.fit(task, data.train, data.eval, config, about={"data": data.name})
    assert task.metric == "mAP" and metrics["mAP"] > 90 and metrics["without_positives"] == []
    opened = load_run(tmp_path / "run")
    assert opened.task.multi_label and opened.task.classes == COLOURS
    again = zoo.evaluate(opened.task, opened.open_data().eval)
    assert again["mAP"] == pytest.approx(metrics["mAP"]) and again["micro_f1"] == pytest.approx(metrics["micro_f1"])
    scores = []
    with torch.no_grad():
        for row in data.eval:
            scores.append(opened.task.eval().trainable_module(opened.task.prepare(False)(row)["image"][None])[0].numpy())
    truth = np.array([[label in row["labels"] for label in range(3)] for row in data.eval])
    assert again["mAP"] == pytest.approx(100 * average_precision_score(truth, np.array(scores), average="macro"))
    print_metrics(again, COLOURS, "run")
    told = capsys.readouterr()
    assert "mAP" in told.out and "average precision" in told.out and "left out" not in told.err


def test_a_class_that_no_eval_row_has_is_said(data, capsys):
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    some = data.eval.take([index for index, row in enumerate(data.eval) if 1 not in row["labels"]])
    found = zoo.evaluate(task, some)
    assert found["without_positives"] == ["green"] and found["AP"][1] is None and json.dumps(found, allow_nan=False)
    print_metrics(found, COLOURS, "run")
    assert "1 of 3 classes have no row here, and are left out of mAP and macro_f1: green" in capsys.readouterr().err


def test_one_label_and_several_are_not_taken_for_each_other(data, manifest, tmp_path):
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    (tmp_path / "one.csv").write_text(
        "image,label,split\np/1.png,red,train\np/2.png,blue,train\np/3.png,green,eval\n".replace("green", "red")
    )
    one = open_data(tmp_path / "one.csv")
    with pytest.raises(ValueError, match="the train rows have image, label; this task also needs labels"):
        zoo.fit(task, one.train, None, zoo.TrainConfig(epochs=1))
    single = zoo.create_task("effnet_none_test", one, img_size=32)
    assert "multi_label" not in single.describe() and task.describe()["multi_label"] is True  # a run of one label says what it always said
    with pytest.raises(ValueError, match="label 7: the model has 3 classes"):
        task.prepare(True)({"image": Image.new("RGB", (8, 8)), "labels": (1, 7)})
    assert isinstance(task.of_pictures(), Preprocess)


def test_a_row_that_a_classifier_cannot_use_is_named_by_its_line(manifest, tmp_path):
    (tmp_path / "holes.csv").write_text("image,label,split\np/1.png,a,train\np/2.png,b,train\np/3.png,,train\np/4.png,a,eval\n")
    data = open_data(tmp_path / "holes.csv")
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"holes.csv, line 4: a row has no label; a classifier needs one in every row"):
            zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=1, batch_size=3, workers=workers))
