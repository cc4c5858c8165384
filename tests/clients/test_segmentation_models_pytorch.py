"""Unet, FPN and the others: docs/clients/segmentation_models_pytorch.md."""

import pytest
import torch

import zoo

pytestmark = pytest.mark.clients
CLIENT = "segmentation_models_pytorch"


def test_the_script(page, gates, same):
    model, losses = page["model"], page["losses"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    with torch.no_grad():
        same(page["again"](page["pictures"]), model(page["pictures"]))


@pytest.mark.filterwarnings("ignore:Encoder does not have prefix tokens:UserWarning")  # DPT says so of every CNN
@pytest.mark.parametrize(
    "name",
    [
        *("Unet", "UnetPlusPlus", "FPN", "Linknet", "MAnet", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"),
        "DPT",
    ],
)
def test_every_decoder(client, gates, name):
    model = client.create_model(name, "tu-effnet_cbam_test", encoder_weights=None, classes=3).train()
    out = model(torch.randn(2, 3, 128, 128))
    assert out.shape == (2, 3, 128, 128)
    out.square().mean().backward()
    used = 3 if name == "PSPNet" else 5  # it reads the map at an eighth
    assert gates(model, that_learn=True) == {"cbam": used}


@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_channels(client, in_channels):
    model = client.Unet("tu-effnet_cbam_test", encoder_weights=None, in_channels=in_channels).eval()
    assert model(torch.randn(1, in_channels, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("kwargs", [{}, {"feature_cls": "getter"}], ids=str)
def test_fewer_levels(client, gates, depth, kwargs):
    """timm carries the stages behind the last level along, or leaves them out, as the page says."""
    widths = (32, 16, 16, 8, 8)[:depth]
    model = client.Unet("tu-effnet_cbam_test", encoder_weights=None, encoder_depth=depth, decoder_channels=widths, **kwargs)
    out = model(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 1, 64, 64)
    out.square().mean().backward()
    assert gates(model, that_learn=True) == {"cbam": depth}
    assert gates(model) == {"cbam": depth if kwargs else 5}


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(client, gates, stride):
    model = client.DeepLabV3Plus("tu-effnet_cbam_test", encoder_weights=None, encoder_output_stride=stride).eval()
    assert model.encoder(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 64 // stride
    assert gates(model) == {"cbam": 5}


def test_options_of_the_network(client):
    model = client.FPN("tu-effnet_cbam_test", encoder_weights=None, attn_stages={3: "eca"}, drop_path_rate=0.2)
    assert [name for _, name, _ in zoo.attention_slots(model)] == ["cbam", "cbam", "cbam", "eca", "cbam"]


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network, tmp_path):
    model = client.FPN(f"tu-local-dir:{folder}", encoder_weights=True, classes=2).eval()
    assert gates(model) == gates(network)
    x = torch.randn(1, 3, 64, 64)
    same(model.encoder(x)[1:], network.forward_intermediates(x, intermediates_only=True))
    model.save_pretrained(tmp_path / "segmenter")
    same(client.from_pretrained(tmp_path / "segmenter").eval()(x), model(x))
