"""Batch norms that share their statistics: in one process they are torch's and timm's own; in several, see tests/distributed."""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from zoo.layers import BatchNorm
from zoo.train.sync_bn import sync_batch_norms

CPU = torch.device("cpu")
KINDS = {
    "2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "1d": (lambda: nn.BatchNorm1d(3, momentum=None), (6, 3)),
    "gate": (lambda: BatchNorm(3), (4, 3, 1, 1)),
    "act": (lambda: BatchNormAct2d(3, eps=1e-3), (4, 3, 5, 5)),
}


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def learned(norm: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of two steps, gradients, and statistics."""
    x = x.clone().requires_grad_()
    outputs = [norm(x), norm(3 * x + 1)]
    (outputs[0].pow(3).sum() + outputs[1].sin().sum()).backward()
    return [*outputs, x.grad, norm.weight.grad, norm.bias.grad, *norm.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_they_learn_what_torchs_do(kind, group, monkeypatch):
    make, shape = KINDS[kind]
    plain = make().double()
    synced = copy.deepcopy(plain)
    assert sync_batch_norms(synced, CPU) == 1
    x = torch.randn(shape, dtype=torch.float64)
    asked = []
    real = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda *given: asked.append(given) or real(*given))
    for found, expected in zip(learned(synced, x), learned(plain, x), strict=True):
        torch.testing.assert_close(found, expected)
    assert asked, "it asked the other processes"
    asked.clear()
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))
    assert not asked


def test_a_network_stays_the_one_it_is():
    network = timm.create_model("effnet_cbam_test")
    names, kept = list(network.state_dict()), copy.deepcopy(network)
    norms = sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
    assert sync_batch_norms(network, CPU) == norms == sync_batch_norms(network, CPU) > 10
    assert list(network.state_dict()) == names
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), kept(x))  # with nobody to share with, also in train mode
    copy.deepcopy(network).load_state_dict(kept.state_dict())


def test_a_kind_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="BatchNorm3d cannot share"):
        sync_batch_norms(nn.BatchNorm3d(2), CPU)


def test_on_a_gpu_they_become_torchs_and_timms_own():
    network = timm.create_model("effnet_cbam_test")
    names = list(network.state_dict())
    sync_batch_norms(network, torch.device("cuda"))
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert list(network.state_dict()) == names and all(isinstance(part, nn.SyncBatchNorm) for part in norms)
