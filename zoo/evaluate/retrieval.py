"""Retrieval: how high the correct items stand when a gallery is ranked by similarity to a query.

    rank_j = j + (how many wrong items score at least as high as the j-th best correct one)
    rank = rank_1;   R@k = share of queries with rank <= k;   AP = mean over j of j / rank_j;   mAP = mean of AP over queries

Several items may be correct (captions of one picture, drawings of one thing). For rank and R@k the best of them counts, the protocol of
VSE++; for mAP all of them do. A tie counts against the model, or a collapsed one, to which all is equally near, would find everything.
`chance` is what a random ranking gets.

VSE++: Faghri et al., arXiv 1707.05612.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def retrieval(
    queries: Tensor, gallery: Tensor, query_ids: Any, gallery_ids: Any, *, ks: Sequence[int] = (1, 5, 10), chunk: int = 256
) -> dict[str, float | int]:
    """Rank the gallery for every query by dot product, and say how high the correct items stand.

    Args:
        queries: `[N, D]` of unit length.
        gallery: `[M, D]` of unit length.
        query_ids: `[N]` integers.
        gallery_ids: `[M]` integers; an item is correct for a query of the same id.
        ks: the k of R@k.
        chunk: queries at a time: memory is chunk × M, never N × M.

    Returns:
        `R@k` and `mAP` in percent, `median_rank` (1 is best), `queries` that counted, and `skipped`: those that have no correct item.

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
    query_ids, gallery_ids = query_ids.to(columns.device), gallery_ids.to(columns.device)
    answered = torch.isin(query_ids, gallery_ids)
    if not answered.any():
        raise ValueError(f"none of {len(queries)} queries has an item of its id in the gallery of {len(gallery)}")
    asked = zip(queries[answered.to(queries.device)].split(chunk), query_ids[answered].split(chunk), strict=True)
    parts = [_ranked(_wide(part).to(columns), columns, ids, gallery_ids) for part, ids in asked]
    ranks, precisions = (torch.cat(each) for each in zip(*parts, strict=True))
    return {
        **{f"R@{k}": 100 * (ranks <= k).double().mean().item() for k in ks},
        "mAP": 100 * precisions.mean().item(),
        "median_rank": ranks.double().quantile(0.5).item(),
        "queries": len(ranks),
        "skipped": len(queries) - len(ranks),
    }


def chance(query_ids: Any, gallery_ids: Any, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The R@k and mAP in percent that a random ranking is expected to get, exactly.

    For a query with c correct of M items, none of the first k is correct with probability C(M - c, k) / C(M, k). Place i is correct with
    probability c / M, and each place before it then with (c - 1) / (M - 1), so that with H = 1 + 1/2 + ... + 1/M

        E[AP] = (H + (c - 1) / (M - 1) (M - H)) / M
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

    harmonic = sum(1 / place for place in range(1, total + 1))
    precision = sum(n * (harmonic + (c - 1) / max(total - 1, 1) * (total - harmonic)) / total for c, n in counts.items())
    return {**{f"R@{k}": recall(k) for k in ks}, "mAP": 100 * precision / counts.total()}


def retrieve_both(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Any],
    *,
    same: Mapping[str, Any] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 256,
) -> dict[str, dict[str, Any]]:
    """Both directions between two modalities, such as "image->text" and "text->image", as `retrieval` gives them, with their `chance`.

    Args:
        embeddings: of two modalities, each `[N, D]` with an N of its own.
        ids: of the same two, each `[N]` integers; rows of the two belong together where they are equal.
        same: of either or both, `[N]` integers, equal where rows hold the very same thing (a picture again for each of its captions),
            which then is one query and one item; by default all differ.

    Raises:
        ValueError: not two modalities, or rows of the very same thing with several ids; also what `retrieval` raises.
    """
    same = same or {}
    if len(embeddings) != 2 or set(ids) != set(embeddings) or not set(same) <= set(embeddings):
        raise ValueError(f"expected ids of two modalities, got embeddings of {list(embeddings)}, ids of {list(ids)}, same of {list(same)}")
    sides = {name: _distinct(name, x, torch.as_tensor(ids[name]), same.get(name)) for name, x in embeddings.items()}

    def way(one: str, other: str) -> dict[str, Any]:
        (queries, query_ids), (gallery, gallery_ids) = sides[one], sides[other]
        found = retrieval(queries, gallery, query_ids, gallery_ids, ks=ks, chunk=chunk)
        return {**found, "chance": chance(query_ids, gallery_ids, ks)}

    one, other = sides
    return {f"{one}->{other}": way(one, other), f"{other}->{one}": way(other, one)}


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64


def _ranked(queries: Tensor, columns: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of the best correct item and the average precision, both `[queries]`; each query has a correct item."""
    # float64, then rounded: in float32 the products of equal rows may differ in the last bit from column to column, and a tie would be lost
    scores = (queries @ columns).float()
    correct = query_ids[:, None] == gallery_ids[None, :]
    counts = correct.sum(1, keepdim=True)
    most = int(counts.max())
    steps = scores.masked_fill(~correct, math.inf).topk(most, largest=False).values  # the correct ones, worst first, then infinity
    passed = torch.searchsorted(steps, scores, right=True)  # how many correct items stand no higher than each item
    passed.masked_fill_(correct, 0).add_(torch.arange(len(scores), device=scores.device)[:, None] * (most + 1))
    passing = torch.bincount(passed.flatten(), minlength=len(scores) * (most + 1)).view(-1, most + 1)  # wrong items, by how many they pass
    wrong = passing.flip(1).cumsum(1).flip(1)[:, 1:]  # at or above each correct item
    place = counts - torch.arange(most, device=scores.device)  # among the correct ones, 1 is the best; below 1 there is none
    precision = (place.double() / (place + wrong)).masked_fill(place < 1, 0).sum(1)
    return 1 + wrong.gather(1, counts - 1).squeeze(1), precision / counts.squeeze(1)


def _distinct(name: str, x: Tensor, ids: Tensor, same: Any) -> tuple[Tensor, Tensor]:
    """The first row of each distinct thing, in order of appearance, and its id."""
    _check(name, x, ids)
    if same is None:
        return x, ids
    same, ids = torch.as_tensor(same).cpu(), ids.cpu()
    if same.shape != ids.shape:
        raise ValueError(f"{name}: same: expected {len(ids)} integers, one a row, got shape {list(same.shape)}")
    first: dict[int, int] = {}
    for row, thing in enumerate(same.tolist()):
        start = first.setdefault(thing, row)
        if ids[start] != ids[row]:
            raise ValueError(f"{name}: rows {start} and {row} are the same but have the ids {int(ids[start])} and {int(ids[row])}")
    rows = torch.tensor(list(first.values()), dtype=torch.int64)
    return x[rows.to(x.device)], ids[rows]


def _check(name: str, x: Tensor, ids: Tensor) -> None:
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"{name}: expected [N, D] embeddings, got {list(x.shape)}")
    if ids.shape != x.shape[:1]:
        raise ValueError(f"{name}: {len(x)} embeddings, but ids of shape {list(ids.shape)}")
    if not x.isfinite().all():
        bad = (~x.isfinite().all(1)).sum().item()
        raise ValueError(f"{name}: {bad} of {len(x)} embeddings are not finite")
