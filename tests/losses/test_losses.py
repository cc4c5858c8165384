"""The contract of a loss, over the registry."""

import inspect
import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import zoo.losses  # noqa: F401  # fills the registry
from registry import LOSSES

ROOT = Path(__file__).parents[2]
GIVEN = {"logit_scale", "logit_bias", "ids"}  # by the caller; other keywords are the loss's own options
NO_NEGATIVES = {"barlow", "vicreg"}  # statistics of components over the batch: who is whose like is never asked
HINGES = {"triplet", "vsepp"}  # a row is pulled to its own partner only, not to all rows of its id

with_negatives = pytest.mark.parametrize("loss", sorted(set(LOSSES) - NO_NEGATIVES), indirect=True)


def embeddings(rows, width=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, dtype=dtype, generator=generator), dim=-1)


@pytest.fixture(params=sorted(LOSSES))
def loss(request):
    return LOSSES[request.param]


def start(loss, rows, dtype=torch.float64):
    scale = None if loss.init_logit_scale is None else torch.tensor([math.exp(loss.init_logit_scale)], dtype=dtype)
    bias = None if loss.init_logit_bias is None else torch.tensor([loss.init_logit_bias(rows)], dtype=dtype)
    return {"logit_scale": scale, "logit_bias": bias}


def own(loss):
    """The loss's own options and their defaults."""
    keywords = inspect.signature(loss).parameters
    return {name: each.default for name, each in keywords.items() if each.kind is each.KEYWORD_ONLY and name not in GIVEN}


def test_the_start_is_finite_for_any_batch(loss):
    for rows in (1, 2, 65536):
        assert loss.init_logit_bias is None or math.isfinite(loss.init_logit_bias(rows))
    assert loss.init_logit_scale is None or 0 <= loss.init_logit_scale < math.log(100)


def test_options_have_defaults_that_json_can_hold(loss):
    assert json.loads(json.dumps(own(loss))) == own(loss)


def test_a_warm_up_ends_at_the_defaults(loss):
    during = getattr(loss, "during", None)
    if during is None:
        return
    assert during(1.0) == {name: own(loss)[name] for name in during(1.0)}
    assert during(0.0) != during(1.0)
    a, b = embeddings(6), embeddings(6, seed=1)
    for progress in (0.0, 0.1, 0.5, 1.0):
        assert loss(a, b, **start(loss, 6), **json.loads(json.dumps(during(progress)))).isfinite()


@pytest.mark.parametrize("ids", [None, [0, 1, 0, 2, 1]])
def test_gradients_are_those_of_the_value(loss, ids):
    a, b, given = embeddings(5), embeddings(5, seed=1), start(loss, 5)
    names = [name for name, value in given.items() if value is not None]
    inputs = [each.requires_grad_() for each in (a, b, *(given[name] for name in names))]
    ids = None if ids is None else torch.tensor(ids)

    def value(a, b, *learned):
        return loss(a, b, ids=ids, **{**given, **dict(zip(names, learned, strict=True))})

    assert torch.autograd.gradcheck(value, inputs)


def test_a_batch_that_is_all_one_thing(loss):
    """One row, or several of one id: nothing to compare with, and nothing that is not a number."""
    for rows, ids in ((1, None), (1, [7]), (3, [7, 7, 7])):
        a, b = embeddings(rows).requires_grad_(), embeddings(rows, seed=1).requires_grad_()
        value = loss(a, b, ids=None if ids is None else torch.tensor(ids), **start(loss, rows))
        assert value.ndim == 0 and value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (a, b)))


def test_ids_that_all_differ_are_no_ids(loss):
    a, b = embeddings(6), embeddings(6, seed=1)
    with_ids = loss(a, b, ids=torch.tensor([5, 3, 9, 100, -1, 0]), **start(loss, 6))
    torch.testing.assert_close(with_ids, loss(a, b, **start(loss, 6)))


