"""What a network makes of a picture: the numbers are those of its gates."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo
from zoo.report import attention_maps
from zoo.report.explain import Gate, Look, look
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


def test_a_network_that_answers_nan():
    task = task_of("effnet_eca_test")
    with torch.no_grad():
        task.trainable_module.classifier.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="numbers that are none"):
        look(task, picture(), name="a", network="b", cam=False)
