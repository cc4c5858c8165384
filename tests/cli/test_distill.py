"""zoo distill: a run, or a timm network, teaches a smaller one; the card has both."""

import json

from zoo import load_run

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")


def test_from_a_run(zoo, classifier, disk, tmp_path):
    said = zoo("distill", classifier, "--student", "effnet_none_test", "--out", tmp_path / "small", "--distill-alpha", "0.7", *SMALL)
    assert said.code == 0
    settings = load_run(tmp_path / "small").settings
    assert settings["teacher"] == str(classifier) and settings["distill_alpha"] == 0.7 and settings["data"] == str(disk.manifest)
    card = json.loads((tmp_path / "small" / "card.json").read_text())
    assert card["made"] == {"verb": "distill", "from": str(classifier), "student": "effnet_none_test", "data": str(disk.manifest)}
    for side, run in (("teacher", classifier), ("student", tmp_path / "small")):
        assert card[side]["top1"] == zoo("eval", run, "--json").json["top1"]
        assert card[side]["bytes"] == (run / "model.safetensors").stat().st_size
    assert card["student"]["parameters"] < card["teacher"]["parameters"]


def test_the_same_as_training_with_a_teacher(zoo, classifier, disk, tmp_path):
    assert zoo("distill", classifier, "--student", "effnet_none_test", "--out", tmp_path / "one", *SMALL).code == 0
    train = ("train", "effnet_none_test", "--teacher", classifier, "--data", disk.manifest, "--out", tmp_path / "other", *SMALL)
    assert zoo(*train).code == 0
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_mistakes(mistake, classifier, joint, disk, tmp_path):
    out = ("--out", tmp_path / "refused")
    assert "expected a classifier, got a joint embedding" in mistake("distill", joint, "--student", "effnet_none_test", *out)
    assert "does not say what it was trained on: give --data" in mistake(
        "distill", "efficientnet_b0", "--student", "effnet_none_test", *out
    )
    told = mistake("distill", classifier, "--student", "effnet_nine_test", *out)
    assert "unknown model 'effnet_nine_test'" in told
    told = mistake("distill", classifier, "--student", "effnet_none_test", "--data", "digits", *out)
    assert "it tells 2 classes apart, the data has 10" in told
    assert "already holds a run" in mistake("distill", classifier, "--student", "effnet_none_test", "--out", joint, *SMALL)
    assert not (tmp_path / "refused").exists()
