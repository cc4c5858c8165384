"""Retrieval against a naive O(N^2) loop, chance against simulation, and what must not look good."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.evaluate import chance, retrieval, retrieve_both

KS = (1, 5, 10)


def unit(rows, width=6, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive(queries, gallery, query_ids, gallery_ids, ks=KS):
    ranks, skipped = [], 0
    for query, wanted in zip(queries.double().tolist(), query_ids.tolist(), strict=True):
        scores = [np.float32(np.dot(query, item)) for item in gallery.double().tolist()]
        right = [score for score, one in zip(scores, gallery_ids.tolist(), strict=True) if one == wanted]
        if not right:
            skipped += 1
            continue
        ranks.append(1 + sum(score >= max(right) for score, one in zip(scores, gallery_ids.tolist(), strict=True) if one != wanted))
    recalls = {f"R@{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in ks}
    return {**recalls, "median_rank": float(np.median(ranks)), "queries": len(ranks), "skipped": skipped}


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_against_loops(chunk):
    draw = torch.Generator().manual_seed(0)
    query_ids, gallery_ids = torch.randint(30, (60,), generator=draw), torch.randint(25, (80,), generator=draw)
    things = unit(30, seed=1)
    queries, gallery = (F.normalize(things[ids] + 2 * unit(len(ids), seed=2), dim=-1) for ids in (query_ids, gallery_ids))
    found = retrieval(queries, gallery, query_ids, gallery_ids, chunk=chunk)
    assert found == pytest.approx(naive(queries, gallery, query_ids, gallery_ids))
    assert found["skipped"] > 0 and 0 < found["R@1"] < found["R@5"] < found["R@10"] < 100


def test_ties_against_loops():
    """Embeddings of a few directions alone, so that nearly everything ties with something."""
    corners = torch.eye(4)[torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))]
    queries, gallery = corners[:20], corners[20:]
    query_ids, gallery_ids = torch.arange(20) % 7, torch.arange(30) % 7
    assert retrieval(queries, gallery, query_ids, gallery_ids) == pytest.approx(naive(queries, gallery, query_ids, gallery_ids))


@pytest.mark.parametrize("rows", [11, 67, 131])
def test_a_collapsed_model_finds_nothing(rows):
    same = unit(1, width=37).expand(rows, -1).contiguous()
    ids = torch.arange(rows)
    found = retrieval(same, same, ids, ids)
    assert found["R@1"] == found["R@5"] == found["R@10"] == 0 and found["median_rank"] == rows


def test_a_perfect_model_finds_everything():
    found = retrieval(unit(20, 32), unit(20, 32), torch.arange(20), torch.arange(20))
    assert found == {"R@1": 100, "R@5": 100, "R@10": 100, "median_rank": 1, "queries": 20, "skipped": 0}


def test_duplicates_of_the_answer_are_correct_too():
    gallery = torch.eye(4)[[0, 0, 0, 1]]
    assert retrieval(torch.eye(4)[:1], gallery, [7], [7, 7, 7, 8])["R@1"] == 100
    assert retrieval(torch.eye(4)[:1], gallery, [7], [7, 6, 6, 8])["R@1"] == 0, "wrong items as near as the right one"


def test_other_ks_and_plain_lists_of_ids():
    found = retrieval(unit(4), unit(4), [0, 1, 2, 3], np.arange(4), ks=(2, 100))
    assert found["R@2"] == found["R@100"] == 100 and "R@1" not in found


def test_chance_against_simulation():
    draw = np.random.default_rng(0)
    query_ids, gallery_ids = draw.integers(12, size=40), draw.integers(10, size=50)
    ranks = []
    for _ in range(400):
        shuffled = draw.permutation(gallery_ids)
        ranks += [1 + np.flatnonzero(shuffled == query)[0] for query in query_ids if (shuffled == query).any()]
    expected = chance(query_ids, gallery_ids, KS)
    for k in KS:
        assert expected[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(ranks) <= k), abs=1.0)


def test_chance_in_closed_form():
    ids = torch.arange(1000)
    assert chance(ids, ids, KS) == pytest.approx({"R@1": 0.1, "R@5": 0.5, "R@10": 1.0})
    assert chance([0], [0, 0, 1, 1], (1, 2, 3, 9)) == pytest.approx({"R@1": 50, "R@2": 100 * (1 - 1 / 6), "R@3": 100, "R@9": 100})


def test_random_embeddings_score_chance():
    ids = torch.arange(2000) % 400
    found, expected = retrieval(unit(2000, 32), unit(2000, 32, seed=1), ids, ids), chance(ids, ids, KS)
    assert found["R@10"] == pytest.approx(expected["R@10"], abs=1.5)


def test_several_captions_a_picture():
    """Five pictures, three captions each. The rank is that of the best caption, over all captions; a picture stands in the gallery once."""
    torch.manual_seed(0)
    pictures, texts = unit(5), F.normalize(unit(5).repeat_interleave(3, 0) + 0.5 * unit(15, seed=2), dim=-1)
    ids = torch.arange(5).repeat_interleave(3)
    found = retrieve_both(pictures.repeat_interleave(3, 0), texts, ids, ids, pictures=ids, ks=(1, 3))
    assert found["image->text"] == pytest.approx(naive(pictures, texts, torch.arange(5), ids, (1, 3)))
    assert found["text->image"] == pytest.approx(naive(texts, pictures, ids, torch.arange(5), (1, 3)))
    assert found["image->text"]["queries"] == 5 and found["text->image"]["queries"] == 15


def test_pictures_in_any_order_and_shared_ids():
    """Two pictures of one thing stay two items; rows of one picture need not be neighbours."""
    image = torch.eye(3)[[0, 1, 0, 2]]
    found = retrieve_both(image, torch.eye(3)[[0, 1, 2]], [4, 5, 4, 4], [4, 5, 4], pictures=[9, 3, 9, 7])
    assert found["image->text"]["queries"] == 3 and found["image->text"]["R@1"] == found["text->image"]["R@1"] == 100


def test_without_pictures_every_row_is_one():
    assert retrieve_both(torch.eye(3), torch.eye(3), [0, 1, 2], [0, 1, 2])["image->text"]["queries"] == 3


def test_bad_input():
    good, ids = unit(4), torch.arange(4)
    broken = good.clone()
    broken[2, 0] = float("nan")
    for arguments, message in [
        ((broken, good, ids, ids), "queries: 1 of 4 embeddings are not finite"),
        ((good, broken, ids, ids), "gallery: 1 of 4"),
        ((good, unit(4, 5), ids, ids), "6 dimensions, the gallery 5"),
        ((good, good, ids[:3], ids), "queries: 4 embeddings, but ids of shape"),
        ((good[0], good, ids[:1], ids), r"expected \[N, D\]"),
        ((good[:0], good, ids[:0], ids), r"expected \[N, D\]"),
        ((good, good, ids, ids + 10), "none of 4 queries has an item of its id"),
    ]:
        with pytest.raises(ValueError, match=message):
            retrieval(*arguments)
    with pytest.raises(ValueError, match="chunk=0"):
        retrieval(good, good, ids, ids, chunk=0)
    with pytest.raises(ValueError, match="rows 0 and 2 hold the same picture but have the ids 0 and 2"):
        retrieve_both(good, good, ids, ids, pictures=[5, 1, 5, 2])
    with pytest.raises(ValueError, match="pictures: expected 4 integers"):
        retrieve_both(good, good, ids, ids, pictures=[5, 1])
    with pytest.raises(ValueError, match="no query"):
        chance([1], [2], (1,))
