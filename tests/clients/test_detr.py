"""DETR: docs/clients/detr.md."""

import pytest
import timm
import torch

pytestmark = pytest.mark.clients
CLIENT = "transformers"
SMALL = {
    **dict(d_model=32, num_queries=4, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32),
    **dict(encoder_attention_heads=2, decoder_attention_heads=2, num_labels=2),
}


def small(client, name, freeze=True):
    backbone = client.TimmBackboneConfig(backbone=name, out_indices=[4], freeze_batch_norm_2d=freeze)
    return client.DetrForObjectDetection(client.DetrConfig(backbone_config=backbone, **SMALL)).eval()


def test_the_script(page, gates, same):
    model, losses = page["model"], page["losses"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    with torch.no_grad():
        ours, theirs = page["again"](page["pictures"]), model(page["pictures"])
    same((ours.logits, ours.pred_boxes), (theirs.logits, theirs.pred_boxes))
    assert ours.pred_boxes.shape == (2, 8, 4)


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network, tmp_path):
    model = small(client, f"local-dir:{folder}")
    body = model.model.backbone.model
    body.load_state_dict(timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).state_dict())
    assert gates(model) == gates(network)
    x = torch.randn(1, 3, 64, 64)
    same(body(x)[-1:], network.forward_intermediates(x, indices=(4,), intermediates_only=True))
    model.save_pretrained(tmp_path / "detector")
    again = client.DetrForObjectDetection.from_pretrained(tmp_path / "detector").eval()
    same(again(x).logits, model(x).logits)


@pytest.mark.parametrize("name", ["effnet_cbam_test", "test_efficientnet"])
def test_activations_are_lost_without_freezing(client, name):
    """What the page warns of, of timm's own network as well."""

    def activations(model):
        return sum(isinstance(module, torch.nn.SiLU) for module in model.modules())

    whole = activations(timm.create_model(name, features_only=True))
    assert activations(small(client, name).model.backbone) == whole
    assert activations(small(client, name, freeze=False).model.backbone) < whole, "if DETR keeps them now, the page can say so"
