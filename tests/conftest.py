"""What every test starts from: a fixed seed; and a way to try out a name without leaving it behind."""

import pytest
import torch

torch.set_num_threads(1)  # small networks are no faster with two, and beside another process much slower


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def try_attention():
    """register(name, cls): an attention for the length of one test; afterwards neither our registry nor timm's knows its names."""
    from timm.models import _registry as timms

    from registry import ATTENTION
    from zoo.backbones import VARIANTS, effnet

    names: list[str] = []

    def register(name: str, thing: type) -> type:
        names.append(name)
        return ATTENTION.register(name)(thing)

    yield register
    for name in names:
        ATTENTION._things.pop(name, None)
        for model in (f"effnet_{name}_{variant}" for variant in VARIANTS):
            timms._model_entrypoints.pop(model, None)
            timms._clear_model_entries(model)
            effnet.default_cfgs.pop(model, None)
            vars(effnet).pop(model, None)
            if model in effnet.__all__:
                effnet.__all__.remove(model)
