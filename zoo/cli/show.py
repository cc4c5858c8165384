"""zoo show: one network, layer by layer, and where its attention sits."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torchinfo import summary

from ..backbones import attention_slots
from ..build import create_model
from .app import Debug, Json, print_table, verb


@verb("show")
def show(
    name: Annotated[str, typer.Argument(help="A timm model, such as effnet_cbam_b0, or a run directory.")],
    img_size: Annotated[int | None, typer.Option(min=1, help="Picture size; the network's own by default.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="How deep to look into the network.")] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The layers of a network, and the attention in each of its blocks."""
    if "/" in name and ":" not in name and not Path(name).is_dir():
        raise FileNotFoundError(f"run {name}: no such directory")
    model: Any = create_model(f"local-dir:{name}" if Path(name).is_dir() else name, device="meta")
    channels, *size = model.default_cfg.get("input_size", (3, 224, 224))
    size = [img_size, img_size] if img_size else size
    counted = summary(model, input_data=torch.empty(1, channels, *size, device="meta"), device="meta", depth=depth, verbose=0)
    gates = [
        {"slot": path, "attention": attention, "parameters": sum(p.numel() for p in gate.parameters())}
        for path, attention, gate in attention_slots(model)
    ]
    if as_json:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(json.dumps({"name": name, "parameters": parameters, "macs": int(counted.total_mult_adds), "attention": gates}, indent=2))
        return
    print(counted)
    rows = [[gate["slot"], gate["attention"], gate["parameters"]] for gate in gates]
    print_table(f"attention: {len(gates)} gates" if gates else "attention: none", ["slot", "attention", "parameters"], rows)
