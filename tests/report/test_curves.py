"""Curves: where the ticks are, where a point lies, and what becomes of numbers that are none."""

import math

import pytest

from zoo.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, compared_charts, run_charts, shown, ticks


@pytest.mark.parametrize("low, high", [(0, 1), (0.113, 0.124), (-3.2, 17), (1e-7, 3e-6), (99.1, 99.3), (5, 5), (0, 0), (1e6, 3e6)])
def test_ticks_are_few_and_round_and_hold_everything(low, high):
    found = ticks(low, high)
    steps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert 2 <= len(found) <= 8 and found[0] <= low + 1e-9 and found[-1] >= high - 1e-9
    assert max(steps) - min(steps) < 1e-6 * max(steps)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(math.isclose(mantissa, each, rel_tol=1e-6) for each in (1, 2, 2.5, 5, 10))


def test_points_lie_where_their_numbers_say():
    made = chart("t", "loss", {"a": [(1, 0.0), (2, 4.0), (3, 1.0)]})
    (line,) = made.lines
    assert [(point.x, point.epoch, point.text) for point in line.points] == [
        (LEFT, 1, "0"),
        ((LEFT + WIDTH - RIGHT) / 2, 2, "4"),
        (WIDTH - RIGHT, 3, "1"),
    ]
    assert [point.y for point in line.points] == [HEIGHT - BOTTOM, TOP, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 4]
    assert [(tick.text, tick.at) for tick in made.y][::4] == [("0", HEIGHT - BOTTOM), ("4", TOP)]
    assert len(line.paths) == 1 and made.told == "t over epochs 1 to 3. a: from 0 to 1"


def test_numbers_that_are_none_leave_a_gap():
    nan, inf = math.nan, math.inf
    made = chart("t", "loss", {"a": [(1, 3.0), (2, nan), (3, 2.0), (4, 1.0), (5, inf)], "none": [(1, nan)]})
    (line,) = made.lines
    assert [path.count(",") for path in line.paths] == [1, 2] and [point.epoch for point in line.points] == [1, 3, 4]
    assert made.gaps == "No number in epoch 1, 2, 5."
    assert chart("t", "loss", {"a": [(1, nan)]}) is None and chart("t", "loss", {}) is None


def test_one_epoch_stands_in_the_middle():
    (line,) = chart("t", "top1", {"a": [(1, 50.0)]}).lines
    assert line.points[0].x == (LEFT + WIDTH - RIGHT) / 2 and TOP <= line.points[0].y <= HEIGHT - BOTTOM and line.last == "50.0 %"


def test_percent_stays_within_a_hundred_and_small_numbers_lose_their_power():
    assert [tick.text for tick in chart("t", "top1", {"a": [(1, 98.2), (2, 100.0)]}).y][-1] == "100.0"
    made = chart("Learning rate", "lr", {"a": [(1, 2e-3), (2, 1e-6)]})
    assert made.title == "Learning rate, × 10⁻³" and [tick.text for tick in made.y] == ["0.0", "0.5", "1.0", "1.5", "2.0"]


def test_many_epochs_and_many_runs():
    made = chart("t", "loss", {str(run): [(epoch, float(run + epoch)) for epoch in range(1, 301)] for run in range(14)})
    assert len(made.x) <= 9 and made.x[0].text == "1"
    assert len({(line.kind, line.dashed) for line in made.lines}) == 14, "no two runs look the same"


def test_of_a_run_and_of_several():
    epochs = [{"epoch": 1.0, "loss": 2.0, "eval_loss": 1.5, "top1": 50.0, "top5": 90.0, "lr": 1e-3}]
    assert [each.title for each in run_charts(epochs, "top1")] == ["Loss", "Top-1 accuracy, %", "Learning rate, × 10⁻³"]
    joint = [{"epoch": 1.0, "loss": 2.0, "lr": 0.1, "R@1": 10.0, "image->text R@1": 5.0, "text->image R@1": 15.0}]
    charts = run_charts(joint, "R@1")
    assert [line.name for line in charts[1].lines] == ["image->text", "text->image"] and len(charts) == 3
    both = compared_charts({"a": epochs, "b": joint}, {"a": "top1", "b": "R@1"})
    assert [each.title for each in both] == ["Top-1 accuracy, %", "Recall at 1, %", "Training loss", "Evaluation loss"]
    assert both[1].lines[0].kind == both[2].lines[1].kind == 1, "a run has one colour everywhere"


def test_how_numbers_are_written():
    assert [shown("top1", 98.04), shown("a->b R@1", 3.0), shown("loss", 0.12345), shown("lr", 1e-6), shown("seconds", 12345.0)] == [
        *("98.0 %", "3.0 %", "0.123", "1e-06", "12,345")
    ]
    assert shown("loss", math.nan) == shown("loss", None) == "none"
