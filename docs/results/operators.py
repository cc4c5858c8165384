"""Where the time of a float and of an int8 network goes, by kind of operator: writes operators.md and operators.json.

    python docs/results/operators.py runs/efficiency/signs-eca-large runs/efficiency/digits-se-large ...

Each RUN has its quantized folders beside it, RUN-onnx-int8 and RUN-openvino-int8 as efficiency.py leaves them; its float files are written
to a temporary folder. The runtimes' own profilers count, on one thread, at batch 16: ONNX Runtime's kernels, and OpenVINO's layers as it
executes them. The profiler itself takes time, so the sums are larger than what zoo bench measures.
"""

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.build import load_run
from zoo.deploy import about
from zoo.deploy.runtimes import RUNTIMES

HERE = Path(__file__).parent
BATCH, CALLS = 16, 5
KINDS = {  # what operators are called in the table: the first pattern that fits
    "convolutions, matrices": r"conv|gemm|matmul|fullyconnected|deconv",
    "to and from int8": r"quantize|reorder|convert|fake",
    "activations": r"clip|relu|sigmoid|swish|silu|hardswish|quickgelu|mish|tanh|erf",
    "products and sums of maps": r"mul|add|sub|div|eltwise|math",
    "means, maxima": r"reduce|pool|mean|max",
}


def kind(operator: str) -> str:
    return next((name for name, pattern in KINDS.items() if re.search(pattern, operator.lower())), "the rest")


def of_onnx(file: Path, x: np.ndarray) -> dict[str, float]:
    """Operator -> milliseconds of a call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(CALLS + 1):
            session.run(None, {name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    calls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            calls[event["args"]["node_index"] + "\0" + event["args"]["op_name"]].append(event["dur"] / 1000)  # names may be empty
    found: dict[str, float] = defaultdict(float)
    for key, times in calls.items():
        found[key.partition("\0")[2]] += statistics.median(times[1:])  # the first is not warm
    return dict(found)


def of_openvino(file: Path, x: np.ndarray) -> dict[str, float]:
    from zoo.deploy.runtimes.openvino import core

    compiled = core().compile_model(str(file), "CPU", {"PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    calls: dict[str, list[float]] = defaultdict(list)
    for _ in range(CALLS + 1):
        request.infer([x])
        for info in request.profiling_info:
            calls[f"{info.node_name}\0{info.node_type}"].append(info.real_time.total_seconds() * 1000)
    found: dict[str, float] = defaultdict(float)
    for key, times in calls.items():
        found[key.partition("\0")[2]] += statistics.median(times[1:])
    return dict(found)


PROFILE = {"onnx": of_onnx, "openvino": of_openvino}


def measure(run: Path) -> list[dict[str, Any]]:
    task = load_run(run).task
    network, size = task.trainable_module.eval(), task.of_pictures().input_size
    x = torch.randn(BATCH, *size, generator=torch.Generator().manual_seed(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name, profile in PROFILE.items():
            file = Path(folder, f"float{RUNTIMES[name].SUFFIX}")
            RUNTIMES[name].write(network, x[:2], file)
            small = run.with_name(f"{run.name}-{name}-int8") / f"model{RUNTIMES[name].SUFFIX}"
            for precision, path in (("float", file), ("int8", small)):
                rows.append({"run": run.name, "runtime": name, "precision": precision, "operators": profile(path, x.numpy())})
    return rows


def report(rows: list[dict[str, Any]]) -> list[str]:
    columns = [*KINDS, "the rest", "sum"]
    lines = [f"| run | runtime | in | {' | '.join(columns)} |", "|---" * (len(columns) + 3) + "|"]
    for row in rows:
        sums: dict[str, float] = defaultdict(float)
        for operator, took in row["operators"].items():
            sums[kind(operator)] += took
        sums["sum"] = sum(row["operators"].values())
        cells = [f"{sums[column]:.1f}" for column in columns]
        lines.append("| " + " | ".join([row["run"].removesuffix("-large"), row["runtime"], row["precision"], *cells]) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the two files")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for run in asked.runs for row in measure(run)]
    known = about()
    versions = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    lines = [
        "# Where the time of int8 goes",
        "",
        f"`python docs/results/operators.py {' '.join(map(str, asked.runs))}`: milliseconds of a call with {BATCH} pictures",
        "of 224 pixels by kind of operator, by the runtime's own profiler, median of five calls; one thread. What is fused counts where",
        "the fused operator does (OpenVINO runs most activations inside the convolution before them).",
        "",
        *report(rows),
        "",
        f"{versions}; {known['cpu']}.",
    ]
    (asked.out / "operators.md").write_text("\n".join(lines) + "\n")
    (asked.out / "operators.json").write_text(json.dumps({"rows": rows, **known}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
