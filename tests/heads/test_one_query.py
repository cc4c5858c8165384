"""One query without keys and values is timm's attention pooling, to rounding, gradients included."""

import pytest
import torch

from registry import HEADS


@pytest.mark.parametrize("name", ["attnpool", "map"])
def test_it_is_timms_attention(name):
    torch.manual_seed(0)
    head = HEADS[name](24, 8, num_heads=4).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 24, 7, 7, dtype=torch.float64, requires_grad=True)
    theirs = head.proj(head.pool(x)) if name == "attnpool" else head.pool(x.flatten(2).transpose(1, 2))
    torch.testing.assert_close(head(x), theirs)
    given = [x, *head.parameters()]
    ours_grad, their_grad = (torch.autograd.grad(y.square().sum(), given) for y in (head(x), theirs))
    for one, other in zip(ours_grad, their_grad, strict=True):
        torch.testing.assert_close(one, other)


def test_keys_and_values_are_not_made():
    """The largest tensor that is made is the tokens, not their projections: those are two and three times as large."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(each.numel() for each in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(each))
            return out

    head, x = HEADS["attnpool"](64, 8, num_heads=2, feat_size=14), torch.randn(8, 64, 14, 14)
    for pool, largest in ((head, 8 * 197 * 64), (head.pool, 3 * 8 * 197 * 64)):
        sizes.clear()
        with Sizes(), torch.no_grad():
            pool(x)
        assert max(sizes) == largest
