"""zoo search: what is nearest to a text or to a picture."""

import shutil

import pytest
from PIL import Image

from zoo import build


def test_a_text_as_json(zoo, joint):
    said = zoo("search", joint, "dark picture 24", "--json", "-k", "3")
    assert said.code == 0 and not said.err and said.json["query"] == "dark picture 24"
    results = said.json["results"]
    scores = [result["score"] for result in results]
    assert len(results) == 3 and scores == sorted(scores, reverse=True) and all(-1.001 < score < 1.001 for score in scores)
    assert len({result["row"] for result in results}) == 3 and all("picture" in result["text"] for result in results)


def test_a_drawing(zoo, joint, tmp_path):
    grid = tmp_path / "new folder" / "grid.png"
    said = zoo("search", joint, "dark", "--json", "-k", "3", "--out", grid)
    assert said.code == 0 and len(said.json["results"]) == 3
    with Image.open(grid) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > picture.height > 100
    assert str(grid) in zoo("search", joint, "dark", "--out", grid).out.replace("\n", "")


def test_a_picture_finds_itself(zoo, joint, disk):
    said = zoo("search", joint, "--image", disk.folder / "dark" / "26.png", "--json", "-k", "1")
    assert said.code == 0
    (best,) = said.json["results"]
    assert best["text"] == "dark picture 26" and best["score"] == pytest.approx(1, abs=1e-4)


def test_a_table(zoo, joint):
    said = zoo("search", joint, "dark", "-k", "100")
    assert said.code == 0 and said.out.count(" picture ") == 8  # as many as there are


def test_other_data(zoo, joint, disk, tmp_path):
    manifest = tmp_path / "one.csv"
    manifest.write_text(f"image,caption,split\n{disk.folder}/dark/0.png,zero,eval\n")
    assert [row["text"] for row in zoo("search", joint, "dark", "--data", manifest, "--json").json["results"]] == ["zero"]


def test_pictures_without_captions_are_found_too(zoo, joint, disk, tmp_path):
    said = zoo("search", joint, "dark", "--data", disk.folder, "--json", "--out", tmp_path / "grid.png")
    assert said.code == 0 and said.json["results"] and "text" not in said.json["results"][0]


def test_what_is_asked_wrongly(mistake, joint, classifier, disk, tmp_path):
    assert "give a text or --image FILE" in mistake("search", joint)
    assert "one of the two" in mistake("search", joint, "dark", "--image", disk.folder / "dark" / "0.png")
    assert "is a classifier" in mistake("search", classifier, "dark")
    assert "-k: expected at least 1, got 0" in mistake("search", joint, "dark", "-k", "0")
    assert "nowhere: no such directory" in mistake("search", tmp_path / "nowhere", "dark")
    assert "no such file" in mistake("search", joint, "--image", tmp_path / "missing.png")
    assert "not a picture" in mistake("search", joint, "--image", disk.manifest)


def test_a_drawing_that_cannot_be_written(mistake, joint, disk, tmp_path):
    assert "Format 'xyz' is not supported" in mistake("search", joint, "dark", "--out", tmp_path / "grid.xyz")
    assert str(disk.manifest) in mistake("search", joint, "dark", "--out", disk.manifest / "grid.png")


@pytest.fixture
def own(joint, disk, tmp_path):
    """A run and a manifest to be written into: (run, folder, manifest); two eval lines of one picture, two of one caption."""
    run, folder = tmp_path / "run", tmp_path / "pictures"
    shutil.copytree(joint, run, ignore=shutil.ignore_patterns("index"))
    shutil.copytree(disk.folder, folder)
    manifest = tmp_path / "own.csv"
    lines = ["dark/0.png,nought,eval", "dark/0.png,zero,eval", "dark/2.png,two,eval", "bright/1.png,two,eval", "bright/3.png,three,train"]
    manifest.write_text("\n".join(["image,caption,split", *(f"pictures/{line}" for line in lines)]) + "\n")
    return run, folder, manifest


@pytest.fixture
def ask(zoo, own):
    """ask("two", ...): the results of a search in the manifest; `ask.said` is what was said beside."""

    def call(*arguments):
        said = zoo("search", own[0], *arguments, "--data", own[2], "--json")
        assert said.code == 0, said.err
        call.said = said.err
        return said.json["results"]

    return call


