"""zoo list: every name, its parameters and MACs."""

import importlib

import pytest
import timm

from registry import ATTENTION, DATASETS, HEADS, LOSSES, TOWERS
from zoo.backbones import VARIANTS

list_names = importlib.import_module("zoo.cli.list")


def test_every_variant_of_an_attention_is_measured(zoo):
    said = zoo("list", "effnet_cbam_*", "--json")
    assert said.code == 0
    rows = {row["name"]: row for row in said.json}
    assert sorted(rows) == sorted(f"effnet_cbam_{variant}" for variant in VARIANTS) and len(rows) == 28
    assert all(row["parameters"] > 0 and row["macs"] > 0 and row["gates"] > 0 for row in rows.values())
    assert all(row["input_size"] == list(timm.get_pretrained_cfg(name).input_size) for name, row in rows.items())
    assert rows["effnet_cbam_b0"]["gates"] == 16


def test_se_has_the_numbers_of_the_paper(zoo):
    """EfficientNet-B0: 5.3 M parameters and 0.39 B multiply-adds (arXiv 1905.11946, table 2)."""
    (row,) = zoo("list", "effnet_se_b0", "--json").json
    assert row["parameters"] == sum(parameter.numel() for parameter in timm.create_model("efficientnet_b0").parameters())
    assert 0.38e9 < row["macs"] < 0.40e9


def test_a_table_without_json(zoo):
    said = zoo("list", "effnet_*_test")
    assert said.code == 0 and not said.err
    assert all(f"effnet_{attention}_test" in said.out for attention in ATTENTION)


def test_attention(zoo, monkeypatch):
    """What sixteen gates of B0 cost: the networks with and without them say the same. All are in the table; five show it."""
    assert list_names.ATTENTION is ATTENTION
    monkeypatch.setattr(list_names, "ATTENTION", {name: ATTENTION[name] for name in ("cbam", "eca", "none", "se", "simam")})
    said = zoo("list", "--attention", "--json")
    assert said.code == 0 and not said.err
    rows = {row["name"]: row for row in said.json}
    assert list(rows) == ["cbam", "eca", "none", "se", "simam"]
    plain, gated = (sum(p.numel() for p in timm.create_model(f"effnet_{name}_b0", device="meta").parameters()) for name in ("none", "se"))
    assert rows["se"]["parameters"] == gated - plain and 0.5e6 < rows["se"]["macs"] < 0.8e6
    assert rows["none"]["parameters"] == rows["none"]["macs"] == 0
    assert (
        rows["simam"]["attends"].endswith(", parameter-free") and rows["se"]["attends"] == "channel" and rows["cbam"]["attends"] == "both"
    )
    assert all(row["attends"].partition(",")[0] in ("channel", "spatial", "both") for name, row in rows.items() if name != "none")
    assert all(row["use"] == ATTENTION[name].__doc__.strip().splitlines()[0] for name, row in rows.items())


def test_what_is_no_network_is_not_listed(zoo, mistake):
    """The name under which swapped networks are saved is timm's as well; measured, it would stop the whole list."""
    assert timm.is_model("attn_swap") and "no model is called 'attn_*'" in mistake("list", "attn_*")
    assert [row["name"] for row in zoo("list", "*test_efficientnet", "--json").json] == ["test_efficientnet"]


def test_kinds(zoo):
    said = zoo("list", "--kinds", "--json")
    assert said.code == 0
    shelves = {"attention": ATTENTION, "tower": TOWERS, "head": HEADS, "loss": LOSSES, "data": DATASETS}
    assert said.json == {kind: sorted(shelf) for kind, shelf in shelves.items()}
    table = zoo("list", "--kinds").out
    assert "cbam" in table and "siglip" in table and "glyphs" in table


@pytest.mark.parametrize(
    "pattern, near", [("effnet_cbma_b0", "'effnet_cbam_b0'"), ("effnet_cbam_b9", "'effnet_cbam_b8'"), ("zzz*", "are known")]
)
def test_a_pattern_without_a_model(mistake, pattern, near):
    told = mistake("list", pattern)
    assert repr(pattern) in told and near in told
