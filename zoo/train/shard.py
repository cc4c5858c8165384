"""A large tower cut into shards, one a process (FSDP2): its weights, gradients and optimizer state are kept once, not in every process.

A block's weights are gathered when it runs and let go after. What is not sharded stays as it is, so that a model holds tensors of both
kinds; the optimizer, clipping and the running average are told so (`mixed`). On disk there are no shards: a checkpoint holds whole tensors,
from which sharded and other runs go on alike.

Zhao et al., "PyTorch FSDP", arXiv 2304.11277; torch.distributed.fsdp.fully_shard.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication


def is_sharded(tensor: Any) -> bool:
    return isinstance(tensor, DTensor)


def shard(tower: nn.Module, device: str) -> None:
    """Cut a tower into as many shards as there are processes, in place: block by block where it has lists of blocks, and the rest as one.

    Raises:
        ValueError: it has batch norms, whose statistics would be another's in each process.
    """
    norms = [name for name, part in tower.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if norms:
        raise ValueError(f"{type(tower).__name__} has batch norms ({norms[0]}, ...), whose statistics are not shared between shards")
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    lists = {name: part for name, part in tower.named_modules() if isinstance(part, nn.ModuleList)}
    for name, blocks in lists.items():
        if not any(name.startswith(f"{other}.") for other in lists):  # a list within a block goes with it
            for block in blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(tower, mesh=mesh)


@contextmanager
def mixed(module: nn.Module) -> Iterator[None]:
    """Inside, one operation may take tensors of both kinds, if the module has sharded ones; what is not sharded is the same everywhere."""
    if not any(is_sharded(parameter) for parameter in module.parameters()):
        yield
        return
    with implicit_replication(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found a non-scalar tensor with numel=1", UserWarning)  # a scale of [1] is the same everywhere
        yield


def whole(state: Any) -> Any:
    """Dicts, lists and tensors with every sharded tensor put together, on the CPU. All processes must ask for it."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state.full_tensor().cpu() if is_sharded(state) else state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what an optimizer of whole tensors had saved, each tensor cut as its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {key: _cut_as(parameters[number], value) for key, value in held.items()} if is_sharded(parameters[number]) else held
        for number, held in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})


def _cut_as(parameter: Any, value: Any) -> Any:
    if not torch.is_tensor(value) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
