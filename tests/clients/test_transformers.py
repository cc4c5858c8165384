"""TimmWrapperModel and TimmBackbone: docs/clients/transformers.md."""

import pytest
import timm
import torch
from PIL import Image

import zoo

pytestmark = pytest.mark.clients
CLIENT = "transformers"


def test_the_script(page, gates, same):
    model, losses, x = page["model"], page["losses"], page["pictures"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    assert model.config.id2label[7] == "7"
    assert page["processor"](Image.new("RGB", (80, 60)))["pixel_values"].shape == (1, 3, 32, 32)
    assert page["out"].last_hidden_state.shape == (8, 1280, 1, 1) and page["out"].pooler_output.shape == (8, 1280)
    assert [each.shape[-1] for each in page["maps"]] == [8, 4, 2, 1]
    with torch.no_grad():
        same(page["again"](x).logits, model(x).logits)
        wanted = page["network"].eval().forward_intermediates(x, indices=(1, 2, 3, 4), intermediates_only=True)
        same(list(page["backbone"](x).feature_maps), wanted)


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network, tmp_path):
    x = torch.randn(2, 3, 64, 64)
    model = client.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert gates(model) == gates(network)
    same(model(x).logits, network(x))
    model.save_pretrained(tmp_path / "again")
    same(client.AutoModelForImageClassification.from_pretrained(tmp_path / "again").eval()(x).logits, network(x))
    features = client.TimmWrapperModel.from_pretrained(folder).eval()
    same(features(x).last_hidden_state, network.forward_features(x))
    same(timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()(x), network(x))  # timm reads what it wrote


@torch.no_grad()
def test_a_changed_network_as_backbone(client, gates, same, folder, network):
    x = torch.randn(1, 3, 64, 64)
    config = client.TimmBackboneConfig(backbone=f"local-dir:{folder}", out_indices=[2, 4])
    backbone = client.TimmBackbone(config).eval()
    assert gates(backbone) == gates(network)
    weights = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).state_dict()
    backbone._backbone.load_state_dict(weights)
    wanted = network.forward_intermediates(x, indices=(2, 4), intermediates_only=True)
    same(list(backbone(x).feature_maps), wanted)
    assert backbone.channels == [each.shape[1] for each in wanted]


@pytest.mark.parametrize("freeze", [False, True])
def test_what_becomes_of_running_statistics(client, tmp_path, freeze):
    """Why the page loads weights by hand: of a TimmBackbone that is built pretrained, timm's own networks included."""
    network = timm.create_model("resnet10t")
    network.bn1.running_mean.fill_(0.5)
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    config = client.TimmBackboneConfig(backbone=f"local-dir:{tmp_path}", out_indices=[1], freeze_batch_norm_2d=freeze)
    built = client.TimmBackbone(config, pretrained=True)._backbone
    assert torch.equal(built.conv1[0].weight, network.conv1[0].weight)
    assert built.bn1.running_mean.eq(0.5 if freeze else 0).all(), "if transformers keeps them now, the page can say so"


def test_what_becomes_of_a_start(client, gates):
    """Why the page starts from a folder: transformers draws convolutions anew, and gates are not calm any more."""
    config = client.TimmWrapperConfig(architecture="effnet_cbam_test", num_labels=10)
    started = client.TimmWrapperForImageClassification(config).timm_model
    assert gates(started) == {"cbam": 5}
    assert started.conv_stem.weight.std() < 0.03 < timm.create_model("effnet_cbam_test").conv_stem.weight.std()
    assert started.blocks[0][0].se.channel.fc2.weight.any()


def test_checkpointing_and_hidden_states(client, tmp_path):
    folder = zoo.save_model(timm.create_model("effnet_cbam_test", num_classes=3), tmp_path)
    model = client.AutoModelForImageClassification.from_pretrained(folder).train()
    model.activation_checkpointing_enable()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    out = model(x, output_hidden_states=True)
    out.logits.sum().backward()
    assert x.grad.any() and [each.shape[-1] for each in out.hidden_states] == [32, 16, 8, 4, 2]
