"""The large passes of a gate, y = x * g(pool(x)), on a CPU: pool x, and scale it.

A gate is three or four passes over x with a small network between them. Written in plain operations, autograd keeps x * g beside x,
spreads the gradient of every mean and maximum out to the size of x, and adds those up; each is a fresh tensor of tens of megabytes, and a
CPU spends more time on fetching such memory than on computing. Here x passes *through* the pooling,

    x, mean, top = pool_pixels(x)
    gate = network(mean, top)
    y = scale(x, gate)

so that the gradient of x arrives at the pooling whole, in a tensor made by `scale` and held by nobody else, and what the pooled values
contribute is added to it in place, a few samples at a time while they are in the cache. Kept for the backward pass are x and small things.
The network between may be any modules. Whatever has passed through must end in `scale` and go nowhere else.

Every function also has its plain form, the same equation in ordinary operations, which serves everything else: other devices, half
precision and autocast, tracing, scripting, compiling, exporting, function transforms, forward-mode and second derivatives.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

_CHUNK = 2 << 20  # bytes of x at a time
_WHOLE = 8 << 20  # bytes of x that stay in the cache anyway; less in training, where there is more beside them
LEAST = 1 << 18  # elements of x: below, dispatch is all there is


def direct(x: Tensor) -> bool:
    """Whether the direct form serves. The answer is the same for x before and after it has passed through."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor  # neither a proxy nor a subclass
        and x.device.type == "cpu"
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and x.ndim == 4
        and x.numel() > 0
        and not torch._C._are_functorch_transforms_active()  # what Function.apply asks itself
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()  # a mode that wants to see ordinary operations
        and forward_ad._current_level < 0
    )


def _pays(x: Tensor) -> bool:
    """Whether the direct form serves, and saves more than it costs where plain operations keep nothing large."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and torch.is_grad_enabled() and x.numel() >= LEAST and direct(x)


def call(function: Any, *args: Any) -> Any:
    """The function, past autograd where nothing needs a gradient."""
    if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        return function.apply(*args)
    return function.forward(None, *args)


def save(ctx: Any, *tensors: Tensor) -> None:
    if ctx is not None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)


def _mapped(grad: Tensor) -> bool:
    """Whether it is a batch of gradients, as of is_grads_batched and jacobians, which knows no out=."""
    return torch._C._functorch.is_legacy_batchedtensor(grad) or torch._C._are_functorch_transforms_active()


def twice(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Of a backward pass that is itself differentiated (create_graph) or mapped, the plain form; the inputs are saved first, in order."""

    def wrap(backward: Callable[..., Any]) -> Any:
        def either(ctx: Any, *grads: Tensor | None) -> Any:
            again = torch.is_grad_enabled()
            if not again and not any(_mapped(grad) for grad in grads if grad is not None):
                return backward(ctx, *grads)
            with torch.enable_grad():
                # views of the inputs, because one input may depend on another, and partial derivatives are wanted
                inputs = [value.view_as(value) for value in ctx.saved_tensors[: plain.__code__.co_argcount]]
                outputs = plain(*inputs)
            found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
            wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None and output.requires_grad]
            if pairs:
                heads, given = zip(*pairs, strict=True)
                each = torch.autograd.grad(heads, [inputs[index] for index in wanted], given, create_graph=again, allow_unused=True)
                for index, grad in zip(wanted, each, strict=True):
                    found[index] = grad
            return tuple(found)

        return staticmethod(either)

    return wrap