def texts(results):
    return sorted(result["text"] for result in results)


def test_the_second_search_reads_no_row(ask, zoo, own, monkeypatch):
    first = ask("two")
    monkeypatch.setattr(build.run, "open_data", None)
    assert ask("two") == first and ask.said == ""
    assert "'NoneType' object is not callable" in zoo("search", own[0], "two", "--data", own[2], "--rebuild").err


def test_a_picture_and_a_caption_are_shown_once(ask, own):
    picture = own[1] / "dark" / "0.png"
    assert sorted(result["row"] for result in ask("two")) == [0, 2, 3]
    assert texts(ask("two", "--to", "text")) == ["nought", "two", "zero"]
    (best,) = ask("two", "--to", "text", "-k", "1")
    assert best["row"] == 2 and best["text"] == "two" and best["score"] == pytest.approx(1, abs=1e-5)
    assert texts(ask("--image", picture, "--to", "text")) == ["nought", "two", "zero"]
    (best,) = ask("--image", picture, "-k", "1")
    assert best["row"] == 0 and best["path"] == str(picture) and ask(picture, "--from", "image", "-k", "1") == [best]


def test_splits(ask):
    assert texts(ask("two", "--split", "train")) == ["three"]
    found = ask("two", "--split", "all", "--to", "text")
    assert sorted((result["split"], result["text"]) for result in found) == [
        *(("eval", text) for text in ("nought", "two", "zero")),
        ("train", "three"),
    ]
    scores = [result["score"] for result in found]
    assert scores == sorted(scores, reverse=True) and found[0]["text"] == "two"


def test_a_picture_of_both_splits_is_shown_once(ask, own):
    own[2].write_text(own[2].read_text() + "pictures/dark/2.png,two,train\n")
    for to in ("image", "text"):
        found = ask("two", "--split", "all", "--to", to, "-k", "20")
        assert len(found) == 4 and sum(result["text"] == "two" and "dark" in result["path"] for result in found) == 1


def test_what_has_changed_is_embedded_again(ask, own):
    run, folder, manifest = own
    ask("two")
    manifest.write_text(manifest.read_text().replace("zero", "none"))
    assert texts(ask("two", "--to", "text")) == ["none", "nought", "two"]
    assert ask.said.count("\n") == 1 and "the data has changed since" in ask.said
    manifest.write_text(manifest.read_text() + "pictures/bright/5.png,five,eval\n")
    before = {result["row"]: result["score"] for result in ask("two")}
    assert before.keys() == {0, 2, 3, 4} and "the data has changed" in ask.said
    (folder / "bright" / "7.png").replace(folder / "dark" / "2.png")
    after = {result["row"]: result["score"] for result in ask("two")}
    assert f"{folder / 'dark' / '2.png'} has changed since" in ask.said
    assert after[2] != before[2] and after[3] == pytest.approx(before[3], abs=1e-5)
    (run / "config.json").write_text((run / "config.json").read_text() + "\n")
    ask("two")
    assert "the model has changed since" in ask.said
    ask("two")
    assert ask.said == ""


def test_a_picture_that_cannot_be_read(mistake, own):
    run, folder, manifest = own
    broken = folder / "dark" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    told = mistake("search", run, "two", "--data", manifest)
    assert "own.csv, line 4" in told and str(broken) in told


def test_texts_as_a_table_and_a_drawing(zoo, own, tmp_path):
    said = zoo("search", own[0], "two", "--data", own[2], "--to", "text", "--out", tmp_path / "grid.png")
    assert said.code == 0 and "nought" in said.out and "eval" in said.out and (tmp_path / "grid.png").is_file()


def test_modalities_and_splits_that_are_not_there(mistake, own):
    run, folder, manifest = own
    assert "--to imgae: expected a modality of the run (image, text); did you mean 'image'" in mistake(
        "search", run, "two", "--to", "imgae"
    )
    assert "--from txet" in mistake("search", run, "two", "--from", "txet")
    assert "--split evl: expected which rows (eval, train, all); did you mean 'eval'" in mistake("search", run, "two", "--split", "evl")
    assert "no text to find among" in mistake("search", run, "two", "--data", folder, "--to", "text")
    manifest.write_text("image,caption,split\npictures/dark/0.png,zero,train\n")
    assert "has no eval rows to search; give --split train" in mistake("search", run, "two", "--data", manifest)
