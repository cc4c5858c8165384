"""Retrieval: how high the first correct item stands when a gallery is ranked by similarity to a query.

    rank = 1 + (how many wrong items score at least as high as the best correct one);   R@k = share of queries with rank <= k

Several items may be correct (captions of one picture, drawings of one thing): the best of them counts, the protocol of VSE++. A tie counts
against the model, or a collapsed one, to which all is equally near, would find everything. `chance` is what a random ranking gets.

VSE++: Faghri et al., arXiv 1707.05612.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def retrieval(
    queries: Tensor, gallery: Tensor, query_ids: Any, gallery_ids: Any, *, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024
) -> dict[str, float | int]:
    """Rank the gallery for every query by dot product, and say how high the first correct item stands.

    Args:
        queries: `[N, D]` of unit length.
        gallery: `[M, D]` of unit length.
        query_ids: `[N]` integers.
        gallery_ids: `[M]` integers; an item is correct for a query of the same id.
        ks: the k of R@k.
        chunk: queries at a time: memory is chunk × M, never N × M.

    Returns:
        `R@k` in percent, `median_rank` (1 is best), `queries` that counted, and `skipped`: those without a correct item, left out.

    Raises:
        ValueError: shapes or ids do not fit, an embedding is not finite, or no query has a correct item.
    """
    query_ids, gallery_ids = torch.as_tensor(query_ids), torch.as_tensor(gallery_ids)
    _check("queries", queries, query_ids)
    _check("gallery", gallery, gallery_ids)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}")
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: expected at least 1")
    columns = _wide(gallery).T
    gallery_ids = gallery_ids.to(columns.device)
    parts = zip(queries.split(chunk), query_ids.split(chunk), strict=True)
    ranks = torch.cat([_ranks(_wide(part).to(columns), columns, ids.to(gallery_ids), gallery_ids) for part, ids in parts])
    if not len(ranks):
        raise ValueError(f"none of {len(queries)} queries has an item of its id in the gallery of {len(gallery)}")
    recalls = {f"R@{k}": 100 * (ranks <= k).double().mean().item() for k in ks}
    return {**recalls, "median_rank": ranks.double().quantile(0.5).item(), "queries": len(ranks), "skipped": len(queries) - len(ranks)}


def chance(query_ids: Any, gallery_ids: Any, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The R@k in percent that a random ranking is expected to get, exactly.

    For a query with c correct of M items, none of the first k is correct with probability C(M - c, k) / C(M, k).
    """
    correct = Counter(torch.as_tensor(gallery_ids).tolist())
    total = correct.total()
    counts = Counter(correct[query] for query in torch.as_tensor(query_ids).tolist() if query in correct)
    if not counts:
        raise ValueError(f"no query has an item of its id in the gallery of {total}")

    def recall(k: int) -> float:
        first = min(k, total)
        miss = sum(n * (math.comb(total - c, first) / math.comb(total, first)) for c, n in counts.items())
        return 100 * (1 - miss / counts.total())

    return {f"R@{k}": recall(k) for k in ks}


def retrieve_both(
    image: Tensor, text: Tensor, image_ids: Any, text_ids: Any, pictures: Any = None, *, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024
) -> dict[str, dict[str, float | int]]:
    """Both directions, "image->text" and "text->image", as `retrieval` gives them.

    Args:
        image: `[N, D]`, a row a picture, or the same picture again for each of its captions.
        text: `[M, D]`.
        image_ids: `[N]` integers.
        text_ids: `[M]` integers, equal to a picture's where it is described.
        pictures: `[N]` integers, equal where rows hold the same picture, which then is one query and one item; by default all differ.

    Raises:
        ValueError: also where one picture has several ids.
    """
    if pictures is not None:
        first, image_ids = _distinct(pictures, image_ids)
        image = image[first.to(image.device)]
    return {
        "image->text": retrieval(image, text, image_ids, text_ids, ks=ks, chunk=chunk),
        "text->image": retrieval(text, image, text_ids, image_ids, ks=ks, chunk=chunk),
    }


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64


def _ranks(queries: Tensor, columns: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> Tensor:
    # float64, then rounded: in float32 the products of equal rows may differ in the last bit from column to column, and a tie would be lost
    scores = (queries @ columns).float()
    correct = query_ids[:, None] == gallery_ids[None, :]
    best = scores.masked_fill(~correct, -math.inf).amax(1, keepdim=True)
    ranks = 1 + ((scores >= best) & ~correct).sum(1)
    return ranks[correct.any(1)]


def _distinct(pictures: Any, ids: Any) -> tuple[Tensor, Tensor]:
    """The first row of each distinct picture, in order of appearance, and its id."""
    pictures, ids = torch.as_tensor(pictures).cpu(), torch.as_tensor(ids).cpu()
    if pictures.shape != ids.shape:
        raise ValueError(f"pictures: expected {len(ids)} integers, one a row, got shape {list(pictures.shape)}")
    first: dict[int, int] = {}
    for row, picture in enumerate(pictures.tolist()):
        start = first.setdefault(picture, row)
        if ids[start] != ids[row]:
            raise ValueError(f"rows {start} and {row} hold the same picture but have the ids {int(ids[start])} and {int(ids[row])}")
    rows = torch.tensor(list(first.values()), dtype=torch.int64)
    return rows, ids[rows]


def _check(name: str, x: Tensor, ids: Tensor) -> None:
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"{name}: expected [N, D] embeddings, got {list(x.shape)}")
    if ids.shape != x.shape[:1]:
        raise ValueError(f"{name}: {len(x)} embeddings, but ids of shape {list(ids.shape)}")
    if not x.isfinite().all():
        bad = (~x.isfinite().all(1)).sum().item()
        raise ValueError(f"{name}: {bad} of {len(x)} embeddings are not finite")