def samples(x: Tensor) -> int:
    """How many samples make a chunk."""
    if x.nbytes <= _WHOLE and not torch.is_grad_enabled():
        return x.shape[0]
    return max(1, _CHUNK * x.shape[0] // (x.numel() * x.element_size()))


def chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    if size >= tensors[0].shape[0]:
        return iter((tensors,))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def scratch(x: Tensor, size: int) -> Tensor:
    return torch.empty_like(x if size >= x.shape[0] else x[:size])


def _amax(x: Tensor, dim: int) -> Tensor:
    """Maximum of [B, C, N] over the channels (1) or the pixels (2).

    torch takes 32 neighbouring pixels at a time and the rest one by one, slowly: of 7 x 7 the rest is 17. A last 32 that overlap with those
    before are faster, and a maximum does not mind.
    """
    pixels = x.shape[2]
    whole = pixels // 32 * 32
    if whole in (0, pixels) or (dim == 2 and whole > 32) or x.stride(2) != 1 or x.numel() < 1 << 16:
        return x.amax(dim)
    first, last = x[:, :, :whole].amax(dim), x[:, :, -32:].amax(dim)
    return torch.maximum(first, last) if dim == 2 else torch.cat([first, last[:, whole - pixels :]], 1)


class _MeanPixels(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        save(ctx, x)
        return x, x.mean((2, 3), keepdim=True)

    @twice(lambda x: (x, x.mean((2, 3), keepdim=True)))
    def backward(ctx: Any, gx: Tensor | None, gmean: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        gx = torch.zeros_like(x) if gx is None else gx
        if gmean is not None:
            gx.add_(gmean / (x.shape[2] * x.shape[3]))
        return gx


def _pool_pixels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x, x.mean((2, 3)), x.amax((2, 3))


class _PoolPixels(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, top = x.mean((2, 3)), _amax(x.flatten(2), 2)
        save(ctx, x, top)
        return x, mean, top

    @twice(_pool_pixels)
    def backward(ctx: Any, gx: Tensor | None, gmean: Tensor | None, gtop: Tensor | None) -> Tensor:
        x, top = ctx.saved_tensors
        gx = torch.zeros_like(x) if gx is None else gx
        gmean, gtop = (torch.zeros_like(top) if grad is None else grad for grad in (gmean, gtop))
        size = samples(x)
        space = scratch(x, size)
        small = (value[:, :, None, None] for value in (top, gmean / (x.shape[2] * x.shape[3]), gtop))
        for part, to, highest, share, prize in chunks(size, x, gx, *small):
            winners = torch.eq(part, highest, out=space[: part.shape[0]])
            prize = prize / winners.sum((2, 3), keepdim=True)  # equal maxima share, as torch has it
            to.addcmul_(winners, prize).add_(share)
        return gx


def _pool_channels(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    product = x * gate
    return x, torch.cat([product.amax(1, keepdim=True), product.mean(1, keepdim=True)], 1), product


class _PoolChannels(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        product = torch.empty_like(x)
        pooled = []
        for part, factor, out in chunks(samples(x), x, gate, product):
            flat = torch.mul(part, factor, out=out).flatten(2)
            pooled.append(torch.stack([_amax(flat, 1), flat.mean(1)], 1))
        top_and_mean = (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).view(-1, 2, *x.shape[2:])
        if ctx is not None:
            ctx.mark_non_differentiable(product)
        save(ctx, x, gate, top_and_mean)
        return x, top_and_mean, product

    @twice(_pool_channels)
    def backward(ctx: Any, gx: Tensor | None, gpooled: Tensor | None, _: None) -> tuple[Tensor | None, Tensor | None]:
        x, gate, pooled = ctx.saved_tensors
        if gpooled is None:
            return gx, None
        if gx is None and ctx.needs_input_grad[0]:
            gx = torch.zeros_like(x)
        size = samples(x)
        space = scratch(x, size)
        ggate = x.new_empty(x.shape[:2])
        into = x if gx is None else gx
        prizes, shares = gpooled[:, :1], gpooled[:, 1:] / x.shape[1]
        for part, to, factor, highest, prize, share, total in chunks(size, x, into, gate, pooled[:, :1], prizes, shares, ggate):
            winners = torch.mul(part, factor, out=space[: part.shape[0]])
            torch.eq(winners, highest, out=winners)
            gproduct = torch.addcmul(share, winners, prize / winners.sum(1, keepdim=True), out=winners)
            if gx is not None:
                to.addcmul_(gproduct, factor)
            torch.sum(gproduct.mul_(part).flatten(2), 2, out=total)
        return gx, ggate[:, :, None, None]


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        save(ctx, x, gate)
        return x * gate

    @twice(lambda x, gate: x * gate)
    def backward(ctx: Any, gy: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        x, gate = ctx.saved_tensors
        if gy is None:
            return None, None
        size = samples(x)
        space = scratch(x, size)
        ggate = x.new_empty(x.shape[:2])
        gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for part, given, factor, to, total in chunks(size, x, gy, gate, x if gx is None else gx, ggate):
            torch.sum(torch.mul(given, part, out=space[: part.shape[0]]).flatten(2), 2, out=total)
            if gx is not None:
                torch.mul(given, factor, out=to)
        return gx, ggate[:, :, None, None]


class _ScaleBoth(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, spatial: Tensor, product: Tensor) -> Tensor:
        save(ctx, x, gate, spatial)
        if ctx is not None:
            ctx.mark_dirty(product)
        return product.mul_(spatial)

    @twice(lambda x, gate, spatial: x * gate * spatial)
    def backward(ctx: Any, gy: Tensor | None) -> tuple[Tensor | None, ...]:
        x, gate, spatial = ctx.saved_tensors
        if gy is None:
            return None, None, None, None
        size = samples(x)
        space = scratch(x, size)
        gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        ggate, gspatial = x.new_empty(x.shape[:2]), torch.empty_like(spatial, memory_format=torch.contiguous_format)
        row, column = gate.view(-1, 1, x.shape[1]), spatial.flatten(1)
        small = (gate, spatial, row, column, ggate, gspatial.flatten(2))
        for part, given, to, factor, field, rows, columns, gfactor, gfield in chunks(size, x, gy, x if gx is None else gx, *small):
            slope = torch.mul(given, part, out=space[: part.shape[0]]).flatten(2)
            torch.bmm(rows, slope, out=gfield)
            for one, by, total in zip(slope, columns, gfactor, strict=True):
                torch.mv(one, by, out=total)  # a batched product with one column is several times slower
            if gx is not None:
                torch.mul(given, factor, out=to).mul_(field)
        return gx, ggate[:, :, None, None], gspatial, None


def pool_pixels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, C, H, W] -> x, mean [B, C], maximum [B, C]."""
    if not torch.jit.is_scripting():
        if direct(x):
            return call(_PoolPixels, x)
    return _pool_pixels(x)


def pool_channels(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, C, H, W], [B, C, 1, 1] -> x, maximum and mean of x * gate over the channels [B, 2, H, W], and x * gate for `scale_both`."""
    if not torch.jit.is_scripting():
        if direct(x):
            same, pooled, product = call(_PoolChannels, x, gate)
            return same if x.requires_grad else x, pooled, product
    return _pool_channels(x, gate)


def scale_both(x: Tensor, gate: Tensor, spatial: Tensor, product: Tensor) -> Tensor:
    """x * gate * spatial: [B, C, H, W] by [B, C, 1, 1] and [B, 1, H, W]; `product` is x * gate from `pool_channels` and is used up."""
    if not torch.jit.is_scripting():
        if direct(x):
            return call(_ScaleBoth, x, gate, spatial, product)
    return product * spatial


def mean_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] -> x, mean [B, C, 1, 1]."""
    if not torch.jit.is_scripting():
        if _pays(x):
            return call(_MeanPixels, x)
    return x, x.mean((2, 3), keepdim=True)


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate: [B, C, H, W] by [B, C, 1, 1]."""
    if not torch.jit.is_scripting():
        if _pays(x):
            return call(_Scale, x, gate)
    return x * gate
