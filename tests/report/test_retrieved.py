"""Retrieval examples are those that the metrics count."""

import pytest
import torch

from zoo.build import load_run
from zoo.report.retrieved import EACH, NEAREST, Embeddings, retrieved
from zoo.train import evaluate


@pytest.fixture(scope="module")
def found(joint):
    run = load_run(joint)
    rows, heard = run.open_data().eval, Embeddings()
    metrics = evaluate(run.task, rows, listen=heard, batch_size=4)
    return run.task, rows, heard, metrics, retrieved(run.task, heard, rows)


def test_hits_are_the_metrics(found):
    _, rows, _, metrics, ways = found
    assert [(way.one, way.other) for way in ways] == [("image", "text"), ("text", "image")]
    for way in ways:
        assert 100 * way.hits / way.queries == pytest.approx(metrics[f"{way.one}->{way.other}"]["R@1"]) and way.queries == len(rows)
        assert len(way.right) == min(EACH, way.hits) and len(way.wrong) == min(EACH, way.queries - way.hits)


def test_examples_are_what_they_say(found):
    _, rows, _, _, ways = found
    for way in ways:
        for example in (*way.right, *way.wrong):
            assert len(example.found) == NEAREST and [item.score for item in example.found] == sorted(
                (i.score for i in example.found), reverse=True
            )
            assert (example.rank == 1) == (example in way.right) == example.found[0].right
            right = [item for item in example.found if item.right]
            assert len(right) == (example.rank <= NEAREST) and all(item.words == example.query.words for item in right)
            pictures = [example.query] if way.one == "image" else example.found
            assert all(item.picture.startswith("data:image/") for item in pictures)


def test_a_picture_with_several_captions_is_one_item():
    from zoo.datasets import Split

    heard = Embeddings()
    split = Split(3, lambda index: {}, ("image", "text"), ids=[0, 0, 1], pictures=[0, 0, 1])
    heard({"image": torch.eye(3), "index.image": torch.arange(3), "text": torch.eye(3), "index.text": torch.arange(3)})
    assert heard.of("image", split)[1].tolist() == [0, 2] and heard.of("text", split)[1].tolist() == [0, 1, 2]
