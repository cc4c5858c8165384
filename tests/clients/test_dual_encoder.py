"""VisionTextDualEncoder: docs/clients/dual_encoder.md. The recipe for a trained run is tested in tests/towers/test_hf_dual_encoder.py."""

import pytest
import torch

pytestmark = pytest.mark.clients
CLIENT = "transformers"


def test_the_script(page, gates, same):
    model, losses = page["model"], page["losses"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    asked = {"input_ids": page["tokens"], "pixel_values": page["pictures"]}
    with torch.no_grad():
        ours, theirs = page["again"](**asked), model(**asked)
    same((ours.image_embeds, ours.text_embeds), (theirs.image_embeds, theirs.text_embeds))


def text(client):
    return client.BertModel(client.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16))


def test_without_hidden_size(client, folder):
    vision = client.TimmWrapperModel.from_pretrained(folder)
    with pytest.raises(AttributeError, match="hidden_size"):
        client.VisionTextDualEncoderModel(vision_model=vision, text_model=text(client))


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network, tmp_path):
    vision = client.TimmWrapperModel.from_pretrained(folder)
    vision.config.hidden_size = network.num_features
    model = client.VisionTextDualEncoderModel(vision_model=vision, text_model=text(client)).eval()
    assert gates(model) == gates(network)
    x = torch.randn(2, 3, 64, 64)
    same(model.vision_model(x).pooler_output, network.forward_head(network.forward_features(x), pre_logits=True))
    model.save_pretrained(tmp_path / "pair")
    again = client.VisionTextDualEncoderModel.from_pretrained(tmp_path / "pair").eval()
    assert gates(again) == gates(network)
    same(again.get_image_features(x).pooler_output, model.get_image_features(x).pooler_output)
