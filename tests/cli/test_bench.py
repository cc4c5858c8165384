"""zoo bench: a table for people, JSON that says where the numbers are from, one line for a mistake."""

import importlib

import torch

from zoo.deploy import Cost, LossCost, LossMeasured, Measured, Spread
from zoo.deploy.train_speed import TrainMeasured, TrainRatio, TrainSide

bench = importlib.import_module("zoo.cli.bench")

SMALL = ("--img-size", "32", "--batch-size", "1", "--rounds", "1")
NL = Measured(
    "nl", 16, 13, 0.5, Cost(30, 90, 2.5, 8), Cost(36, 99, 3.25, 8), Spread(1.1, 1.2, 1.3), Spread(1, 1.1, 1.2), "maps up to 28 x 28 only"
)


def test_json(zoo):
    said = zoo("bench", "attention", "eca", "simam", *SMALL, "--json")
    assert said.code == 0 and not said.err
    told = said.json
    assert told["command"] == "zoo bench attention eca simam --batch-size 1 --rounds 1 --img-size 32 --seed 0 --json"
    assert set(told["versions"]) == {"effnet-zoo", "torch", "timm", "python"} and told["versions"]["torch"].startswith(
        torch.__version__[:4]
    )
    assert told["cpu"] and told["threads"] == 1 and (told["rounds"], told["seed"], told["img_size"]) == (1, 0, 32)
    eca, simam = told["gates"]
    assert eca["gate"] == "eca" and eca["batch_size"] == 1 and eca["slots"] == 16
    assert all(eca[whose][what] > 0 for whose in ("ours", "timm") for what in ("forward", "train", "saved"))
    assert 0 < eca["forward"]["low"] == eca["forward"]["median"] == eca["forward"]["high"]  # one round
    assert simam["timm"] is None and simam["forward"] is None and simam["ours"]["forward"] > 0


def test_a_table(zoo, monkeypatch):
    """Ours / timm's, a table a batch size; what was left out is said below."""
    asked = []

    def measured(gates, batch_sizes, **options):
        asked.append((list(gates), list(batch_sizes), options))
        return [NL, Measured("ge", 16, 16, 0.5, Cost(7, 8, 1.01, 0), None, None, None)]

    monkeypatch.setattr(bench, "bench_attention", measured)
    monkeypatch.setattr(bench.console, "_width", 120)
    said = zoo("bench", "attention", "nl", "ge", "--batch-size", "16")
    assert said.code == 0 and not said.err
    assert asked == [(["nl", "ge"], [16], {"rounds": 7, "img_size": 224, "seed": 0})]
    row, other = (next(line for line in said.out.splitlines() if line.startswith(f"│ {name}")) for name in ("nl*", "ge "))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("nl*", "30.0 / 36.0", "1.20 (1.10-1.30)"),
        *("90.0 / 99.0", "1.10 (1.00-1.20)", "2.50 / 3.25"),
    ]
    assert [cell.strip() for cell in other.strip("│").split("│")] == ["ge", "7.0", "", "8.0", "", "1.01"]
    assert "* nl: maps up to 28 x 28 only" in said.out and "batch 16" in said.out and "batch 1:" not in said.out


def test_without_names_every_gate_at_both_sizes(zoo, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "bench_attention", lambda gates, batch_sizes, **options: asked.append((gates, batch_sizes)) or [])
    assert zoo("bench", "attention").code == zoo("bench", "attention").code == 0
    assert asked == [(sorted(bench.ATTENTION), [1, 16])] * 2


def test_losses_json(zoo):
    said = zoo("bench", "loss", "clip", "barlow", "--rows", "64", "--width", "16", "--json")
    assert said.code == 0 and not said.err
    told = said.json
    assert told["command"] == "zoo bench loss clip barlow --rows 64 --width 16 --threads 1 --seed 0 --json"
    assert {"effnet-zoo", "torch", "open_clip_torch"} <= set(told["versions"]) and told["threads"] == 1 and told["width"] == 16
    assert [(row["loss"], row["rows"]) for row in told["losses"]] == [("clip", 64), ("barlow", 64)]
    clip, barlow = told["losses"]
    assert all(clip[whose]["seconds"] > 0 and clip[whose]["mib"] >= 0 for whose in ("ours", "open_clip")) and not clip["note"]
    assert barlow["ours"]["seconds"] > 0 and barlow["open_clip"] is None and barlow["note"] == "open_clip has no such loss"


