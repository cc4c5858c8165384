"""The bag: its feature by hand, and order does not matter."""

import torch

from zoo.towers import Bag, Tokenizer


def test_the_equation():
    torch.manual_seed(0)
    tower = Bag(tokenizer=Tokenizer.bytes(), width=16).double().eval()
    ids = tower.prepare(["ab", "a longer text"])
    mean = (tower.tokens.weight[1 + ord("a")] + tower.tokens.weight[1 + ord("b")] + tower.tokens.weight[257]) / 3
    mean = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(tower(ids)[0], mean + tower.mlp(mean))


def test_order_does_not_matter():
    tower = Bag(tokenizer=Tokenizer.bytes(), width=16).eval()
    one, two = tower(tower.prepare(["alpha beta", "beta alpha"]))
    torch.testing.assert_close(one, two)
