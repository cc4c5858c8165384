"""Ways to the ten nearest of many rows: recall, seconds to build, milliseconds for one query and for 256. One thread.

    OMP_NUM_THREADS=1 python docs/results/search.py 200000

Rows of 256 numbers: random directions (nothing is near to anything), and 2,000 clusters (cosine about 0.8 within one).
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from torch.nn.functional import normalize

from zoo.deploy.cells import build_cells, search_cells
from zoo.deploy.index import nearest_rows

WIDTH, QUERIES, K = 256, 256, 10


def rows(kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    centres = torch.randn(2000, WIDTH, generator=make)

    def some(number: int) -> torch.Tensor:
        noise = torch.randn(number, WIDTH, generator=make)
        return normalize(noise if kind == "random" else centres[torch.randint(2000, (number,), generator=make)] + 0.5 * noise)

    return some(count), some(QUERIES)


def timed(work: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work(*given)
    return time.perf_counter() - start, made


def hnsw(gallery: np.ndarray) -> faiss.Index:
    graph = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 80, 512
    graph.add(gallery)
    return graph


def flat(gallery: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(WIDTH)
    index.add(gallery)
    return index


if __name__ == "__main__":
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    for kind in ("random", "clustered"):
        gallery, queries = rows(kind, int(sys.argv[1]))
        ways = {
            "exact": (torch.from_numpy, lambda made, asked: nearest_rows(torch.from_numpy(asked), made, K)[1].numpy()),
            "IndexFlatIP": (flat, lambda made, asked: made.search(asked, K)[1]),
            "cells": (build_cells, lambda made, asked: search_cells(made, asked, K)[1]),
            "HNSW": (hnsw, lambda made, asked: made.search(asked, K)[1]),
        }
        truth = nearest_rows(queries, gallery, K)[1].tolist()
        for name, (build, search) in ways.items():
            built, made = timed(build, gallery.numpy())
            asked = queries.numpy()
            one = min(timed(search, made, asked[:1])[0] for _ in range(5))
            all_of_them, found = timed(search, made, asked)
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth, strict=True)])
            print(f"| {kind} | {name} | {recall:.3f} | {built:.1f} s | {one * 1e3:.1f} ms | {all_of_them * 1e3:.0f} ms |", flush=True)