def test_ids_matter_where_there_are_negatives(loss, request):
    a, b, ids = embeddings(6), embeddings(6, seed=1), torch.tensor([0, 0, 1, 2, 2, 2])
    equal = torch.equal(loss(a, b, ids=ids, **start(loss, 6)), loss(a, b, **start(loss, 6)))
    assert equal == (request.node.callspec.params["loss"] in NO_NEGATIVES)


def test_the_two_sides_are_equal_and_rows_have_no_order(loss):
    a, b, ids, order = embeddings(6), embeddings(6, seed=1), torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([3, 1, 5, 0, 2, 4])
    value = loss(a, b, ids=ids, **start(loss, 6))
    torch.testing.assert_close(loss(b, a, ids=ids, **start(loss, 6)), value)
    torch.testing.assert_close(loss(a[order], b[order], ids=ids[order], **start(loss, 6)), value)


def test_partners_are_better_than_strangers(loss):
    a = embeddings(6)
    assert loss(a, a, **start(loss, 6)) < loss(a, a.roll(1, 0), **start(loss, 6))


def test_a_few_steps_find_the_partners(loss):
    """Free embeddings, moved by the gradient: afterwards the nearest row of the other side is the partner."""
    a, b = embeddings(16, 8, torch.float32).requires_grad_(), embeddings(16, 8, torch.float32, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([a, b], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(F.normalize(a, dim=-1), F.normalize(b, dim=-1), **start(loss, 16, torch.float32)).backward()
        optimizer.step()
    nearest = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T).argmax(1)
    assert (nearest == torch.arange(16)).float().mean() > 0.9


@with_negatives
def test_ids_stop_a_row_from_pushing_its_like_away(loss, request):
    """Rows 0 and 1 are one thing, and their b are as near to a_0: b_1 is pushed away from a_0 without ids, and is not with them."""
    a, b = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    b[:2, :2] = 0.5**0.5
    pull = {}
    for name, ids in (("ids", torch.tensor([0, 0, 1, 2])), ("none", None)):
        leaf = b.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(a, leaf, ids=ids, **start(loss, 4)), leaf)
        pull[name] = -gradient[1, 0].item()
    assert pull["none"] < 0
    assert pull["ids"] == 0 if request.node.callspec.params["loss"] in HINGES else pull["ids"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    a, b = embeddings(32, 64, torch.float32).to(dtype), embeddings(32, 64, torch.float32, seed=1).to(dtype)
    expected = loss(a.double(), b.double(), **start(loss, 32))
    value = loss(a, b, **start(loss, 32, dtype=torch.float32))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)


def test_autocast_does_not_reach_the_loss(loss):
    a, b = embeddings(32, 64, torch.float32), embeddings(32, 64, torch.float32, seed=1)
    plain = loss(a, b, **start(loss, 32, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(a, b, **start(loss, 32, torch.float32)), plain)
        assert not torch.equal(a @ b.T, plain.new_tensor(a.double().numpy() @ b.double().numpy().T)), "autocast was off: nothing tested"


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_file_test_and_page_have_the_name(name):
    for file in (f"zoo/losses/{name}.py", f"tests/losses/test_{name}.py", f"docs/losses/{name}.md"):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_page_names_the_options(name):
    """Each option with its default, and no option that is not there; and where the logit scale starts."""
    page, loss = (ROOT / "docs" / "losses" / f"{name}.md").read_text(), LOSSES[name]
    assert page.startswith(f"# {name}: ") and "**Paper**" in page and re.search(r"arXiv \d{4}\.\d{5}", page)
    table = page.split("## Options", 1)[1].split("\n## ", 1)[0]
    assert dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", table, flags=re.MULTILINE)) == {
        key: str(value) for key, value in own(loss).items()
    }
    assert own(loss) or "It has no options." in table
    assert ("no logit scale" in page) == (loss.init_logit_scale is None)
    assert ("during training" in table) == hasattr(loss, "during")
