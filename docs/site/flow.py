"""A gate as a few lines of text: what the picture on its page is drawn from, and what a test runs beside the gate itself.

    s = sigmoid(conv_expand(act1(conv_reduce(mean_hw(x)))))
    y = x * s

`x` is the gate's input and `y` its output. A dotted name is a layer or a parameter of the gate; any other function is one of OPERATIONS.
Because the lines can be run, the picture cannot be wrong: tests/docs/test_flow.py compares y with the gate's own output and asks for every
parameter. What the boxes say of a layer is read off the layer.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, HEIGHT, WIDTH = 1152, 19, 23  # of the x that is sent through: numbers by which a size can be recognised in a shape


@dataclass
class Node:
    """A step: its lines in the picture, the steps that it reads, and what came out."""

    kind: str  # "input", "layer", "operation", "joint" (a circle: two values meet), "constant"
    label: str
    inputs: list["Node"]
    value: Tensor
    path: str = ""  # of the layer or parameter
    module: nn.Module | None = None
    consumers: list["Node"] = field(default_factory=list)
    shape: str = ""  # of the value, in a person's words


def shape_name(value: Tensor, rows: dict[int, str], columns: dict[int, str]) -> str:
    """[B, 1152, 19, 1] -> C×H×1: what a person calls the sizes, `rows` and `columns` those of the map; the batch is left out."""
    names = {HEIGHT: "H", WIDTH: "W", HEIGHT + WIDTH: "H+W", HEIGHT * WIDTH: "HW", CHANNELS: "C"}
    names |= {CHANNELS // share: f"C/{share}" for share in (2, 4, 8, 16, 32, 64, 128)}
    names |= {CHANNELS + more: f"C+{more}" for more in (2, 4, 6)}
    sizes = list(value.shape[1:])
    said = [names.get(size, str(size) if size <= 64 else "R") for size in sizes]
    if len(sizes) > 2:
        said[-2:] = [rows.get(sizes[-2], said[-2]), columns.get(sizes[-1], said[-1])]
    return "×".join(said)


def layer_name(layer: nn.Module) -> str:
    """What a box says of a layer, read off the layer itself."""
    if isinstance(layer, nn.Sequential):
        names = [layer_name(each) for each in layer]
        return ", ".join([names[0], *(name.removeprefix("depthwise ") for name in names[1:])])
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        size = "×".join(str(k) for k in layer.kernel_size)
        apart = layer.groups == layer.in_channels > 1
        if isinstance(layer, nn.Conv1d):
            return f"convolution of {size}"
        if set(layer.kernel_size) == {1}:
            return "a weight a channel" if apart else "1×1 convolution"
        wide = f", dilation {layer.dilation[0]}" if layer.dilation[0] > 1 else ""
        strided = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
        return f"{'depthwise ' if apart else ''}{size}{'' if apart else ' convolution'}{wide}{strided}"
    for kind, name in (
        (nn.Linear, "linear"),
        (nn.BatchNorm2d, "batch norm"),
        (nn.GroupNorm, "group norm"),
        (nn.LayerNorm, "layer norm"),
        (nn.AdaptiveAvgPool2d, "mean over H, W"),
    ):
        if isinstance(layer, kind):
            return name
    name = type(layer).__name__
    return {"Sigmoid": "sigmoid", "Hardswish": "h-swish", "Hardsigmoid": "hard sigmoid"}.get(name, name)


def call_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer on [B, C, H, W] or on groups, [B, G, C, H, W]: each group is a row; a linear layer and a 1-channel Conv1d run along C."""
    if isinstance(layer, nn.Linear):
        return layer(x.movedim(1, -1)).movedim(-1, 1)
    if isinstance(layer, nn.Conv1d):  # the channels of one pixel after those of the other
        line = x.flatten(2).transpose(1, 2)
        return (
            layer(line.flatten(1).unsqueeze(1)).view(line.shape[0], line.shape[1], -1).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        )
    if x.dim() == 5:
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return layer(x)


def _groups(gate: Any, x: Tensor) -> Tensor:
    return x.unflatten(1, (gate.groups, -1))


def _strips(gate: Any, strip: Tensor, convs: nn.ModuleList) -> Tensor:
    line = strip.flatten(2)
    return torch.cat([conv(part) for conv, part in zip(convs, line.chunk(len(convs), 1), strict=True)], 1).view_as(strip)


