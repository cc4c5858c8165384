"""What the two targets of torch's own quantization (PT2E) share: trace, let a quantizer put observers in, show it rows, convert."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...deploy.runtimes.torch_export import trace
from ...progress import tracked

_TOLD = {"stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"}


@contextmanager
def library(what: str, extra: str) -> Iterator[None]:
    """Inside, torchao may be imported.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what}: pip install 'effnet-zoo[{extra}]'") from error


def quantized(
    network: nn.Module, batches: Sequence[Tensor], quantizer: Callable[[], Any], *, most: int = 2**15
) -> torch.export.ExportedProgram:
    """The network with int8 weights and fake-quantized activations, as a program.

    Args:
        network: of one tensor to one tensor.
        batches: for calibration.
        quantizer: makes torchao's quantizer.
        most: rows of the largest batch.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = batches[0][:2]
    prepared = prepare_pt2e(trace(network, example, most=most).module(), quantizer())
    with torch.no_grad():
        for batch in tracked(batches, len(batches), "calibrate"):
            prepared(batch)
    module: Any = convert_pt2e(prepared)
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:  # what was folded stays as a float beside the int8
        if name not in used:
            parent, _, last = name.rpartition(".")
            delattr(module.get_submodule(parent), last)
    example = torch.cat([example, example])[:2]
    with torch.no_grad():
        dynamic = ({0: torch.export.Dim("batch", min=1, max=most)},)
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:  # where in torch each came from: more than the weights of a small network
        for key in _TOLD & node.meta.keys():
            del node.meta[key]
    return program
