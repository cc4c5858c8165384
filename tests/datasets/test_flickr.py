"""Flickr's captions: both forms of a line, and the lists that say what is for training."""

import pytest
from PIL import Image

from zoo.datasets import read_flickr

TOKENS = 'a.jpg#0\tA child , in pink\na.jpg#1\tA girl\nb.jpg#0\tTwo dogs\nb.jpg#1\t \nc.jpg#0\tA "red" car\n'
KAGGLE = 'image,caption\na.jpg,"A child , in pink"\na.jpg,A girl\nb.jpg,Two dogs\nc.jpg,"A ""red"" car"\n'
UNQUOTED = 'image,caption\r\na.jpg,A child , in pink\r\na.jpg,A girl\r\nb.jpg,Two dogs\r\nc.jpg,A "red" car\r\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Flicker8k_Dataset").mkdir()
    (tmp_path / "text").mkdir()
    for name in "abc":
        Image.new("L", (4, 4), 50).save(tmp_path / "Flicker8k_Dataset" / f"{name}.jpg")
    return tmp_path / "text"


@pytest.mark.parametrize("text", [TOKENS, KAGGLE, UNQUOTED], ids=["tokens", "kaggle", "unquoted"])
def test_both_forms_say_the_same(folder, text):
    (folder / "captions.txt").write_text(text, newline="")
    data = read_flickr(folder / "captions.txt")
    id_of = {text: one for split in (data.train, data.eval) for text, one in zip(split.texts(), split.ids.tolist(), strict=True)}
    assert set(id_of) == {"A child , in pink", "A girl", "Two dogs", 'A "red" car'}
    assert len(set(id_of.values())) == 3 and id_of["A girl"] == id_of["A child , in pink"]
    assert len(data.eval) > 0 and set(data.train.ids.tolist()).isdisjoint(data.eval.ids.tolist())
    assert data.train[0]["image"].size == (4, 4)


def test_lists_beside_the_file(folder):
    (folder / "Flickr8k.token.txt").write_text(TOKENS + "gone.jpg.1#0\tIn no list\n")
    for name, pictures in (("trainImages", "c.jpg\n"), ("devImages", "a.jpg\n"), ("testImages", "b.jpg\n")):
        (folder / f"Flickr_8k.{name}.txt").write_text(pictures)
    data = read_flickr(folder / "Flickr8k.token.txt")
    assert list(data.train.texts()) == ['A "red" car'] and list(data.eval.texts()) == ["A child , in pink", "A girl"]
    assert list(read_flickr(folder / "Flickr8k.token.txt", split="test").eval.texts()) == ["Two dogs"]


def test_what_is_wrong_is_told(folder):
    with pytest.raises(FileNotFoundError, match="gone.token: no such file"):
        read_flickr(folder / "gone.token")
    for text, told in (
        ("a.jpg#0\tx\nhello\n", r"x.token, line 2: expected PICTURE#0, a tab and a caption, or PICTURE,caption; got 'hello'"),
        ("", "x.token: no captions"),
        ("z.jpg#0\tx\n", "x.token: the picture z.jpg is in none of "),
        ("a.jpg#0\tx\nz.jpg#0\tx\n", "x.token: 1 of 2 pictures are not there; the first is .*z.jpg"),
    ):
        (folder / "x.token").write_text(text)
        with pytest.raises(ValueError, match=told):
            read_flickr(folder / "x.token")
    (folder / "x.token").write_bytes("a.jpg#0\tKätzchen".encode("latin-1"))
    with pytest.raises(ValueError, match="x.token: not UTF-8"):
        read_flickr(folder / "x.token")
