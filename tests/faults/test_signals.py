"""SIGTERM and SIGINT to `zoo train`: saved within one step on all processes, exit code 143 or 130, and an exact end when it is resumed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import runs

from zoo.train import checkpoint

pytestmark = pytest.mark.faults

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
BOTH = pytest.mark.parametrize("number", list(CODES), ids=lambda number: number.name)


def arguments(out, *more):
    recipe = ["train", runs.NETWORK, "--data", "digits", "--epochs", "1", "--batch-size", "64", "--img-size", "16", "--mixup", "0.2"]
    return [*recipe, "--ema", "0.9", "--out", str(out), *more]


STEPS = runs.COMMAND_ROWS // 64


def run(folder, name, *more, **how):
    out = folder / name
    resumed = ["--resume"] if (out / "config.json").exists() else []
    started = runs.start(runs.command, *arguments(out, *more), *resumed, log=folder / f"{name}.log", **how)
    return started.wait(), started.said()


def saved_step(out):
    return checkpoint.read(checkpoint.checkpoints(out / "checkpoints")[-1])[2]["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{processes: digest} of runs that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for world in (1, 2):
        codes, said = run(folder, f"whole{world}", *(["--batch-size", "32"] if world == 2 else []), world=world)
        assert set(codes) == {0}, said
        found[world] = runs.digest(folder / f"whole{world}")
    return found


@BOTH
@pytest.mark.parametrize(
    ("step", "stage", "saved"),
    [(0, "before", 1), (2, "gradients", 3), (STEPS - 1, "updated", STEPS), (STEPS - 1, "evaluating", STEPS), (STEPS - 1, "saving", None)],
    ids=["first", "middle", "last", "evaluating", "saving"],
)
def test_one_process(tmp_path, whole, number, step, stage, saved):
    """With workers, which get Ctrl-C as well where a terminal sends it; when all is done but the files, the run simply ends."""
    codes, said = run(tmp_path, "cut", "--workers", "2", happenings=[(step, stage, number)])
    assert codes == [CODES[number] if saved else 0], said
    if saved:
        assert f"stopped by {number.name}: saved at step {saved} of {STEPS}" in said and saved_step(tmp_path / "cut") == saved
        assert run(tmp_path, "cut")[0] == [0]
    assert runs.digest(tmp_path / "cut") == whole[1]


@BOTH
@pytest.mark.parametrize("rank", [0, 1, None], ids=["rank 0", "rank 1", "both"])
def test_two_processes(tmp_path, whole, number, rank):
    half = ("--batch-size", "32")
    codes, said = run(tmp_path, "cut", *half, happenings=[(2, "before", number)], world=2, rank=rank)
    assert codes == [CODES[number]] * 2, (codes, said)
    assert saved_step(tmp_path / "cut") == 3
    assert run(tmp_path, "cut", *half, world=2)[0] == [0, 0]
    assert runs.digest(tmp_path / "cut") == whole[2]


@BOTH
def test_torchrun_passes_it_on(tmp_path, number):
    """To the loader's workers as well, which torchrun signals with their parents; it gives them thirty seconds and then kills."""
    out, log = tmp_path / "cut", tmp_path / "cut.log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "zoo"]
    more = ["--batch-size", "32", "--workers", "1", "--epochs", "200"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, *arguments(out, *more)], stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until(lambda: (out / "metrics.jsonl").exists(), 240)
    process.send_signal(number)
    assert process.wait(120) != 0
    said = log.read_text()
    assert f"exitcode  : {CODES[number]}" in said or f"stopped by {number.name}: saved at step" in said, said
    step = saved_step(out)
    assert f"saved at step {step} of" in said, said
    assert left_of(str(out)) == []


def test_torchrun_ends_when_one_process_is_killed(tmp_path):
    out, log = tmp_path / "cut", tmp_path / "cut.log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "zoo"]
    with log.open("w") as file:
        more = ["--batch-size", "32", "--workers", "1", "--epochs", "200"]
        process = subprocess.Popen([*command, *arguments(out, *more)], stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until(lambda: (out / "metrics.jsonl").exists(), 240)
    ranks = [pid for pid in left_of(str(out)) if environment(pid).get("RANK") == "1"]
    os.kill(min(ranks), signal.SIGKILL)
    assert process.wait(120) != 0
    until(lambda: left_of(str(out)) == [], 60)


def test_the_second_ctrl_c_acts_at_once(tmp_path):
    """The step never ends by itself: its gradients wait for a file that does not come."""
    started = runs.start(runs.stuck, *arguments(tmp_path / "out", "--workers", "2"), log=tmp_path / "log")
    (process,) = started.processes
    until(lambda: "stuck" in started.said(), 120)
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.is_alive()
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    assert started.wait(60) == [130] and time.monotonic() - began < 30, started.said()
    assert len(children) == 2 and not any(alive(pid) for pid in children)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_worker_outlives_its_run(tmp_path, number):
    """Of kill -9 no process hears: the workers see within seconds that there is no parent."""
    started = runs.start(runs.command, *arguments(tmp_path / "out", "--workers", "2", "--epochs", "200"), log=tmp_path / "log")
    (process,) = started.processes
    until(lambda: (tmp_path / "out" / "metrics.jsonl").exists(), 120)
    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(process.pid, number)
    assert started.wait(60) == [130 if number == signal.SIGINT else -9], started.said()
    if number == signal.SIGINT:
        assert not any(alive(pid) for pid in children)
    until(lambda: not any(alive(pid) for pid in children), 60)


def until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(each) for each in file.read().split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_of(word):
    """Processes whose command line holds a word; nothing else on the machine is looked at."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                if word in file.read() and alive(int(name)) and int(name) != os.getpid():
                    found.append(int(name))
        except OSError:
            continue
    return found


def environment(pid):
    with open(f"/proc/{pid}/environ") as file:
        return dict(pair.split("=", 1) for pair in file.read().split("\0") if "=" in pair)


def test_what_the_tests_look_for(tmp_path):
    """The control: a process that is there is found, and is alive; one that has ended is not."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)])
    until(lambda: left_of(str(tmp_path)) == [process.pid], 30)
    assert alive(process.pid) and process.pid in children_of(os.getpid()) and "PATH" in environment(process.pid)
    process.kill()
    process.wait()
    assert left_of(str(tmp_path)) == [] and not alive(process.pid)
