"""Retrieval against a naive O(N^2) loop, chance against simulation, and what must not look good."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.evaluate import chance, retrieval, retrieve_both

KS = (1, 5, 10)


def unit(rows, width=6, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive(queries, gallery, query_ids, gallery_ids, ks=KS):
    ranks, precisions, skipped = [], [], 0
    for query, wanted in zip(queries.double().tolist(), query_ids.tolist(), strict=True):
        scores = [np.float32(np.dot(query, item)) for item in gallery.double().tolist()]
        right = [score for score, one in zip(scores, gallery_ids.tolist(), strict=True) if one == wanted]
        if not right:
            skipped += 1
            continue
        ranks.append(1 + sum(score >= max(right) for score, one in zip(scores, gallery_ids.tolist(), strict=True) if one != wanted))
        # the whole list, best first, of equal scores the wrong ones first
        ranking = sorted(zip(scores, gallery_ids.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1] == wanted))
        places = [place for place, (_, one) in enumerate(ranking, 1) if one == wanted]
        precisions.append(sum(number / place for number, place in enumerate(places, 1)) / len(places))
    recalls = {f"R@{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in ks}
    return {**recalls, "mAP": 100 * np.mean(precisions), "median_rank": float(np.median(ranks)), "queries": len(ranks), "skipped": skipped}


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
    assert found["mAP"] == pytest.approx(100 / rows)


def test_a_perfect_model_finds_everything():
    found = retrieval(unit(20, 32), unit(20, 32), torch.arange(20), torch.arange(20))
    assert found == {"R@1": 100, "R@5": 100, "R@10": 100, "mAP": 100, "median_rank": 1, "queries": 20, "skipped": 0}


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
    ranks, precisions = [], []
    for _ in range(400):
        shuffled = draw.permutation(gallery_ids)
        for places in (1 + np.flatnonzero(shuffled == query) for query in query_ids if (shuffled == query).any()):
            ranks.append(places[0])
            precisions.append(np.mean(np.arange(1, 1 + len(places)) / places))
    expected = chance(query_ids, gallery_ids, KS)
    for k in KS:
        assert expected[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(ranks) <= k), abs=1.0)
    assert expected["mAP"] == pytest.approx(100 * np.mean(precisions), abs=0.5)


def test_chance_in_closed_form():
    ids = torch.arange(1000)
    harmonic = 100 * (1 / np.arange(1, 1001)).sum() / 1000
    assert chance(ids, ids, KS) == pytest.approx({"R@1": 0.1, "R@5": 0.5, "R@10": 1.0, "mAP": harmonic})
    found = chance([0], [0, 0, 1, 1], (1, 2, 3, 9))
    orders = [(1, 1), (1, 2 / 3), (1, 2 / 4), (1 / 2, 2 / 3), (1 / 2, 2 / 4), (1 / 3, 2 / 4)]  # precisions at the two correct places
    assert found == pytest.approx({"R@1": 50, "R@2": 100 * (1 - 1 / 6), "R@3": 100, "R@9": 100, "mAP": 100 * np.mean(orders)})
    assert chance([3], [3], (1,)) == {"R@1": 100, "mAP": 100}


def test_random_embeddings_score_chance():
    ids = torch.arange(2000) % 400
    found, expected = retrieval(unit(2000, 32), unit(2000, 32, seed=1), ids, ids), chance(ids, ids, KS)
    assert found["R@10"] == pytest.approx(expected["R@10"], abs=1.5)


def without_chance(found):
    return {key: value for key, value in found.items() if key != "chance"}


def test_several_captions_a_picture():
    """Five pictures, three captions each. The rank is that of the best caption, over all captions; a picture stands in the gallery once."""
    torch.manual_seed(0)
    pictures, texts = unit(5), F.normalize(unit(5).repeat_interleave(3, 0) + 0.5 * unit(15, seed=2), dim=-1)
    ids, once, ks = torch.arange(5).repeat_interleave(3), torch.arange(5), (1, 3)
    rows = {"image": pictures.repeat_interleave(3, 0), "text": texts}
    found = retrieve_both(rows, {"image": ids, "text": ids}, same={"image": ids}, ks=ks)
    assert list(found) == ["image->text", "text->image"]
    assert without_chance(found["image->text"]) == pytest.approx(naive(pictures, texts, once, ids, ks))
    assert without_chance(found["text->image"]) == pytest.approx(naive(texts, pictures, ids, once, ks))
    assert found["image->text"]["queries"] == 5 and found["text->image"]["queries"] == 15
    assert found["image->text"]["mAP"] < found["image->text"]["R@1"], "all three captions count, not the best alone"
    assert found["text->image"]["chance"] == chance(ids, once, ks) and found["image->text"]["chance"] == chance(once, ids, ks)
    assert found["text->image"]["chance"]["R@3"] == pytest.approx(60) != pytest.approx(chance(ids, ids, ks)["R@3"])


def test_the_same_in_any_order_and_shared_ids():
    """Two pictures of one thing stay two items; rows of one picture need not be neighbours."""
    rows = {"image": torch.eye(3)[[0, 1, 0, 2]], "text": torch.eye(3)[[0, 1, 2]]}
    found = retrieve_both(rows, {"image": [4, 5, 4, 4], "text": [4, 5, 4]}, same={"image": [9, 3, 9, 7]})
    assert found["image->text"]["queries"] == 3 and found["image->text"]["R@1"] == found["text->image"]["R@1"] == 100


def test_any_two_modalities_in_either_order():
    rows, ids = {"sound": unit(7), "table": unit(7, seed=1)}, {"table": torch.arange(7), "sound": torch.arange(7)}
    one = retrieve_both(rows, ids, same={"table": torch.arange(7)})
    other = retrieve_both({name: rows[name] for name in ("table", "sound")}, ids)
    assert list(one) == ["sound->table", "table->sound"] and list(other) == ["table->sound", "sound->table"]
    assert one == other


def test_without_same_every_row_is_one():
    ids = [0, 1, 2]
    assert retrieve_both({"a": torch.eye(3), "b": torch.eye(3)}, {"a": ids, "b": ids})["a->b"]["queries"] == 3


@pytest.mark.parametrize("rows", [1, 2])
def test_one_item(rows):
    found = retrieval(unit(rows), unit(1), [0] * rows, [0])
    assert found == {"R@1": 100, "R@5": 100, "R@10": 100, "mAP": 100, "median_rank": 1, "queries": rows, "skipped": 0}


@pytest.mark.parametrize("chunk, fits", [(8, True), (400, False)])
def test_memory_is_the_chunk_times_the_gallery(chunk, fits):
    """The largest tensor that any operation makes."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            made = operation(*args, **(kwargs or {}))
            for each in made if isinstance(made, tuple | list) else [made]:
                self.elements = max(self.elements, each.numel() if torch.is_tensor(each) else 0)
            return made

    with Largest() as largest:
        retrieval(unit(400, 4), unit(300, 4, seed=1), torch.arange(400) % 150, torch.arange(300) % 150, chunk=chunk)
    assert (largest.elements <= max(8 * 300, 400 * 4)) is fits


