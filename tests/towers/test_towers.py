"""The contract of a tower, and of a text tower, over the registry."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
import torch

import zoo
from registry import TOWERS

TEXTS = ["greek small letter alpha", "a", "", "latin capital letter a with macron and acute"]
TOKENIZER = zoo.towers.Tokenizer.train(TEXTS * 2)
SMALL = {"width": 32, "max_length": 24}
TEXT_TOWERS = [name for name in sorted(TOWERS) if "tokenizer" in inspect.signature(TOWERS[name]).parameters]

NOISE = np.random.default_rng(0).standard_normal((4, 4000)) / 10
VALUES = {
    "text": TEXTS,
    "table": [{"age": 61, "city": "Bonn"}, {"age": "48.5", "city": "Kiel"}, {"city": "Bonn"}, {"age": 30, "city": "Kiel"}],
    "vector": [[1.0, 2.0, 3.0], [4.0, 1.0, -1.0], np.array([0.0, 0.5, 9.0]), [1.0, 1.0, 1.0]],
    "audio": [(wave[: 1000 * length], 8000) for wave, length in zip(NOISE, (4, 3, 2, 1), strict=True)],
}
OPTIONS = {
    "vector": {"width": 8},
    "spectrogram": {"model": "effnet_eca_test", "sample_rate": 8000, "seconds": 0.5, "mels": 32},
    **dict.fromkeys(TEXT_TOWERS, SMALL),
}


def fit(name: str) -> torch.nn.Module:
    """As a user gets it: from the values of the training split."""
    tower, options = TOWERS[name], OPTIONS.get(name, {})
    return tower(tokenizer=TOKENIZER, **options) if name in TEXT_TOWERS else tower.fit(VALUES[tower.reads], **options)


# a tower that is somebody else's network, in a folder, is tested where that folder is made
@pytest.fixture(params=[name for name in sorted(TOWERS) if name in TEXT_TOWERS or hasattr(TOWERS[name], "fit")])
def any_tower(request):
    torch.manual_seed(0)
    return fit(request.param).eval()


def test_features(any_tower):
    values = VALUES[any_tower.reads]
    features = any_tower(any_tower.prepare(values))
    assert features.shape == (4, any_tower.num_features) and features.isfinite().all()
    assert torch.pdist(features).min() > 0, "different values, same features"


def test_a_row_does_not_know_the_others(any_tower):
    values = VALUES[any_tower.reads]
    alone = torch.cat([any_tower(any_tower.prepare([value])) for value in values])
    torch.testing.assert_close(alone, any_tower(any_tower.prepare(values)), atol=1e-5, rtol=1e-5)


def test_prepare_travels_to_a_worker_and_leaves_chance_alone(any_tower):
    values = VALUES[any_tower.reads]
    state = torch.get_rng_state()
    there = pickle.loads(pickle.dumps(any_tower.prepare))
    torch.testing.assert_close(there(values), any_tower.prepare(values), atol=0, rtol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_rebuilt_from_its_config(any_tower):
    config = json.loads(json.dumps(any_tower.config, sort_keys=True))
    tokenizer = {"tokenizer": TOKENIZER} if hasattr(any_tower, "tokenizer") else {}
    again = type(any_tower)(**tokenizer, **config).eval()
    again.load_state_dict(any_tower.state_dict(), strict=True)
    values = VALUES[any_tower.reads]
    assert torch.equal(again(again.prepare(values)), any_tower(any_tower.prepare(values))) and again.config == any_tower.config


def test_all_of_it_learns(any_tower):
    any_tower.train()(any_tower.prepare(VALUES[any_tower.reads])).pow(3).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in any_tower.parameters())
    assert all(parameter.grad.any() for name, parameter in any_tower.named_parameters() if name.endswith("weight"))


def test_mixed_precision(any_tower):
    x = any_tower.prepare(VALUES[any_tower.reads])
    expected = any_tower(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = any_tower(x)
    torch.testing.assert_close(mixed.float(), expected, atol=0.1, rtol=0.1)


def test_no_weight_decay_names_parameters(any_tower):
    assert set(getattr(any_tower, "no_weight_decay", tuple)()) <= {name for name, _ in any_tower.named_parameters()}


def test_exports_with_any_batch(any_tower):
    x = any_tower.prepare(VALUES[any_tower.reads])
    program = torch.export.export(any_tower, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    for rows in (x, x[:2], torch.cat([x, x.flip(0)])):
        torch.testing.assert_close(program(rows), any_tower(rows), atol=1e-5, rtol=1e-5)


def test_every_tower_says_what_it_reads():
    assert {TOWERS[name].reads for name in TOWERS} <= {"text", "table", "vector", "audio"}


@pytest.fixture(params=TEXT_TOWERS)
def tower(request):
    torch.manual_seed(0)
    return fit(request.param).eval()


def test_texts_are_told_apart(tower):
    assert torch.pdist(tower(tower.prepare(TEXTS))).min() > 0.01


@pytest.mark.parametrize("tokenizer", [TOKENIZER, zoo.towers.Tokenizer.bytes()], ids=["bpe", "bytes"])
@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_padding_changes_nothing(name, tokenizer):
    torch.manual_seed(0)
    tower = TOWERS[name](tokenizer=tokenizer, width=32, max_length=64).eval()
    for parameter in tower.parameters():  # away from the start, where all is small, also what should not matter
        torch.nn.init.normal_(parameter, std=0.3)
    together = tower(tower.prepare(TEXTS))
    alone = torch.cat([tower(tower.prepare([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wider = torch.nn.functional.pad(tower.prepare(TEXTS), (0, 5))[:, :64]
    torch.testing.assert_close(tower(wider), together, atol=1e-5, rtol=1e-5)


def test_rows_of_padding_alone_stay_finite(tower):
    assert tower(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


def test_half_precision(tower):
    ids = tower.prepare(TEXTS)
    assert copy.deepcopy(tower).bfloat16()(ids).isfinite().all()


def test_tokens_do_not_decay(tower):
    assert "tokens.weight" in tower.no_weight_decay()


def test_exports_with_any_batch_and_length(tower):
    ids = tower.prepare(TEXTS)
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=24)
    program = torch.export.export(tower, (ids,), dynamic_shapes=({0: rows, 1: length},)).module()
    for texts in (TEXTS, TEXTS[:2], TEXTS[3:] * 5):
        ids = tower.prepare(texts)
        torch.testing.assert_close(program(ids), tower(ids), atol=1e-5, rtol=1e-5)
