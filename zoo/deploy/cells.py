"""Nearest rows among very many: k-means sorts the rows into cells, and a search looks only into the cells nearest to the query.

Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011 (the inverted file, here with whole rows, by faiss).
It may miss some of the nearest rows and k-means takes its time, so it is for galleries in which a look at every row is slow: docs/search.md
has the numbers, also of HNSW, beside which it was chosen. The file is mapped into memory: a search reads the rows of its cells alone.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..progress import console, progress

_SLICE = 16_384  # rows between two steps of the bar
_SHARE = 14  # one of so many cells is looked into
_SAMPLE = 64  # rows a cell that k-means sees


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("cells need faiss: pip install 'effnet-zoo[faiss]'") from error
    return faiss


def faiss_is_there() -> bool:
    from importlib.util import find_spec

    return find_spec("faiss") is not None


def build_cells(embeddings: np.ndarray) -> Any:
    """A faiss index by inner product over `[n, D]` float32 of unit length, with about 4 sqrt(n) cells."""
    faiss = _faiss()
    rows, width = embeddings.shape
    count = max(1, min(round(4 * math.sqrt(rows)), rows // _SAMPLE))
    cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, count, faiss.METRIC_INNER_PRODUCT)
    cells.cp.max_points_per_centroid = _SAMPLE
    firsts = range(0, rows, _SLICE)
    with progress(len(firsts) + 1, "cells") as advance:
        cells.train(embeddings)
        advance("")
        for first in firsts:
            cells.add(embeddings[first : first + _SLICE])
            advance("")
    return cells


def read_cells(file: Path, shape: tuple[int, ...]) -> Any | None:
    """What `build_cells` made of rows of this shape and was kept in a file; None where there is none, or a damaged one, which is said."""
    faiss = _faiss()
    if not file.is_file():
        return None
    try:
        cells = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        if (cells.ntotal, cells.d) != shape:
            raise RuntimeError(f"{cells.ntotal} rows of {cells.d}")
        return cells
    except RuntimeError:
        console.print(f"{file} is damaged; built again", soft_wrap=True, highlight=False)
        return None


def write_cells(cells: Any) -> Callable[[Path], None]:
    """The function that writes them into a file."""
    return lambda file: _faiss().write_index(cells, str(file))


def search_cells(cells: Any, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores, places), both `[Q, k]`; a place is -1 where the cells hold fewer."""
    look = _faiss().SearchParametersIVF(nprobe=math.ceil(cells.nlist / _SHARE))
    return cells.search(queries, k, params=look)
