"""Can every timm network that has a gate, or a place for one, be given another? Writes census.md and census.json beside this file.

    python docs/results/census.py [--jobs 2] [NAME ...]

Each architecture is built, its gates are swapped for CBAM with keep="graft", and it must be the network that it was; half-way through the
hand-over, and after `finish_swap`, it must come back from disk bit-equal; every new gate must get a gradient. A network of more than 120
million parameters is built and swapped on the meta device only, where there are shapes but no numbers. A result that census.json holds
already is not computed again: remove the file to start anew.
"""

import argparse
import collections
import json
import multiprocessing
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._registry import _model_to_module

import zoo
from zoo.backbones.slots import shown, slots

HERE = Path(__file__).parent
GATE = "cbam"
BIGGEST = 120_000_000  # parameters of what is built with numbers
SMALL = 64  # pixels, where a network takes them
SKIPPED = ("attn_swap",)  # no network: the name under which swapped ones are saved


def numbers(model: Any, x: torch.Tensor) -> torch.Tensor:
    """The logits; of a network with two heads, both."""
    y = model(x)
    return torch.cat(y) if isinstance(y, (tuple, list)) else y


@torch.no_grad()
def wake(model: torch.nn.Module) -> None:
    """Give numbers to what starts at zero: behind a zero (the last norm of a block, its skip gain) a wrong swap would not be seen."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.count_nonzero():
            parameter.normal_(std=0.1, generator=draw)


def pictures(model: Any) -> torch.Tensor:
    """Two pictures, small ones where the network takes them."""
    channels, *size = model.pretrained_cfg["input_size"]
    draw = torch.Generator().manual_seed(0)
    if not model.pretrained_cfg.get("fixed_input_size"):
        small = torch.randn(2, channels, SMALL, SMALL, generator=draw)
        try:
            with torch.no_grad():
                model(small)
            return small
        except (RuntimeError, ValueError, AssertionError):
            pass  # too few pixels for its strides, or for the blocks in which it attends
    return torch.randn(2, channels, *size, generator=draw)


def reloaded(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as out:
        zoo.save_model(model, out)
        return timm.create_model(f"local-dir:{out}", pretrained=True).eval()


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Every tensor that is saved, bit by bit, and in the same order."""
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(value, second[key]) for key, value in first.items())


def gates_of(model: torch.nn.Module) -> dict[str, int]:
    return dict(collections.Counter(shown(gate) for gate in slots(model).values()))


def swap_on_meta(name: str) -> dict[str, Any]:
    """What can be said without numbers: gates found, gates swapped, gates afterwards."""
    model = timm.create_model(name, device="meta")
    found = gates_of(model)
    report = zoo.swap_attention(model, GATE, keep="graft")
    zoo.finish_swap(model)
    swapped = sum(gate == GATE for _, gate, _ in zoo.attention_slots(model))
    return {"gates": found, "swapped": len(report), "complete": swapped == len(report), "meta": True}


