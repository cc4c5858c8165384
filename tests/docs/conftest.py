"""Pages register gates, heads and data: afterwards neither our registries nor timm's know their names."""

import pytest

from registry import DATASETS, HEADS, LOSSES, TOWERS


@pytest.fixture
def forget_names(forget_attention):
    shelves = [(shelf, set(shelf._things)) for shelf in (DATASETS, HEADS, LOSSES, TOWERS)]
    yield
    for shelf, known in shelves:
        for name in set(shelf._things) - known:
            del shelf._things[name]
