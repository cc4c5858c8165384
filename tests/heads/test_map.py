"""The MAP head by hand, its blindness for order, and its start."""

import math

import numpy as np
import pytest
import torch

from zoo.heads import MAP


def scattered(head):
    """With biases, which start at zero."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return head


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("mlp_ratio", [4.0, 0.5])
def test_the_equation(mlp_ratio):
    head = scattered(MAP(6, 4, num_heads=2, mlp_ratio=mlp_ratio)).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    state = {key.removeprefix("pool."): value.numpy() for key, value in head.state_dict().items()}
    assert state["mlp.fc1.weight"].shape == (4 * mlp_ratio, 4)
    for b in range(2):
        k, v = np.split(x[b].flatten(1).T.numpy() @ state["kv.weight"].T + state["kv.bias"], 2, axis=1)
        heard = np.empty(6)
        for each in range(2):
            part = slice(3 * each, 3 * each + 3)
            logits = k[:, part] @ state["latent"][0, 0, part] / math.sqrt(3)
            heard[part] = np.exp(logits) / np.exp(logits).sum() @ v[:, part]
        z = state["proj.weight"] @ heard + state["proj.bias"]
        normed = (z - z.mean()) / np.sqrt(z.var() + 1e-5) * state["norm.weight"] + state["norm.bias"]
        hidden = gelu(state["mlp.fc1.weight"] @ normed + state["mlp.fc1.bias"])
        wanted = z + state["mlp.fc2.weight"] @ hidden + state["mlp.fc2.bias"]
        assert np.allclose(head(x)[b].detach().numpy(), wanted, atol=1e-12)


def test_order_says_nothing():
    head, x = scattered(MAP(24, 16)), torch.randn(2, 24, 5, 9)
    torch.testing.assert_close(head(x.flip(2, 3)), head(x))


def test_a_pixel_can_be_chosen():
    """With a long latent the softmax is a choice: the embedding is that of the chosen pixel alone."""
    head, x = MAP(24, 16), torch.randn(1, 24, 5, 9)
    with torch.no_grad():
        head.pool.latent.mul_(1e5)
    chosen = (head.pool.kv.weight[:24] @ x[0].flatten(1)).mul(head.pool.latent[0, 0, :, None]).sum(0).argmax()
    torch.testing.assert_close(head(x), head(x.flatten(2)[:, :, chosen, None, None]))


def test_biases_start_at_zero_and_the_latent_is_not_decayed():
    head = MAP(24, 16)
    assert all(not parameter.any() for name, parameter in head.named_parameters() if name.endswith("bias"))
    assert not head(torch.zeros(2, 24, 3, 3)).any()
    assert head.no_weight_decay() == {"pool.latent"}


def test_costs_what_its_docstring_says():
    assert 3.9e6 < sum(p.numel() for p in MAP(1280, 256).parameters()) < 4.3e6


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="divides the 24 features, got 7; the nearest is"):
        MAP(24, 16, num_heads=7)