def check(name: str, **options: Any) -> dict[str, Any]:
    """Swap, hand over half-way, save, reload, finish, save, reload, train a step: what was found."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options).eval()
    wake(model)
    x = pictures(model)
    found = gates_of(model)
    with torch.no_grad():
        before = numbers(model, x)
        report = zoo.swap_attention(model, GATE, keep="graft")
        model.eval()
        difference = float((numbers(model, x) - before).abs().max())
        zoo.set_share(model, 0.5)
        half = numbers(model, x)
        again = reloaded(model)
        mid = equal(model, again) and torch.equal(numbers(again, x), half)
        zoo.finish_swap(again)
        done, last = numbers(again, x), reloaded(again)
        end = equal(again, last) and torch.equal(numbers(last, x), done)
    numbers(last.train(), x).square().mean().backward()
    gates = [gate for _, shown_as, gate in zoo.attention_slots(last) if shown_as == GATE]
    gradients = [[p.grad for p in gate.parameters()] for gate in gates]
    woken = all(any(g is not None and g.isfinite().all() and g.any() for g in each) for each in gradients)
    return {
        "gates": found,
        "swapped": len(report),
        "complete": len(gates) == len(report),
        "output": float(before.abs().max()),
        "difference": difference,
        "changed": not torch.equal(half, before),
        "reload": {"half-way": mid, "finished": end},
        "gradient": woken,
        "pixels": x.shape[-1],
    }


def good(result: dict[str, Any]) -> bool:
    if "error" in result or not result["swapped"] or not result["complete"]:
        return False
    if result.get("meta"):
        return True
    return result["difference"] <= 1e-5 and result["changed"] and all(result["reload"].values()) and result["gradient"]


def candidates() -> list[str]:
    return timm.list_models(exclude_filters=[*SKIPPED, "effnet_*"])


def write(found: dict[str, dict[str, Any]], out: Path) -> None:
    modules: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(name for name, result in found.items() if result):
        modules[_model_to_module[name]].append(name)
    total = sum(map(len, modules.values()))
    lines = [
        "# Every timm network with a place for a gate",
        "",
        f"`python docs/results/census.py`: the {total} of timm's {len(found)} architectures with a gate, or with a block of EfficientNet's",
        f'without one. In each, all gates were swapped for `{GATE}` with `keep="graft"` (all empty places where it had no gate): the',
        "largest change of an output directly afterwards; whether every tensor and every output came back bit-equal from disk,",
        "half-way through the hand-over and after `finish_swap`; and whether every new gate got a gradient. Weights are random,",
        "and zeros of the initialisation are filled first, so that nothing hides behind them.",
        "",
        "| timm module | architectures | gates found | example | its slots | swapped | largest change | reload bit-equal | all good |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for module, names in sorted(modules.items()):
        results = [found[name] for name in names]
        whole = [name for name in names if "error" not in found[name] and not found[name].get("meta")]
        example = min(whole or names, key=lambda name: (len(name), name))
        shown_as = found[example]
        kinds = sorted({gate for result in results for gate in result.get("gates", {})} - {"none"})
        empty = any("none" in result.get("gates", {}) for result in results)
        slots_of = ", ".join(f"{count} {gate}" if gate != "none" else f"{count} empty" for gate, count in shown_as.get("gates", {}).items())
        change = max((found[name]["difference"] for name in whole), default=None)
        reload = sum(all(found[name]["reload"].values()) for name in whole)
        meta = sum(bool(result.get("meta")) for result in results)
        cells = [
            f"`{module}`",
            f"{len(names)}" + (f" ({meta} on meta)" if meta else ""),
            ", ".join([*kinds, *(["empty"] if empty else [])]),
            f"`{example}`",
            slots_of,
            f"{shown_as.get('swapped', 0)}",
            "" if change is None else f"{change:g}",
            f"{reload} of {len(whole)}" if whole else "",
            f"{sum(map(good, results))} of {len(names)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "On meta: more than 120 million parameters, built and swapped without numbers.", ""]
    bad = [(name, result) for names in modules.values() for name in names if not good(result := found[name])]
    lines += ["## Not good", "", *(f"- `{name}`: {result.get('error') or json.dumps(result)}" for name, result in bad), ""] if bad else []
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm"))
    lines.append(f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, one thread, float32.")
    (out / "census.md").write_text("\n".join(lines) + "\n")


def refused(model: Any) -> dict[str, Any]:
    """A network without a slot: it has none of timm's gates either, and a swap says so. An empty result is a good one."""
    missed = {type(module).__name__ for module in model.modules()} & {"SEModule", "SqueezeExcite", "EcaModule", "EffectiveSEModule"}
    if missed:
        return {"error": f"no slot was found, but there is {', '.join(sorted(missed))}"}
    try:
        zoo.swap_attention(model, GATE)
    except ValueError as error:
        if "nothing to swap" in str(error):
            return {}
    return {"error": "no slot was found, and a swap did not refuse"}


def examine(name: str) -> dict[str, Any]:
    """An empty result: no slot. An error is a result as well."""
    model: Any = timm.create_model(name, device="meta")
    if not slots(model):
        return refused(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    try:
        result = swap_on_meta(name) if parameters > BIGGEST else check(name)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"parameters": parameters, **result}


def timed(name: str) -> tuple[str, dict[str, Any], float]:
    torch.set_num_threads(1)
    began = time.monotonic()
    return name, examine(name), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures; all of timm's by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    file = asked.out / "census.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    names = [name for name in asked.names or candidates() if name not in found]
    # a process is used for some networks only: what a hundred of them leave behind in one fills the memory
    with multiprocessing.get_context("spawn").Pool(asked.jobs, maxtasksperchild=20) as pool:
        for done, (name, result, seconds) in enumerate(pool.imap_unordered(timed, names), 1):
            found[name] = result
            file.write_text(json.dumps(dict(sorted(found.items())), indent=0) + "\n")
            told = "no slot" if not result else "good" if good(result) else f"NOT GOOD {result}"
            print(f"{done}/{len(names)}  {name}: {told}  {seconds:.1f} s", flush=True)
    write(found, asked.out)


if __name__ == "__main__":
    main()
