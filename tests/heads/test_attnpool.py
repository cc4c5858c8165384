"""Attention pooling against PyTorch's own multi-head attention and plain loops; positions; sizes that it was not made for."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.heads import AttnPool


def scattered(head):
    """With positions and biases, which start at zero."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return head


def test_the_equation():
    head = scattered(AttnPool(6, 4, num_heads=2, feat_size=3)).double()
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    state = {key: value.numpy() for key, value in head.state_dict().items()}
    for b in range(2):
        seen = x[b].flatten(1).T.numpy()
        z = np.concatenate([seen.mean(0, keepdims=True), seen]) + state["pool.pos_embed"]
        q, k, v = np.split(z @ state["pool.qkv.weight"].T + state["pool.qkv.bias"], 3, axis=1)
        heard = np.empty(6)
        for each in range(2):
            part = slice(3 * each, 3 * each + 3)
            logits = [q[0, part] @ k[i, part] / math.sqrt(3) for i in range(10)]
            weights = np.exp(logits) / np.exp(logits).sum()
            heard[part] = sum(weights[i] * v[i, part] for i in range(10))
        assert np.allclose(head(x)[b].detach().numpy(), state["proj.weight"] @ heard, atol=1e-12)


def test_equals_clips_use_of_multi_head_attention():
    """CLIP's ResNet calls PyTorch's function, with one question: the mean's."""
    head = scattered(AttnPool(24, 16, num_heads=3))
    x = torch.randn(2, 24, 7, 7)
    z = x.flatten(2).permute(2, 0, 1)
    z = torch.cat([z.mean(0, keepdim=True), z]) + head.pool.pos_embed[:, None]
    found, _ = F.multi_head_attention_forward(
        z[:1], z, z, 24, 3, head.pool.qkv.weight, head.pool.qkv.bias, None, None, False, 0.0, torch.eye(24), torch.zeros(24)
    )
    torch.testing.assert_close(head(x), head.proj(found[0]))


def test_starts_near_the_mean():
    head, x = AttnPool(24, 16), 0.1 * torch.randn(2, 24, 7, 7)
    value = head.pool.qkv.weight[48:]
    torch.testing.assert_close(head(x), x.mean((2, 3)) @ value.T @ head.proj.weight.T, rtol=0.05, atol=1e-3)


def test_knows_where_a_pixel_is():
    head, x = scattered(AttnPool(24, 16)), torch.randn(2, 24, 7, 7)
    assert not torch.allclose(head(x.flip(3)), head(x), atol=1e-2)


def test_positions_stretch_with_the_map(monkeypatch):
    """Positions that grow from left to right do so in a map of another size too; in the corners they are what they were."""
    head = AttnPool(24, 16, feat_size=7)
    ramp = torch.linspace(-1, 1, 7).expand(7, 7).reshape(49, 1).expand(49, 24)
    with torch.no_grad():
        head.pool.pos_embed[1:] = ramp
    seen = []
    monkeypatch.setattr("zoo.heads.attnpool.attend", lambda z, *rest: seen.append(z) or z[:, 0])
    for size in ((7, 7), (14, 14), (4, 9)):
        head(torch.zeros(1, 24, *size))
        found = seen[-1][0, 1:, 0].reshape(size)
        torch.testing.assert_close(found, found[:1].expand(size))
        torch.testing.assert_close(found[0], -found[0].flip(0))
        assert (found[0].diff() > 0).all() and 0.8 < found[0, -1] < 1.1


def test_positions_are_not_decayed():
    assert AttnPool(24, 16).no_weight_decay() == {"pool.pos_embed"}


def test_tokens_are_refused():
    with pytest.raises(
        ValueError, match=r"got \[2, 49, 24\]; tokens have no rows and columns to learn positions of: the head map reads them"
    ):
        AttnPool(24, 16)(torch.randn(2, 49, 24))


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="divides the 24 features, got 5; the nearest is 4"):
        AttnPool(24, 16, num_heads=5)
    with pytest.raises(ValueError, match="feat_size: expected at least 1, .* got 0"):
        AttnPool(24, 16, feat_size=0)
