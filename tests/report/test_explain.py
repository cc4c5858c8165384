"""The figure: its numbers are those of the gates, nothing lies over anything else, and it can be drawn of whatever there is."""

import itertools
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo
from zoo.report import attention_maps
from zoo.report.explain import STAGES, Gate, Look, _Scale, draw, look, rendered
from zoo.train import Classify, Preprocess


def stir(model):
    with torch.no_grad():
        for _, _, gate in zoo.attention_slots(model):
            for parameter in gate.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.5)
    return model


def task_of(name, **options) -> Classify:
    model = stir(timm.create_model(name, num_classes=3, **options))
    preprocess = Preprocess.of(model, img_size=96)
    return Classify(model, name=name, preprocess=preprocess, classes=["cat", "a name of some length", "dog"]).eval()


def picture(width=80, height=60) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height // 10, width // 10, 3))
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height))


def look_at(name, true=None, **options) -> Look:
    return look(task_of(name, **options), picture(), name=f"runs/{name}", network=name, true=true, cam=False)


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


def test_the_numbers_are_those_of_the_gates():
    task = task_of("effnet_cbam_test")
    seen = look(task, picture(), name="a", network="effnet_cbam_test", true="dog", cam=False)
    x = task.preprocess.transform(False)(picture())[None]
    maps = attention_maps(task.trainable_module, x, inputs=True)
    chances = task.trainable_module(x)[0].softmax(0).tolist()
    assert dict(seen.said) == pytest.approx(dict(zip(task.classes, chances, strict=True)), abs=1e-6)
    assert [chance for _, chance in seen.said] == pytest.approx(sorted(chances, reverse=True), abs=1e-6) and seen.true == "dog"
    for gate, (path, found) in zip(seen.gates, maps.items(), strict=True):
        m = found.multiplier[0]
        assert gate.path == path and gate.stage == found.stage and gate.shape == found.input.shape[1:] and not gate.adds
        assert np.allclose(gate.where, m.mean(0)) and np.allclose(gate.channels, m.mean((1, 2)))
        assert gate.values == pytest.approx((float(m.mean()), float(m.min()), float(m.max())))
        for channel, map_ in gate.strongest:
            assert np.array_equal(map_, found.input[0, channel])
    assert list(seen.stages()) == [0, 1, 2, 3, 4]
    told = seen.told()
    assert told["true"] == "dog" and told["gates"][2]["gate"] == "cbam" and told["gates"][2]["does"] == "multiplies"
    assert [each["channel"] for each in told["gates"][2]["top_channels"]] == [channel for channel, _ in seen.gates[2].strongest]


def test_a_gate_that_adds_tells_the_size_of_what_it_adds():
    gate = look_at("effnet_nl_test").gates[-1]
    model = task_of("effnet_gca_test").trainable_module
    x = torch.randn(1, 3, 64, 64)
    found = list(attention_maps(model, x, inputs=True).values())[0]
    other = Gate.of("a", found)
    assert gate.adds and gate.where is not None and gate.told()["does"] == "adds"
    assert other.adds and other.where is None and np.allclose(other.channels, found.added[0, :, 0, 0].abs())


def test_silent_channels_are_not_the_strongest():
    found = list(attention_maps(task_of("effnet_se_test").trainable_module, torch.randn(1, 3, 64, 64), inputs=True).values())[0]
    loud = Gate.of("a", found).strongest[0][0]
    found.input[0, loud] = 0
    assert loud not in [channel for channel, _ in Gate.of("a", found).strongest]
    found.input[:] = 0
    assert Gate.of("a", found).strongest == ()


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


def test_a_network_that_answers_nan():
    task = task_of("effnet_eca_test")
    with torch.no_grad():
        task.trainable_module.classifier.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="numbers that are none"):
        look(task, picture(), name="a", network="b", cam=False)


def test_a_grey_network_and_grad_cam():
    pytest.importorskip("pytorch_grad_cam", reason="pip install 'effnet-zoo[explain]'")
    model = stir(timm.create_model("effnet_cbam_test", num_classes=2, in_chans=1))
    preprocess = Preprocess.of(model, img_size=64)
    task = Classify(model, name="a", preprocess=preprocess, classes=["0", "1"]).eval()
    seen = look(task, picture(), name="a", network="b")
    assert seen.seen.mode == "RGB" and seen.seen.size == (64, 64)
    assert seen.cam.shape == (64, 64) and seen.asked == seen.said[0][0]
    assert overlaps(draw([seen], "a.png")) == []