def _mixed(over: tuple[int, ...]) -> Callable[..., Tensor]:
    def mix(gate: Any, x: Tensor, share: Tensor) -> Tensor:
        weight = share.sigmoid() + 0.5
        return weight[0] * x.mean(over, keepdim=True) + weight[1] * x.std(over, keepdim=True)

    return mix


def _shuffle(gate: Any, one: Tensor, other: Tensor) -> Tensor:
    y = torch.cat([one, other], 2).flatten(1, 2)
    return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _ring(gate: Any, x: Tensor) -> Tensor:
    reach = gate.conv.kernel_size[0] // 2
    return torch.cat([x[:, -reach:], x, x[:, :reach]], 1)


def _over(function: Callable[..., Tensor], *dims: int) -> Callable[..., Tensor]:
    return lambda gate, x: function(x, dims, keepdim=True)


# name: (what the box says, the function of the gate and the values)
OPERATIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "mean_hw": ("mean over H, W", _over(torch.mean, -2, -1)),
    "max_hw": ("maximum over H, W", _over(torch.amax, -2, -1)),
    "sum_hw": ("sum over H, W", _over(torch.sum, -2, -1)),
    "std_hw": ("deviation over H, W", lambda gate, x: (x.var((-2, -1), keepdim=True) + 1e-5).sqrt()),
    "l2_hw": ("root of the sum of squares", lambda gate, x: (x.square().sum((-2, -1), keepdim=True) + gate.eps).sqrt()),
    "variance_hw": ("sum over H, W, by HW − 1", lambda gate, x: x.sum((-2, -1), keepdim=True) / (x.shape[-1] * x.shape[-2] - 1)),
    "mean_w": ("mean over W", _over(torch.mean, -1)),
    "mean_h": ("mean over H", _over(torch.mean, -2)),
    "mean_c": ("mean over C", _over(torch.mean, -3)),
    "max_c": ("maximum over C", _over(torch.amax, -3)),
    "sum_c": ("sum over C", _over(torch.sum, -3)),
    "rms_c": ("root mean square over C", lambda gate, x: (x.square().mean(1, keepdim=True) + gate.eps).sqrt()),
    "max_and_mean_c": ("maximum and mean over C", lambda gate, x: torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)),
    "mixed_hw": ("mean, deviation over H, W", _mixed((2, 3))),
    "mixed_cw": ("mean, deviation over C, W", _mixed((1, 3))),
    "mixed_ch": ("mean, deviation over C, H", _mixed((1, 2))),
    "smooth": ("mean of 7×7", lambda gate, x: F.avg_pool2d(x, 7, stride=1, padding=3)),
    "windows": ("mean of each 7×7", lambda gate, x: F.avg_pool2d(x, gate.window_size)),
    "parts": ("mean of 5×5 parts", lambda gate, x: F.adaptive_avg_pool2d(x, gate.local_size)),
    "grid": ("mean of 7×7 parts", lambda gate, x: F.adaptive_avg_pool2d(x, gate.grid)),
    "cosines": (
        "16 cosine waves, summed",
        lambda gate, x: (x.unflatten(1, (gate.frequencies, -1)) * gate.waves).sum((3, 4), keepdim=True).flatten(1, 2),
    ),
    "sigmoid": ("sigmoid", lambda gate, x: x.sigmoid()),
    "tanh": ("tanh", lambda gate, x: x.tanh()),
    "square": ("square", lambda gate, x: x.square()),
    "softmax_hw": ("softmax over H, W", lambda gate, x: x.flatten(-2).softmax(-1).view_as(x)),
    "softmax_c": ("softmax over C", lambda gate, x: x.softmax(-3)),
    "softmax_last": ("softmax", lambda gate, x: x.softmax(-1)),
    "standardise_hw": (
        "less the mean, by the deviation",
        lambda gate, x: (x - x.mean((-2, -1), keepdim=True)) / (x.std((-2, -1), keepdim=True) + 1e-5),
    ),
    "normalise_hw": (
        "less the mean, by the deviation",
        lambda gate, x: (x - x.mean((-2, -1), keepdim=True)) / (x.var((-2, -1), keepdim=True, correction=0) + 1e-5).sqrt(),
    ),
    "share": ("its size, by the sum of all", lambda gate, weight: (weight.abs() / weight.abs().sum())[None, :, None, None]),
    "join": ("one behind the other", lambda gate, rows, columns: torch.cat([rows, columns.transpose(2, 3)], 2)),
    "rows": ("the rows' part", lambda gate, strip: strip[:, :, :HEIGHT]),
    "columns": ("the columns' part", lambda gate, strip: strip[:, :, HEIGHT:].transpose(2, 3)),
    "strips": ("3, 5, 7, 9 wide, a quarter each", _strips),
    "ring": ("closed to a ring", _ring),
    "groups": ("cut into groups", _groups),
    "ungroup": ("groups put together", lambda gate, x: x.flatten(1, 2)),
    "first_half": ("first half", lambda gate, x: x.chunk(2, 2)[0]),
    "second_half": ("second half", lambda gate, x: x.chunk(2, 2)[1]),
    "shuffle": ("shuffle", _shuffle),
    "turn_h": ("turn: H ↔ C", lambda gate, x: x.transpose(1, 2)),
    "turn_w": ("turn: W ↔ C", lambda gate, x: x.transpose(1, 3)),
    "stretch": ("stretch to H × W", lambda gate, x: F.interpolate(x, (HEIGHT, WIDTH), mode="nearest")),
    "spread": ("spread over H × W", lambda gate, x: F.adaptive_avg_pool2d(x, (HEIGHT, WIDTH))),
    "average": ("average", lambda gate, *each: sum(each) / len(each)),
    "larger": ("the larger", lambda gate, one, other: torch.maximum(one, other)),
    "dot_c": ("dot product over C", lambda gate, one, other: (one * other).sum(1, keepdim=True)),
    "dot_pixels": ("dot products of all pixels", lambda gate, one, other: one.flatten(2).transpose(1, 2) @ other.flatten(2)),
    "weigh_pixels": (
        "all pixels, weighed",
        lambda gate, weights, values: (values.flatten(2) @ weights.transpose(1, 2)).view(*values.shape[:2], HEIGHT, WIDTH),
    ),
    "dot_channels": ("dot products of all channels, by √C", lambda gate, one, other: one.flatten(2) @ other.flatten(2).mT * gate.scale),
    "weigh_channels": ("all channels, weighed", lambda gate, weights, values: (weights @ values.flatten(2)).view_as(values)),
}

