"""kill -9 at random places, several times, then to the end: every bit is what it is in a run that nobody touched."""

import os
import random
import signal

import pytest
import runs

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)  # printed with every failure, to come back to


def whole(kind, folder, **how):
    run = runs.start(runs.train, kind, str(folder / "whole"), how, log=folder / "whole.log", world=how.pop("world", 1))
    assert set(run.wait()) == {0}, run.said()
    return runs.digest(folder / "whole")


def cut(kind, folder, killed, *, workers, world=1, rank=None, control=None):
    """Start again and again, killed at the given places; the number of workers changes from start to start. Returns how often."""
    out, log = folder / "cut", folder / "cut.log"
    happened = 0
    for number, happenings in enumerate([*killed, []]):
        how = {"workers": workers[number % len(workers)]}
        run = runs.start(runs.train, kind, str(out), how, log=log, happenings=happenings, world=world, rank=rank, control=control)
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
