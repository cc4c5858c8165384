"""The contract of a tower, and of a text tower, over the registry."""

import copy
import json

import pytest
import torch

import zoo.towers
from registry import TOWERS

TEXTS = ["greek small letter alpha", "a", "", "latin capital letter a with macron and acute"]
TOKENIZER = zoo.towers.Tokenizer.train(TEXTS * 2)
SMALL = {"width": 32, "max_length": 24}
TEXT_TOWERS = [name for name in sorted(TOWERS) if name in ("bag", "clip_text", "transformer")]


@pytest.fixture(params=TEXT_TOWERS)
def tower(request):
    torch.manual_seed(0)
    return TOWERS[request.param](tokenizer=TOKENIZER, **SMALL).eval()


def test_features_of_texts(tower):
    features = tower(tower.prepare(TEXTS))
    assert features.shape == (4, tower.num_features) and features.isfinite().all()
    assert torch.pdist(features).min() > 0.01, "different texts, same features"


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


def test_rebuilt_from_its_config(tower):
    name = next(name for name in TEXT_TOWERS if TOWERS[name] is type(tower))
    config = json.loads(json.dumps(tower.config))
    assert config["width"] == 32 and config["max_length"] == 24
    again = TOWERS[name](tokenizer=TOKENIZER, **config).eval()
    again.load_state_dict(tower.state_dict(), strict=True)
    ids = tower.prepare(TEXTS)
    assert torch.equal(again(ids), tower(ids)) and again.config == tower.config


def test_all_of_it_learns(tower):
    tower.train()(tower.prepare(TEXTS)).pow(3).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in tower.parameters())
    assert all(parameter.grad.any() for name, parameter in tower.named_parameters() if name.endswith("weight"))


def test_rows_of_padding_alone_stay_finite(tower):
    assert tower(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


def test_half_precision(tower):
    ids = tower.prepare(TEXTS)
    expected = tower(ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tower(ids)
    torch.testing.assert_close(mixed.float(), expected, atol=0.1, rtol=0.1)
    assert copy.deepcopy(tower).bfloat16()(ids).isfinite().all()


def test_no_weight_decay_names_parameters(tower):
    assert tower.no_weight_decay() <= {name for name, _ in tower.named_parameters()}
    assert "tokens.weight" in tower.no_weight_decay()


def test_exports_with_any_batch_and_length(tower):
    ids = tower.prepare(TEXTS)
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=24)
    program = torch.export.export(tower, (ids,), dynamic_shapes=({0: rows, 1: length},)).module()
    for texts in (TEXTS, TEXTS[:2], TEXTS[3:] * 5):
        ids = tower.prepare(texts)
        torch.testing.assert_close(program(ids), tower(ids), atol=1e-5, rtol=1e-5)
