"""zoo list: names, parameters, MACs."""

import json
from typing import Annotated, Any

import timm
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from registry import ATTENTION, DATASETS, HEADS, LOSSES, TOWERS, nearest

from ..backbones import attention_slots
from ..backbones.macs import macs_of_shapes
from ..backbones.slots import maps
from ..progress import tracked
from .app import Debug, Json, print_table, verb


def measure(name: str) -> dict[str, Any]:
    """Parameters, MACs at the network's own size, and gates of a model, without allocating any weights."""
    model: Any = timm.create_model(name, device="meta")
    size = model.default_cfg.get("input_size", (3, 224, 224))
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs_of_shapes(model, size),
        "input_size": list(size),
        "gates": len(attention_slots(model)),
    }


def measure_attention(name: str) -> dict[str, Any]:
    """What a gate costs in EfficientNet-B0: parameters and MACs of all sixteen, and what it weighs."""
    model: Any = timm.create_model(f"effnet_{name}_b0", device="meta")
    gates = {path: gate for path, _, gate in attention_slots(model)}
    reached = maps(model, list(gates))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for path, gate in gates.items():
            gate.eval()(torch.empty(reached[path], device="meta"))
    parameters = sum(parameter.numel() for gate in gates.values() for parameter in gate.parameters())
    attends = getattr(ATTENTION[name], "attends", "")
    return {
        "name": name,
        "attends": f"{attends}, parameter-free" if gates and not parameters else attends,
        "parameters": parameters,
        "macs": counter.get_total_flops() // 2,
        "use": (ATTENTION[name].__doc__ or "").strip().partition("\n")[0],
    }


@verb("list")
def list_names(
    pattern: Annotated[str, typer.Argument(help="Model names to show, with * and ?.")] = "effnet_*_b0",
    attention: Annotated[bool, typer.Option("--attention", help="List the attention gates, with their cost in EfficientNet-B0.")] = False,
    kinds: Annotated[bool, typer.Option("--kinds", help="List what else has a name: attentions, towers, heads, losses, data.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Models by name, with parameters and MACs.

    zoo list 'effnet_cbam_*'      every variant with CBAM
    zoo list --attention          every gate: parameters, MACs, what it weighs, when to use it
    zoo list --kinds              attentions, towers, heads, losses, data
    """
    if kinds:
        shelves = {"attention": ATTENTION, "tower": TOWERS, "head": HEADS, "loss": LOSSES, "data": DATASETS}
        names = {kind: sorted(shelf) for kind, shelf in shelves.items()}
        if as_json:
            print(json.dumps(names, indent=2))
        else:
            print_table("names", ["kind", "names"], [[kind, " ".join(shelf)] for kind, shelf in names.items()])
        return
    if attention:
        rows = [measure_attention(name) for name in tracked(sorted(ATTENTION), len(ATTENTION), "measure")]
        if as_json:
            print(json.dumps(rows, indent=2))
            return
        cells = [[row["name"], row["attends"], row["parameters"], round(row["macs"] / 1e6, 1), row["use"]] for row in rows]
        print_table("gates in EfficientNet-B0 at 224 px", ["name", "attends", "parameters", "M MACs", "what it is, when to use it"], cells)
        return
    models = timm.list_models(pattern, exclude_filters=["attn_swap", "pruned"])  # names of what was changed, in files
    if not models:
        known = timm.list_models("effnet_*") if "*" in pattern or "?" in pattern else timm.list_models()
        raise ValueError(f"no model is called {pattern!r}; {nearest(pattern, known)}")
    rows = [measure(name) for name in tracked(models, len(models), "measure")]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [[row["name"], row["parameters"] / 1e6, row["macs"] / 1e6, row["input_size"][-1], row["gates"]] for row in rows]
    print_table(f"{len(rows)} models", ["name", "M parameters", "M MACs", "pixels", "gates"], cells)
