"""zoo search: what is nearest to a text or to a picture."""

import pytest
from PIL import Image


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