def pairs_for_clip_benchmark(images, captions):
    """Data without ties: distinct pictures, and captions in groups of different sizes."""
    draw = torch.Generator().manual_seed(5)
    owner = torch.cat([torch.arange(images), torch.randint(images, (captions - images,), generator=draw)]).sort().values
    pictures = unit(images, 24, seed=3)
    texts = F.normalize(pictures[owner] + 2 * unit(captions, 24, seed=4), dim=-1)
    return pictures, texts, owner


def test_against_clip_benchmark():
    """Its R@k, both ways, of the same embeddings with one to several captions a picture."""
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    pictures, texts, owner = pairs_for_clip_benchmark(60, 200)

    class Given:
        encode_image = encode_text = staticmethod(lambda rows: rows)

    batches = [(pictures[i : i + 16], [torch.where(owner == j)[0].tolist() for j in range(i, min(i + 16, 60))]) for i in range(0, 60, 16)]
    theirs = evaluate(Given(), batches, lambda rows: texts[rows], "cpu", amp=False, recall_k_list=list(KS))
    ours = retrieve_both({"image": pictures, "text": texts}, {"image": torch.arange(60), "text": owner})
    for k in KS:
        assert ours["image->text"][f"R@{k}"] == pytest.approx(100 * theirs[f"text_retrieval_recall@{k}"], abs=1e-4)
        assert ours["text->image"][f"R@{k}"] == pytest.approx(100 * theirs[f"image_retrieval_recall@{k}"], abs=1e-4)
    assert 20 < ours["image->text"]["R@1"] < 95 and 20 < ours["text->image"]["R@1"] < 95, "a number that could differ"


def test_map_against_scikit_learn():
    """Its average precision of each query, where nothing ties."""
    from sklearn.metrics import average_precision_score

    pictures, texts, owner = pairs_for_clip_benchmark(40, 150)
    scores = (pictures.double() @ texts.double().T).numpy()
    theirs = np.mean([average_precision_score(owner.numpy() == i, scores[i]) for i in range(40)])
    assert retrieval(pictures, texts, torch.arange(40), owner)["mAP"] == pytest.approx(100 * theirs, abs=1e-6)


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
    both, same_ids = {"image": good, "text": good}, {"image": ids, "text": ids}
    for same, message in [
        ({"image": [5, 1, 5, 2]}, "image: rows 0 and 2 are the same but have the ids 0 and 2"),
        ({"text": [5, 1]}, "text: same: expected 4 integers"),
        ({"sound": ids}, "expected ids of two modalities.*same of .'sound'"),
    ]:
        with pytest.raises(ValueError, match=message):
            retrieve_both(both, same_ids, same=same)
    for embeddings, its in [({"image": good}, {"image": ids}), (both, {"image": ids}), ({**both, "x": good}, same_ids)]:
        with pytest.raises(ValueError, match="expected ids of two modalities"):
            retrieve_both(embeddings, its)
    with pytest.raises(ValueError, match="no query"):
        chance([1], [2], (1,))
