"""kill -9 at random places, several times, then to the end: every bit is what it is in a run that nobody touched."""

import os
import random
import signal

import pytest
import runs
import timm

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)  # printed with every failure, to come back to


def whole(kind, folder, world=1, **how):
    run = runs.start(runs.train, kind, str(folder / "whole"), how, log=folder / "whole.log", world=world)
    assert set(run.wait()) == {0}, run.said()
    return runs.digest(folder / "whole")


def cut(kind, folder, killed, *, workers, world=1, rank=None, control=None, what=runs.train, **also):
    """Start again and again, killed at the given places; the number of workers changes from start to start. Returns how often."""
    out, log = folder / "cut", folder / "cut.log"
    happened = 0
    for number, happenings in enumerate([*killed, []]):
        how = {"workers": workers[number % len(workers)], **also}
        run = runs.start(what, kind, str(out), how, log=log, happenings=happenings, world=world, rank=rank, control=control)
        codes = run.wait()
        if happenings:
            happened += -signal.SIGKILL in codes
            assert 0 not in codes, (happenings, codes, run.said())
            if rank is None:
                assert set(codes) == {-signal.SIGKILL}, (happenings, codes, run.said())
        else:
            assert set(codes) == {0}, run.said()
    return happened


@pytest.mark.parametrize("kind", ["classify", "image-text", "three"])
def test_kill_minus_nine_at_random_places(kind, tmp_path):
    killed = runs.random_happenings(SEED, 3, signal.SIGKILL)
    print("FAULTS_SEED", SEED, killed)
    expected = whole(kind, tmp_path, workers=2)
    assert cut(kind, tmp_path, killed, workers=[0, 2]) == 3
    assert runs.digest(tmp_path / "cut") == expected


@pytest.mark.parametrize(("kind", "rank"), [("classify", None), ("classify", 1), ("three", 0)])
def test_two_processes_of_which_one_or_all_are_killed(kind, rank, tmp_path):
    """The other one ends by itself; started again, both go on from the same step."""
    killed = runs.random_happenings(SEED + 1, 2, signal.SIGKILL, anywhere=rank is None)
    print("FAULTS_SEED", SEED, killed)
    expected = whole(kind, tmp_path, world=2, workers=0)
    assert cut(kind, tmp_path, killed, workers=[2, 0], world=2, rank=rank) == 2
    assert runs.digest(tmp_path / "cut") == expected


@pytest.mark.parametrize("control", sorted(runs.CONTROLS))
def test_controls_end_elsewhere(control, tmp_path):
    """What the tests above would not see would not be tested: without a seed for each step, or with another order, the hashes differ."""
    run = runs.start(runs.train, "classify", str(tmp_path / "whole"), {}, log=tmp_path / "log", control=control)
    assert run.wait() == [0], run.said()
    cut("classify", tmp_path, [[(3, "updated", signal.SIGKILL)]], workers=[0], control=control)
    expected, found = (runs.digest(tmp_path / name) for name in ("whole", "cut"))
    assert expected.keys() == found.keys() and expected["step"] == found["step"]
    assert all(expected[key] != found[key] for key in ("weights", "average", "optimizer", "log", "model.safetensors"))


def test_the_network_of_the_run_is_whole_at_any_time(tmp_path):
    """Killed while it is half written: what was there before is there still, and loads."""
    ends = runs.STEPS_PER_EPOCH - 1
    run = runs.start(runs.train, "classify", str(tmp_path / "cut"), {}, log=tmp_path / "log", happenings=[(ends, "saving", signal.SIGKILL)])
    assert run.wait() == [-9], run.said()
    half, whole = next((tmp_path / "cut").glob(".writing-model.safetensors*")), tmp_path / "cut" / "model.safetensors"
    assert 0 < half.stat().st_size < whole.stat().st_size
    network = timm.create_model(f"local-dir:{tmp_path / 'cut'}", pretrained=True)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert runs.checkpoint.read(runs.checkpoint.checkpoints(tmp_path / "cut" / "checkpoints")[-1])[2]["step"] == ends + 1


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_picture_that_is_none_in_one_of_two_processes(policy, tmp_path):
    """Both stop, or both leave the step out: with the same weights, and killed and resumed with the same as well."""
    how = {"nonfinite": policy, "workers": 0}
    run = runs.start(runs.train_spoilt, "classify", str(tmp_path / "whole"), how, log=tmp_path / "log", world=2)
    codes = run.wait()
    if policy == "stop":
        assert codes == [1, 1] and run.said().count("FloatingPointError: the loss of step") == 2, (codes, run.said())
        last = runs.checkpoint.checkpoints(tmp_path / "whole" / "checkpoints")
        assert all(runs.checkpoint.read(path)[0]["model"]["bn1.running_mean"].isfinite().all() for path in last)
        return
    assert codes == [0, 0], run.said()
    expected = runs.digest(tmp_path / "whole")
    assert len((tmp_path / "whole" / "skipped.jsonl").read_text().splitlines()) == runs.EPOCHS
    cut("classify", tmp_path, [[(6, "updated", signal.SIGKILL)]], workers=[0], world=2, what=runs.train_spoilt, nonfinite=policy)
    assert runs.digest(tmp_path / "cut") == expected
