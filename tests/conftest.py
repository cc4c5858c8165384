"""What every test starts from: a fixed seed; and a way to try out a name without leaving it behind."""

import pytest
import torch

torch.set_num_threads(1)  # small networks are no faster with two, and beside another process much slower


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def forget_attention():
    """An attention that is registered during the test is afterwards known neither to our registry nor to timm's."""
    from timm.models import _registry as timms

    from registry import ATTENTION
    from zoo.backbones import VARIANTS, effnet

    known = set(ATTENTION._things)
    yield
    for name in set(ATTENTION._things) - known:
        ATTENTION._things.pop(name)
        for model in (f"effnet_{name}_{variant}" for variant in VARIANTS):
            timms._model_entrypoints.pop(model, None)
            timms._clear_model_entries(model)
            effnet.default_cfgs.pop(model, None)
            vars(effnet).pop(model, None)
            if model in effnet.__all__:
                effnet.__all__.remove(model)


@pytest.fixture
def try_attention(forget_attention):
    """register(name, cls): an attention for the length of one test."""
    from registry import ATTENTION

    return lambda name, thing: ATTENTION.register(name)(thing)
