"""zoo data check: tables, JSON, and an exit code that a script can ask; and training in spite of what it finds."""

import shutil

import pytest

from zoo.train.folder import is_run

MODEL = "effnet_eca_test"


@pytest.fixture
def spoilt(disk, tmp_path):
    """The pictures of `disk`, one of them empty, one cut off, one a copy of another; and a manifest of them."""
    shutil.copytree(disk.folder.parent, tmp_path / "disk")
    folder = tmp_path / "disk" / "folder"
    (folder / "dark" / "4.png").write_bytes(b"")
    content = (folder / "bright" / "27.png").read_bytes()
    (folder / "bright" / "27.png").write_bytes(content[: len(content) // 2])
    shutil.copy(folder / "dark" / "8.png", folder / "dark" / "26.png")  # 26 is for eval in the manifest
    return tmp_path / "disk"


def test_clean_data(zoo, disk):
    said = zoo("data", "check", disk.folder)
    assert said.code == 0 and not said.err
    assert "broken: 0; leaks: 0" in said.out and "dark" in said.out and "mean 0." in said.out
    found = zoo("data", "check", disk.manifest, "--json").json
    assert found["fine"] and found["splits"]["train"]["rows"] == 24 and found["splits"]["train"]["captions"] == [1, 1, 1]


def test_what_is_wrong_is_told_and_is_the_exit_code(zoo, spoilt):
    said = zoo("data", "check", spoilt / "manifest.csv", "--workers", 2)
    assert said.code == 1 and not said.err
    assert "broken: 2; leaks: 1" in said.out
    assert all(word in said.out for word in ("4.png", "an empty file", "27.png", "truncated", "26.png", "8.png"))
    again = zoo("data", "check", spoilt / "manifest.csv", "--json")
    assert again.code == 1 and len(again.json["broken"]) == 2 and len(again.json["leaks"]) == 1 and not again.json["fine"]


def test_the_table_has_ten_and_json_all(zoo, spoilt):
    for index in range(1, 24, 2):
        (spoilt / "folder" / "bright" / f"{index}.png").write_text("no picture")
    said = zoo("data", "check", spoilt / "manifest.csv")
    assert said.out.count("not a picture in a") + said.out.count("an empty file") <= 10 and "the first 10" in said.out
    assert len(zoo("data", "check", spoilt / "manifest.csv", "--json").json["broken"]) == 14


def test_data_that_can_not_be_opened(zoo, mistake, tmp_path):
    assert "no such folder or file" in mistake("data", "check", tmp_path / "nothing.png")
    assert "digits" in mistake("data", "check", "digit")
    assert "check" in zoo("data").out + zoo("data").err


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stops_with_one_line(zoo, spoilt, tmp_path, workers):
    how = ("--epochs", 1, "--batch-size", 8, "--img-size", 32, "--workers", workers, "--out", tmp_path / "run")
    said = zoo("train", MODEL, "--data", spoilt / "folder", *how)
    told = [line for line in said.err.splitlines() if "zoo: " in line]
    assert said.code == 2 and len(told) == 1 and "Traceback" not in said.err
    assert ".png: " in told[0] and "(row " in told[0] and "broken=skip leaves such rows out" in told[0]


def test_training_and_evaluation_in_spite_of_them(zoo, mistake, spoilt, tmp_path):
    data, out = spoilt / "manifest.csv", tmp_path / "run"
    how = ("--epochs", 1, "--batch-size", 8, "--img-size", 32)
    assert "line 6: " in mistake("train", MODEL, "--data", data, "--out", out, *how)
    assert not out.exists()
    said = zoo("train", MODEL, "--data", data, "--out", out, "--broken", "skip", *how)
    assert said.code == 0 and said.err.count("broken: ") == 2 and "1 rows broken" in said.err and is_run(out)
    found = zoo("eval", out, "--json")
    assert found.code == 0 and found.json["eval_broken"] == 1 and sum(map(sum, found.json["confusion"])) == 7
    assert "1 of them broken and left out" in " ".join(zoo("eval", out).out.split())
    assert "line 6: " in mistake("eval", out, "--broken", "raise")
    assert "expected one of raise, skip, replace" in mistake("eval", out, "--broken", "ignore")
    probe = zoo("eval", out, "--linear-probe", "--json")
    assert probe.code == 0 and probe.json["rows"] == 7 and probe.json["train_rows"] == 23


def test_a_search_leaves_out_what_it_can_not_read(zoo, spoilt, tmp_path):
    out, how = tmp_path / "run", ("--epochs", 1, "--batch-size", 8, "--img-size", 32, "--broken", "skip")
    assert zoo("train", "image=effnet_eca_test", "text=bag", "--data", spoilt / "manifest.csv", "--out", out, *how).code == 0
    said = zoo("search", out, "bright picture 27", "-k", 8, "--json")
    assert said.code == 0 and "27.png" in said.err and "left out of the index" in said.err
    assert len(said.json["results"]) == 7 and not any("27.png" in found["path"] for found in said.json["results"])
    texts = zoo("search", out, "bright picture 27", "--to", "text", "-k", 8, "--json")
    assert len(texts.json["results"]) == 8, "its caption is there as before"