def test_losses_table(zoo, monkeypatch):
    asked = []

    def measured(losses, rows, **options):
        asked.append((losses, rows, options))
        clip = LossMeasured("clip", 4096, LossCost(96, 1.5), LossCost(272, 1.25))
        return [clip, LossMeasured("dcl", 4096, LossCost(1280, 2), None, "open_clip has no such loss")]

    monkeypatch.setattr(bench, "bench_loss", measured)
    monkeypatch.setattr(bench.console, "_width", 120)
    said = zoo("bench", "loss")
    assert said.code == 0 and not said.err
    assert zoo("bench", "loss", "clip", "--rows", "8", "--rows", "4", "--threads", "2").code == 0
    assert asked == [
        (sorted(bench.LOSSES), [4096, 16384], {"width": 512, "threads": 1, "seed": 0}),
        (["clip"], [8, 4], {"width": 512, "threads": 2, "seed": 0}),
    ]
    clip, dcl = (next(line for line in said.out.splitlines() if line.startswith(f"│ {name}")) for name in ("clip", "dcl"))
    assert [cell.strip() for cell in clip.strip("│").split("│")] == ["clip", "96 / 272", "1.50 / 4.25", "1.5 / 1.2"]
    assert [cell.strip() for cell in dcl.strip("│").split("│")] == ["dcl", "1,280", "20.00", "2.0"]
    assert "4,096 rows: ours / open_clip's" in said.out and "dcl: open_clip has no such loss" in said.out


def test_mistakes(mistake):
    assert "'cbam'" in mistake("bench", "attention", "cbma", *SMALL)
    assert "did you mean 'zoo bench attention cbam'?" in mistake("bench", "cbam")
    told = mistake("bench", "atention")
    assert "zoo bench measures attention, loss, train, networks and runs, not 'atention'; did you mean 'attention'?" in told
    assert "take larger pictures" in mistake("bench", "attention", "cbam", *SMALL)
    assert "did you mean 'zoo bench loss clip'?" in mistake("bench", "clip")
    assert "did you mean 'zoo bench attention triplet' or 'zoo bench loss triplet'?" in mistake("bench", "triplet")
    assert "did you mean 'vsepp'?" in mistake("bench", "loss", "vsep", "--rows", "8")


def test_each_kind_has_its_own_options(zoo):
    said = zoo("bench", "loss", "clip", "--img-size", "32")
    assert said.code == 2 and "--img-size" in said.err


def test_train_beside_timm(zoo, monkeypatch):
    side = {"ours": TrainSide(20.0, 30.0, 0.05), "timm": TrainSide(10.0, 20.0, 0.1)}
    measured = TrainMeasured(side, {"timm": TrainRatio(Spread(1.9, 2.0, 2.1), Spread(1.4, 1.5, 1.6))})
    asked = []
    monkeypatch.setattr(bench, "bench_train", lambda **given: asked.append(given) or measured)
    monkeypatch.setattr(bench.console, "_width", 140)
    said = zoo("bench", "train", "--batch-size", "8", "--img-size", "32", "--recompute")
    assert said.code == 0 and asked[0]["batch_size"] == 8 and asked[0]["recompute"] is True
    row = next(line for line in said.out.splitlines() if line.startswith("│ timm"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("timm", "10.0", "2.00 (1.90-2.10)"),
        *("20.0", "1.50 (1.40-1.60)", "10.0%"),
    ]
    told = zoo("bench", "train", "--json").json
    assert told["command"].startswith("zoo bench train --model effnet_cbam_b0 --batch-size 16 --img-size 224 --workers 0 ")
    assert told["ratios"]["timm"]["wall"]["median"] == 2.0 and told["sides"]["ours"]["waiting"] == 0.05
