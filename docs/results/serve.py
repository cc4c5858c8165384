"""How many requests a second `zoo serve` answers, and how long they take, in batches beside one at a time: writes serve.md and serve.json.

    python docs/results/serve.py                                  trains two runs of a pass each first: minutes
    python docs/results/serve.py runs/digits runs/glyphs --seconds 10 --rounds 5

wrk, on the same machine, asks as fast as it is answered: a classifier with a picture, a joint embedding with a text. Two servers of one
run, one of them with --batch-size 1 --max-wait 0, take turns; while one is asked the other waits and takes no time.
"""

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.deploy import about
from zoo.files import write_whole
from zoo.progress import progress

HERE = Path(__file__).parent
WAYS = {"batched": (), "one at a time": ("--batch-size", "1", "--max-wait", "0")}
NEW = {  # a network of a size that people use, and a search; what they have learned does not matter here
    "digits": ("effnet_cbam_b0", "--data", "digits", "--img-size", "96", "--epochs", "1"),
    "glyphs": ("image=effnet_cbam_test", "text=transformer", "--data", "glyphs:characters=200", "--epochs", "1"),
}
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency)
  local wrong = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{{"answers": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), wrong))
end
"""


@contextmanager
def served(run: Path, *arguments: str) -> Iterator[str]:
    """The address of a `zoo serve`."""
    command = [sys.executable, "-m", "zoo", "serve", str(run), "--port", "0", "--queue", "256", "--timeout", "30", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://[^/]+", process.stdout.readline())
        if found is None:
            raise SystemExit(f"zoo serve {run} did not begin")
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def request(url: str, folder: Path) -> tuple[str, str]:
    """What a run is asked: a path, and the wrk script that asks it."""
    classifier = json.loads(get(f"{url}/v1/about"))["kind"] == "classifier"
    if classifier:
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        body, kind, path = buffer.getvalue(), "image/jpeg", "/v1/predict"
    else:
        body, kind, path = json.dumps({"text": "greek small letter alpha"}).encode(), "application/json", "/v1/search?k=10"
    (folder / "body").write_bytes(body)
    (folder / "ask.lua").write_text(SCRIPT.format(kind=kind, body=folder / "body"))
    return path, f"a JPEG of 640 x 480, {len(body) / 1000:.0f} kB" if classifier else "a text of 24 letters"


def batches(url: str) -> tuple[int, float]:
    """(how many batches there have been, requests in them)."""
    said = get(f"{url}/metrics")
    return int(said.partition("zoo_batch_size_count ")[2].split()[0]), float(said.partition("zoo_batch_size_sum ")[2].split()[0])


def ask(url: str, script: Path, connections: int, seconds: float) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script), url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(said.strip().splitlines()[-1])
    if found["errors"] or not found["answers"]:
        raise SystemExit(f"{url}: {found['errors']} of {found['answers']} requests were refused or failed")
    seconds = found["microseconds"] / 1e6
    return {"per_second": found["answers"] / seconds, "p50_ms": found["p50"] / 1000, "p99_ms": found["p99"] / 1000}


def measure(run: Path, given: argparse.Namespace, folder: Path, advance: Any) -> dict[str, Any]:
    with ExitStack() as stack:
        urls = {way: stack.enter_context(served(run, *arguments)) for way, arguments in WAYS.items()}
        path, what = request(urls["batched"], folder)
        script = folder / "ask.lua"
        for url in urls.values():
            ask(url + path, script, 4, 1)  # the first answers are slower
        cases = []
        for connections in given.connections:
            rounds: dict[str, list[dict[str, float]]] = {way: [] for way in urls}
            for number in range(given.rounds):
                for way in list(urls)[:: 1 if number % 2 else -1]:
                    before = batches(urls[way])
                    found = ask(urls[way] + path, script, connections, given.seconds)
                    count, size = (now - then for now, then in zip(batches(urls[way]), before, strict=True))
                    rounds[way].append({**found, "batch": size / count})
                    advance(f"{connections} at once, {way}: {found['per_second']:,.0f} a second")
            cases.append({"connections": connections, "rounds": rounds})
    return {"run": run.name, "request": f"POST {path}: {what}", "cases": cases}


def median(rounds: list[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in rounds)


def page(found: dict[str, Any]) -> str:
    machine = found["about"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# How fast `zoo serve` answers\n",
        f"`{found['command']}` on {machine['cpu']}, {os.cpu_count()} cores, which the server and wrk share.",
        f"OMP_NUM_THREADS={found['omp']}; {versions}.",
        f"Each number is the median of {found['rounds']} rounds of {found['seconds']:g} s, the two servers in turn.",
        "wrk sends the next request as soon as it has an answer, so that as many are always on their way.\n",
    ]
    for run in found["runs"]:
        lines += [f"## {run['run']}\n", f"{run['request']}.\n"]
        lines += ["| at once | way | answers a second | p50, ms | p99, ms | requests in a batch |", "|---|---|---|---|---|---|"]
        for case in run["cases"]:
            for way, rounds in case["rounds"].items():
                numbers = [f"{median(rounds, key):,.1f}" for key in ("per_second", "p50_ms", "p99_ms", "batch")]
                lines.append(f"| {case['connections']} | {way} | {' | '.join(numbers)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--out", type=Path, default=HERE, help="folder of serve.md and serve.json")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("no wrk on the PATH: apt-get install wrk")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = given.runs or [folder / name for name in NEW]
        for run in runs if not given.runs else ():
            subprocess.run([sys.executable, "-m", "zoo", "train", *NEW[run.name], "--out", str(run)], check=True)
        with progress(len(runs) * len(given.connections) * given.rounds * len(WAYS), "ask") as advance:
            found = [measure(run, given, folder, advance) for run in runs]
    written = {
        "command": " ".join(
            ["python", "docs/results/serve.py", *(run.name for run in given.runs), f"--seconds {given.seconds:g} --rounds {given.rounds}"]
        ),
        "seconds": given.seconds,
        "rounds": given.rounds,
        "omp": os.environ.get("OMP_NUM_THREADS", "not set"),
        "about": about(1, "fastapi", "uvicorn"),
        "runs": found,
    }
    write_whole(given.out / "serve.json", (json.dumps(written, indent=1) + "\n").encode())
    write_whole(given.out / "serve.md", page(written).encode())
    print(page(written))


if __name__ == "__main__":
    main()
