"""What a run's files say: whole ones, cut off ones, and those of a training that goes on."""

import json
import math

import pytest

from zoo.report import read_journal


@pytest.fixture
def folder(tmp_path):
    """A run directory without a network: only what is read here."""
    (tmp_path / "config.json").write_text(json.dumps({"zoo": {"task": "classify", "model": "x", "epochs": 3}, "label_names": ["a", "b"]}))
    return tmp_path


def test_a_trained_run(classifier):
    journal = read_journal(classifier)
    assert [each["epoch"] for each in journal.epochs] == [1, 2] and journal.done == journal.planned == 2
    assert 0 <= journal.epochs[0]["top1"] <= 100 and journal.seconds == sum(each["seconds"] for each in journal.epochs)
    assert journal.versions.keys() >= {"torch", "timm"} and not journal.notes and not journal.counts and not journal.training
    assert journal.card is None and journal.made_into == {} and journal.runtime is None


def test_numbers_inside_numbers(joint):
    journal = read_journal(joint)
    both = [journal.epochs[-1][f"{way} R@1"] for way in ("image->text", "text->image")]
    assert journal.epochs[-1]["R@1"] == pytest.approx(sum(both) / 2)
    assert not any("chance" in key or "geometry" in key for key in journal.epochs[-1])


def test_lines_that_are_cut_off(folder):
    whole = json.dumps({"epoch": 1, "loss": 2.5})
    (folder / "metrics.jsonl").write_text(f'{whole}\n{{"epoch": 2, "lo\n[1]\n{{"epoch": 3, "loss": NaN, "top1": null}}\n{{"loss": 1}}\n')
    journal = read_journal(folder)
    assert [each["epoch"] for each in journal.epochs] == [1, 3] and journal.epochs[0]["loss"] == 2.5
    assert math.isnan(journal.epochs[1]["loss"]) and math.isnan(journal.epochs[1]["top1"]) and journal.seconds is None
    assert journal.notes == ("metrics.jsonl: line 2, 3, 5 cannot be read and is left out",)


def test_a_training_that_goes_on(folder):
    (folder / ".lock").write_text("process 1")
    (folder / "skipped.jsonl").write_text("{}\n{}\n")
    journal = read_journal(folder)
    assert journal.training and journal.done == 0 and journal.planned == 3 and journal.counts == {"skipped": 2}


def test_a_card(folder):
    (folder / "card.json").write_text(json.dumps({"made": {"verb": "prune"}, "before": {"macs": 2}, "after": {"macs": 1}}))
    journal = read_journal(folder)
    assert journal.made_into == {"macs": 1} and journal.planned is None
    (folder / "card.json").write_text("{")
    assert read_journal(folder).card is None


def test_what_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        read_journal(tmp_path / "nowhere")
    for content in ("", "{", "[]", "{}", '{"zoo": 3}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="is not a run: expected a config.json written by `zoo train`"):
            read_journal(tmp_path)
