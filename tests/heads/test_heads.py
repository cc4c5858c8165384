"""The contract of a head, over the registry."""

import re
import time

import pytest
import torch
import torch.nn.functional as F

import zoo.heads  # noqa: F401  # fills the registry
from registry import HEADS

MAPS = [(1, 1), (7, 7), (5, 9), (2, 1)]
NO_TOKENS = {"attnpool"}  # it has positions in two dimensions


def reads(name: str) -> str:
    return getattr(HEADS[name], "reads", "vector")


def build(name: str, in_features: int = 24, embed_dim: int = 16, **own):
    return HEADS[name](in_features, in_features if name == "none" else embed_dim, **own)


def features(name: str, batch: int = 5, width: int = 24, size: tuple[int, int] = (5, 9), **kwargs) -> torch.Tensor:
    """What a tower that ends in a SiLU gives: a map for those that read maps."""
    return F.silu(torch.randn(batch, width, *(size if reads(name) == "map" else ()), **kwargs))


@pytest.fixture(params=sorted(HEADS))
def name(request):
    return request.param


@pytest.fixture
def head(name):
    return build(name)


def inputs(name: str) -> list[torch.Tensor]:
    """Everything that the contract lets in, by kind and size."""
    if reads(name) != "map":
        return [features(name)]
    maps = [features(name, size=size) for size in MAPS]
    maps.append(features(name).contiguous(memory_format=torch.channels_last))
    return maps if name in NO_TOKENS else [*maps, torch.randn(5, 10, 24), torch.randn(5, 1, 24)]


def test_reads_what_a_tower_can_give(name):
    assert reads(name) in ("vector", "map", "stages")


def test_shape_and_gradients(name, head):
    for x in inputs(name):
        x.requires_grad_()
        head.zero_grad()
        y = head(x)
        assert y.shape == (5, 24 if name == "none" else 16)
        y.square().sum().backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
        if x[0].numel() > 24 or reads(name) != "map":  # one pixel leaves an attention nothing to choose, and a power nothing to average
            assert [key for key, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_layout_changes_nothing(name, head):
    if reads(name) == "map":
        x = features(name)
        torch.testing.assert_close(head(x.contiguous(memory_format=torch.channels_last)), head(x))


def test_tokens_are_pixels_in_a_row(name, head):
    if reads(name) == "map" and name not in NO_TOKENS:
        x = features(name)
        torch.testing.assert_close(head(x.flatten(2).transpose(1, 2)), head(x))


def test_other_shapes_are_refused(name, head):
    if reads(name) == "map":
        for shape in [(2, 7, 7, 24), (2, 24, 7), (2, 24), (24, 7, 7)]:
            got = re.escape(str(list(shape)))
            with pytest.raises(ValueError, match=rf"head {name}: expected a .*map \[B, 24, H, W\].*, got {got}"):
                head(torch.randn(shape))


def test_rows_do_not_meet(name, head):
    x = features(name)
    head.eval()
    torch.testing.assert_close(head(x)[1:2], head(x[1:2]))


def test_is_not_normalised(name, head):
    x = features(name)
    head.eval()  # a batch norm that learns undoes the factor before
    assert (head(10 * x).norm(dim=-1) > 2 * head(x).norm(dim=-1)).all()


def test_one_row_in_training_mode_and_zeros(name, head):
    for size in MAPS:
        assert head.train()(features(name, batch=1, size=size)).isfinite().all()
        x = torch.zeros_like(features(name, size=size)).requires_grad_()
        y = head(x)
        y.sum().backward()
        assert y.isfinite().all() and x.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("width", [1280, 960, 100, 24, 97, 6])
def test_any_width(name, width):
    started = time.perf_counter()
    head = build(name, width, 32)
    assert time.perf_counter() - started < 5  # a fraction of a second, on a machine with nothing else to do
    assert head(features(name, batch=2, width=width, size=(2, 2))).isfinite().all()


def test_half_precision(name, head):
    x = features(name)
    exact, half = head(x), head.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(half.float(), exact).min() > 0.999


def test_autocast(name, head):
    x = features(name).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = head(x)
    y.float().square().sum().backward()
    assert F.cosine_similarity(y.float(), head(x)).min() > 0.999
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in head.parameters())


def test_state_dict_round_trip(name, head):
    torch.manual_seed(1)
    other, x = build(name), features(name)
    assert name == "none" or not torch.equal(other(x), head(x))
    other.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(other(x), head(x))


def test_no_weight_decay_names_parameters(head):
    assert set(getattr(head, "no_weight_decay", set)()) <= dict(head.named_parameters()).keys()


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")  # inside torch.export
def test_exports_with_any_batch(name, head):
    head.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(head, (features(name, batch=3),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 7):
        x = features(name, batch=size)
        torch.testing.assert_close(exported(x), head(x))


@pytest.mark.parametrize("length", [1.0, 1e-6], ids=["trained", "untrained in eval mode"])
def test_starts_with_inputs_apart(name, length):
    """No constant may drown what the tower says, also not of a tower that has not learned the scale of its features (1e-6 is a B0's)."""
    own = torch.randn(16, 256, *((1, 1) if reads(name) == "map" else ()))  # what a picture has all over
    x = length * F.silu(own + features(name, batch=16, width=256))
    vectors = x.mean((2, 3)) if x.dim() == 4 else x
    assert together(build(name, 256, 128)(x)) < together(vectors) + 0.15


def together(x: torch.Tensor) -> float:
    """The mean cosine of two different rows."""
    x = F.normalize(x, dim=-1)
    return ((x @ x.T).sum() - len(x)).item() / (len(x) * (len(x) - 1))


def test_starts_with_no_pixel_above_the_others(name):
    """The share of one pixel in the sensitivity of the embedding: 1/49 if all count alike, 1 if one is all that is seen."""
    if reads(name) == "map":
        x = features(name, width=256, size=(7, 7)).requires_grad_()
        build(name, 256, 128)(x).square().sum().backward()
        strength = x.grad.norm(dim=1).flatten(1)
        assert (strength.amax(1) / strength.sum(1) < 0.1).all()