SIGNS = {ast.Add: ("+", operator.add), ast.Sub: ("−", operator.sub), ast.Mult: ("×", operator.mul), ast.Div: ("÷", operator.truediv)}


class Flow:
    """The steps of a gate's lines, run on `x`.

    Args:
        lines: as above; the last name that is assigned must be `y`.
        gate: the module; in eval mode.
        x: [B, CHANNELS, HEIGHT, WIDTH].

    Raises:
        ValueError: a line that is no assignment, a name that neither the gate nor the lines have, a last line other than y = ...
    """

    def __init__(self, lines: str, gate: nn.Module, x: Tensor):
        self.gate = gate
        self.rows, self.columns = {HEIGHT: "H"}, {WIDTH: "W"}
        self.nodes: list[Node] = []
        self.names = {"x": self._add(Node("input", "x", [], x))}
        tree = ast.parse(lines)
        for statement in tree.body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"a flow is lines of `name = expression`, got {ast.unparse(statement)!r}")
            self.names[statement.targets[0].id] = self._node(statement.value)
        if "y" not in self.names or list(self.names)[-1] != "y":
            raise ValueError("the last line of a flow is y = ...")
        self.y = self.names["y"]
        for node in self.nodes:
            for each in node.inputs:
                each.consumers.append(node)

    @property
    def paths(self) -> set[str]:
        """Of every layer and parameter that a step has."""
        return {node.path for node in self.nodes if node.path}

    def _add(self, node: Node, by: int = 1) -> Node:
        """`by`: how many times smaller than its input the map is."""
        if by > 1:
            for axis, names in ((-2, self.rows), (-1, self.columns)):
                before, _, share = names[node.inputs[0].value.shape[axis]].partition("/")
                names[node.value.shape[axis]] = f"{before}/{int(share or 1) * by}"
        node.shape = shape_name(node.value, self.rows, self.columns)
        self.nodes.append(node)
        return node

    def _of_gate(self, tree: ast.expr) -> tuple[str, Any] | None:
        """The path and the layer or parameter that an expression such as `spatial.conv`, `strips[0]`, `weight[:, 0]` means; or None."""
        if isinstance(tree, ast.Subscript):
            found = self._of_gate(tree.value)
            if found is None:
                return None
            text = ast.unparse(tree)
            index = eval(compile(ast.Expression(tree.slice), "flow", "eval"), {})
            if isinstance(found[1], nn.Module):
                return f"{found[0]}.{index}", found[1][index]
            return text.replace(", None", ""), found[1][index]
        if isinstance(tree, ast.Attribute):
            found = self._of_gate(tree.value)
            return (f"{found[0]}.{tree.attr}", getattr(found[1], tree.attr)) if found and hasattr(found[1], tree.attr) else None
        if isinstance(tree, ast.Name) and tree.id not in self.names:
            own = {**dict(self.gate.named_children()), **dict(self.gate.named_parameters(recurse=False))}
            return (tree.id, own[tree.id]) if tree.id in own else None
        return None

    def _node(self, tree: ast.expr) -> Node:
        if isinstance(tree, ast.Name) and tree.id in self.names:
            return self.names[tree.id]
        if isinstance(tree, ast.Call):
            return self._call(tree)
        if isinstance(tree, ast.BinOp):
            return self._binary(tree)
        raise ValueError(f"nothing that the gate or the lines have: {ast.unparse(tree)!r}")

    def _call(self, tree: ast.Call) -> Node:
        found = self._of_gate(tree.func)
        if found is not None:
            path, layer = found
            (x,) = (self._node(each) for each in tree.args)
            stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
            return self._add(Node("layer", layer_name(layer), [x], call_layer(layer, x.value), path, layer), stride)
        name = ast.unparse(tree.func)
        if name not in OPERATIONS:
            raise ValueError(f"neither a layer of the gate nor an operation: {name!r}")
        label, function = OPERATIONS[name]
        inputs, values, paths = [], [], []
        for each in tree.args:
            of_gate = self._of_gate(each)
            if of_gate is None:
                inputs.append(self._node(each))
            else:
                paths.append(of_gate[0])
            values.append(inputs[-1].value if of_gate is None else of_gate[1])
        by = self.gate.window_size if name == "windows" else 1
        return self._add(Node("layer" if paths else "operation", label, inputs, function(self.gate, *values), ", ".join(paths)), by)

    def _binary(self, tree: ast.BinOp) -> Node:
        sign, function = SIGNS[type(tree.op)]
        sides = [self._side(each) for each in (tree.left, tree.right)]
        value = function(*(side.value if isinstance(side, Node) else side[1] for side in sides))
        nodes = [side for side in sides if isinstance(side, Node)]
        if len(nodes) == 2:
            return self._add(Node("joint", sign, nodes, value))  # the second of them is subtracted, or divided by
        text, _, learned = next(side for side in sides if not isinstance(side, Node))
        label = f"{text} {sign}" if not isinstance(sides[0], Node) and sign in "−÷" else f"{sign} {text}"
        return self._add(Node("layer" if learned else "constant", label if not learned else sign, nodes, value, text if learned else ""))

    def _side(self, tree: ast.expr) -> "Node | tuple[str, Any, bool]":
        if isinstance(tree, ast.Constant):
            number = tree.value
            known = {0.5: "½", 1e-4: "0.0001"}
            return known.get(number) or f"{number:g}", number, False
        found = self._of_gate(tree)
        return (*found, True) if found is not None else self._node(tree)


def sample(gate: nn.Module, seed: int = 0) -> Tensor:
    """An x for `Flow`; and the gate gets weights and statistics away from their start, where much is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*gate.named_parameters(), *gate.named_buffers()):
            if tensor.is_floating_point() and name.rpartition(".")[2] != "waves":
                wide = 1 / math.sqrt(max(1, tensor[0].numel())) if tensor.dim() > 1 else 0.5
                noise = torch.randn(tensor.shape, generator=generator) * wide
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    gate.eval()
    return torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=generator)
