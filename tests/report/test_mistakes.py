"""The worst mistakes, heard while the evaluation counts them."""

import torch

from zoo.build import load_run
from zoo.datasets import BrokenPicture, Split
from zoo.report.mistakes import Listener
from zoo.train import evaluate


def test_the_surest_mistakes_come_first():
    heard = Listener(multi_label=False)
    logits = torch.tensor([[5.0, 0], [0, 1], [0, 3], [9, 0]])
    heard({"logits": logits[:3], "label": torch.tensor([0, 0, 0]), "index": torch.tensor([4, 5, 6])})
    heard({"logits": logits[3:], "label": torch.tensor([1]), "index": torch.tensor([7])})
    assert heard.kept["index"][heard.chosen(True)].tolist() == [7, 6, 5]
    assert heard.kept["index"][heard.chosen(True, 1)].tolist() == [7]
    assert heard.kept["index"][heard.chosen(False)].tolist() == [4]
    assert torch.allclose(heard.kept["confidence"], logits.softmax(1).max(1).values)
    assert len(Listener(False).chosen(True)) == 0


def test_several_labels():
    heard = Listener(multi_label=True)
    heard(
        {
            "logits": torch.tensor([[9.0, -9, 2], [9, -9, -2]]),
            "label": torch.tensor([[1.0, 0, 0], [1, 0, 0]]),
            "index": torch.tensor([0, 1]),
        }
    )
    split = Split(2, lambda index: {"image": _picture()})
    (guess,) = heard.guesses(heard.chosen(True), split, ["a", "b", "c"])
    assert (guess.row, guess.true, guess.predicted) == (0, "a", "a, c") and abs(guess.confidence - torch.tensor(2.0).sigmoid()) < 1e-6


def _picture():
    from PIL import Image

    return Image.new("RGB", (4, 4))


def test_a_picture_that_cannot_be_read_is_left_out():
    def read(index):
        if index == 0:
            raise BrokenPicture("x.png", "no picture")
        return {"image": _picture()}

    heard = Listener(False)
    heard({"logits": torch.tensor([[0.0, 2], [0, 1]]), "label": torch.tensor([0, 0]), "index": torch.tensor([0, 1])})
    assert [guess.row for guess in heard.guesses(heard.chosen(True), Split(2, read), ["a", "b"])] == [1]


def test_it_hears_what_is_measured(classifier):
    run = load_run(classifier)
    rows, heard = run.open_data().eval, Listener(False)
    metrics = evaluate(run.task, rows, listen=heard, batch_size=5)
    assert heard.kept["index"].tolist() == list(range(len(rows)))
    assert heard.kept["label"].tolist() == [rows[number]["label"] for number in range(len(rows))]
    assert 100 * (1 - heard.kept["wrong"].float().mean()) == metrics["top1"]
