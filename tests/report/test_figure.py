"""The figure: nothing lies over anything else, and it can be drawn of whatever there is."""

import itertools
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import timm

from zoo.report.explain import Gate, Look, look
from zoo.report.figure import STAGES, _Scale, draw, rendered
from zoo.train import Classify, Preprocess

from .test_explain import look_at, picture, stir


@contextmanager
def listening():
    """Inside, every text that is drawn is noted."""
    from matplotlib.text import Text

    drawn, draw_it = {}, Text.draw

    def noted(self, renderer):
        if self.get_visible() and self.get_text().strip():
            drawn[self] = self.get_text(), self.get_window_extent(renderer)  # once for the layout, and once on paper
        draw_it(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        yield drawn


def words_of(figure) -> list[str]:
    with listening() as drawn:
        rendered(figure)
    return [line for words, _ in drawn.values() for line in words.split("\n")]


def overlaps(figure) -> list[tuple[str, str]]:
    """Texts that lie over each other or leave the figure."""
    with listening() as drawn:
        rendered(figure)
    size = figure.bbox
    bad = [(words, "outside") for words, box in drawn.values() if min(box.x0, box.y0, size.x1 - box.x1, size.y1 - box.y1) < -1]
    for (one, a), (other, b) in itertools.combinations(drawn.values(), 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            bad.append((one, other))
    return bad


def test_one_scale_for_all_in_a_row_and_no_small_difference_is_blown_up():
    def gate(where):
        where = np.asarray(where, dtype=np.float32)
        return Gate("a", "b", 0, (2, *where.shape), False, False, where, np.array([0.2, 0.4]), (0, 0, 0), ())

    wide = _Scale.of([gate([[0.2, 0.4]]), gate([[0.5, 0.6]])])
    assert (wide.low, wide.high) == pytest.approx((0.2, 0.6)) and wide.heat(np.array([0.2, 0.6])) == pytest.approx([0, 1], abs=1e-6)
    narrow = _Scale.of([gate([[0.5, 0.501]])])
    assert narrow.heat(np.array([0.5, 0.501])) == pytest.approx([0.48, 0.52], abs=1e-3)
    flat = _Scale.of([gate([[0.0, 0.0]])])
    assert np.isfinite(flat.heat(np.zeros(2))).all() and wide.bottom == 0 and wide.top == pytest.approx(0.4)


NETWORKS = {
    "one stage": [("effnet_cbam_test", {"attn_stages": dict.fromkeys(range(4), "none")}, "cat")],
    "two stages": [("effnet_se_test", {}, "dog")],
    "mixed": [("effnet_se_test", {"attn_stages": {1: "gca", 2: "triplet", 3: "eca", 4: "nl"}}, "a name of some length")],
    "none": [("effnet_none_test", {}, "cat")],
    "two networks": [("effnet_cbam_test", {}, "cat"), ("effnet_eca_test", {}, "cat")],
    "with none": [("effnet_se_test", {}, "cat"), ("effnet_none_test", {}, "cat")],
    "other stages": [("effnet_nl_test", {}, "cat"), ("effnet_se_test", {}, "cat")],
    "timm's": [("seresnet18", {}, None)],
}


@pytest.mark.parametrize("which", NETWORKS)
def test_nothing_lies_over_anything_else(which):
    looks = [look_at(name, true, **options) for name, options, true in NETWORKS[which]]
    if which != "none":
        # as it will be with Grad-CAM, without the time that it takes
        looks = [Look(**{**vars(each), "cam": np.eye(12), "asked": "a name of some length"}) for each in looks]
    figure = draw(looks, "a $picture$ with a_name.png")
    assert overlaps(figure) == []


def test_the_guard_against_overlaps_sees():
    figure = draw([Look("a", "b", picture())], "a.png")
    figure.text(0.5, 0.5, "one over")
    figure.text(0.5, 0.49, "the other")
    figure.text(0.95, 0.2, "one that goes too far")
    assert {("one over", "the other"), ("one that goes too far", "outside")} <= set(overlaps(figure))


def test_many_stages_are_thinned_out():
    gates = tuple(Gate(f"features.{n}.se", "se", n, (4, 2, 2), False, False, None, np.ones(4), (1, 1, 1), ()) for n in range(15))
    figure = draw([Look("a", "b", picture(), gates=gates)], "a.png")
    rows = [each for each in words_of(figure) if each.startswith("stage ")]
    assert len(rows) == STAGES and rows[0] == "stage 0" and rows[-1] == "stage 14"


def test_a_gate_in_no_stage_is_called_by_its_place():
    gate = Gate("stem.attn", "se", None, (4, 2, 2), False, False, None, np.ones(4), (1, 1, 1), ())
    words = words_of(draw([Look("a", "b", picture(), gates=(gate,))], "a.png"))
    assert "stem.attn" in words and "se" in words


def test_right_wrong_and_unknown():
    said = (("7", 0.9), ("1", 0.1))

    def words(true):
        return words_of(draw([Look("a", "b", picture(), said=said, true=true)], "a.png"))

    assert "“7” 90%, right" in words("7") and "wrong: it is “1”" in words("1") and "“7” 90%" in words(None)


@pytest.mark.parametrize("kind, begins", [("pdf", b"%PDF"), ("svg", b"<?xml"), ("jpg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_other_files(kind, begins):
    figure = draw([Look("a", "b", picture(), said=(("猫", 1.0),))], "猫.png")  # which the font does not have
    assert rendered(figure, kind).startswith(begins)


def test_no_window_and_no_global_state():
    before = "matplotlib.pyplot" in sys.modules
    rendered(draw([Look("a", "b", picture())], "a.png"))
    assert ("matplotlib.pyplot" in sys.modules) == before
    if before:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_grey_network_and_grad_cam():
    pytest.importorskip("pytorch_grad_cam", reason="pip install 'effnet-zoo[explain]'")
    model = stir(timm.create_model("effnet_cbam_test", num_classes=2, in_chans=1))
    preprocess = Preprocess.of(model, img_size=64)
    task = Classify(model, name="a", preprocess=preprocess, classes=["0", "1"]).eval()
    seen = look(task, picture(), name="a", network="b")
    assert seen.seen.mode == "RGB" and seen.seen.size == (64, 64)
    assert seen.cam.shape == (64, 64) and seen.asked == seen.said[0][0]
    assert overlaps(draw([seen], "a.png")) == []
