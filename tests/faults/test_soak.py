"""A thousand steps with an evaluation and a checkpoint now and then: memory, open files, threads and processes stay where they are."""

import json
import statistics

import pytest
import runs

pytestmark = pytest.mark.faults

EPOCHS = 40  # of 25 steps


@pytest.mark.parametrize("workers", [0, 2])
def test_a_thousand_steps(workers, tmp_path):
    run = runs.start(runs.soak, str(tmp_path / "out"), str(tmp_path / "seen"), workers, EPOCHS, log=tmp_path / "log")
    assert run.wait(1200) == [0], run.said()
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert len(seen) == 1000
    second, last = seen[250:500], seen[750:]
    for what in ("files", "threads", "children"):
        before, after = (statistics.median(each[what] for each in part) for part in (second, last))
        print(what, before, after)
        assert before == after
        assert max(each[what] for each in last) <= max(each[what] for each in second)
    assert statistics.median(each["children"] for each in last) == workers
    before, after = (statistics.median(each["memory"] for each in part) for part in (second, last))
    print("memory", before, after, "MiB")
    assert after - before < 8  # MiB, in 500 steps of a network of 1 MiB: a leaked batch a step would be 100


def test_a_leak_would_be_seen(tmp_path):
    """The control: a step that keeps its batch."""
    run = runs.start(runs.soak, str(tmp_path / "out"), str(tmp_path / "seen"), 0, 4, True, log=tmp_path / "log")
    assert run.wait(600) == [0], run.said()
    memory = [json.loads(line)["memory"] for line in (tmp_path / "seen").read_text().splitlines()]
    assert statistics.median(memory[75:]) - statistics.median(memory[25:50]) > 8 / 10
