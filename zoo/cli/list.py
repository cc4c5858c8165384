"""zoo list: names, parameters, MACs."""

import json
from typing import Annotated, Any

import timm
import torch
import typer
from torchinfo import summary

from registry import ATTENTION, DATASETS, HEADS, LOSSES, TOWERS, nearest

from ..backbones import attention_slots
from ..progress import tracked
from .app import Debug, Json, app, print_table


def measure(name: str) -> dict[str, Any]:
    """Parameters, MACs at the network's own size, and gates of a model, without allocating any weights."""
    model: Any = timm.create_model(name, device="meta")
    size = model.default_cfg.get("input_size", (3, 224, 224))
    counted = summary(model, input_data=torch.empty(1, *size, device="meta"), device="meta", verbose=0)
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": int(counted.total_mult_adds),
        "input_size": list(size),
        "gates": len(attention_slots(model)),
    }


@app.command("list")
def list_names(
    pattern: Annotated[str, typer.Argument(help="Model names to show, with * and ?.")] = "effnet_*_b0",
    kinds: Annotated[bool, typer.Option("--kinds", help="List what else has a name: attentions, towers, heads, losses, data.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Models by name, with parameters and MACs.

    zoo list 'effnet_cbam_*'      every variant with CBAM
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
    models = timm.list_models(pattern)
    if not models:
        known = timm.list_models("effnet_*") if "*" in pattern or "?" in pattern else timm.list_models()
        raise ValueError(f"no model is called {pattern!r}; {nearest(pattern, known)}")
    rows = [measure(name) for name in tracked(models, len(models), "measure")]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [[row["name"], row["parameters"] / 1e6, row["macs"] / 1e6, row["input_size"][-1], row["gates"]] for row in rows]
    print_table(f"{len(rows)} models", ["name", "M parameters", "M MACs", "pixels", "gates"], cells)
