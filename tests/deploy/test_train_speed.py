"""Our loop beside timm's step: everybody takes as many steps, and the numbers follow from the clocks."""

import pytest
import timm

from zoo.datasets.folder import read_folder
from zoo.deploy import train_speed
from zoo.deploy.train_speed import Taken, bench_train, write_pictures


def test_all_sides_are_measured(monkeypatch):
    steps = []
    step_update = timm.scheduler.cosine_lr.CosineLRScheduler.step_update
    monkeypatch.setattr(
        timm.scheduler.cosine_lr.CosineLRScheduler, "step_update", lambda self, *given: steps.append(1) or step_update(self, *given)
    )
    found = bench_train("effnet_eca_test", batch_size=4, img_size=32, rounds=1, steps=1)
    assert len(steps) == 2 * 3  # two rounds, of which one is not counted, of a step of three sides
    assert list(found.sides) == ["ours", "timm", "timm channels_last"] and list(found.ratios) == ["timm", "timm channels_last"]
    assert all(side.images_per_second > 0 and 0 < side.waiting < 1 for side in found.sides.values())
    ratio = found.ratios["timm"].wall
    assert 0 < ratio.low <= ratio.median <= ratio.high


def test_the_numbers_follow_from_the_clocks():
    rounds = [{"ours": Taken(9, 9), "timm": Taken(9, 9, 9)}] + 3 * [{"ours": Taken(2, 1), "timm": Taken(4, 3, 1)}]
    found = train_speed._measured(rounds, 8, waited=3)
    assert found.sides["ours"].images_per_second == 4 and found.sides["ours"].images_per_processor_second == 8
    assert found.sides["ours"].waiting == 3 / 15 and found.sides["timm"].waiting == 1 / 4
    assert found.ratios["timm"].wall.median == 2 and found.ratios["timm"].processor.median == 3


def test_pictures(tmp_path):
    write_pictures(tmp_path, 37)
    data = read_folder(tmp_path)
    assert len(data.train) > 400 and len(data.classes) == 10 and data.train[5]["image"].size == (37, 37)


def test_mistakes():
    with pytest.raises(ValueError, match="rounds: expected 1 or more, got 0"):
        bench_train(rounds=0)
