"""zoo show: a network by name, or the one of a run."""

import timm

from zoo.backbones import attention_slots


def test_every_gate_of_a_name(zoo):
    said = zoo("show", "effnet_cbam_test", "--json")
    assert said.code == 0
    model = timm.create_model("effnet_cbam_test")
    assert said.json["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    slots = [(path, "cbam", sum(p.numel() for p in gate.parameters())) for path, _, gate in attention_slots(model)]
    assert [tuple(gate.values()) for gate in said.json["attention"]] == slots and len(slots) == 5


def test_macs_grow_with_the_picture(zoo):
    small, large = (zoo("show", "effnet_eca_test", "--img-size", size, "--json").json["macs"] for size in (64, 128))
    assert 3.5 < large / small < 4.1  # convolutions grow with the area, the classifier does not


def test_the_layers_as_a_table(zoo):
    said = zoo("show", "effnet_eca_test")
    assert said.code == 0
    assert "EfficientNet" in said.out and "blocks.0.0.se" in said.out and "5 gates" in said.out
    assert len(zoo("show", "effnet_eca_test", "--depth", "1").out) < len(said.out)


def test_a_network_without_attention(zoo):
    said = zoo("show", "effnet_none_test")
    assert said.code == 0 and "attention: none" in said.out


def test_a_run(zoo, classifier, joint):
    said = zoo("show", classifier, "--json")
    assert said.code == 0 and {gate["attention"] for gate in said.json["attention"]} == {"eca"}
    image = zoo("show", joint, "--json")
    assert image.code == 0 and image.json["parameters"] < said.json["parameters"]  # the classifier's last layer is not there


def test_an_unknown_model(mistake):
    assert "did you mean 'effnet_cbam_test'" in mistake("show", "effnet_cbam_tset")


def test_a_directory_that_is_no_run(mistake, tmp_path):
    assert "config.json" in mistake("show", tmp_path)
