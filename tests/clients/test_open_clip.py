"""The image tower: docs/clients/open_clip.md. What `zoo export --to open_clip` writes is tested in tests/deploy/test_open_clip.py."""

import pytest
import timm
import torch

pytestmark = pytest.mark.clients
CLIENT = "open_clip"


def small(client, **vision):
    vision = {"timm_model_name": "effnet_cbam_test", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64, **vision}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return client.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)


def test_the_script(page, gates, same):
    model, losses = page["model"], page["losses"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    assert page["embedding"].shape == (1, 128) and abs(page["embedding"].norm().item() - 1) < 1e-5
    with torch.no_grad():
        same(page["again"](page["pictures"], page["texts"]), model(page["pictures"], page["texts"]))
    normalize = page["preprocess"].transforms[-1]
    assert tuple(normalize.mean) == page["IMAGENET"]["image_mean"] and tuple(normalize.std) == page["IMAGENET"]["image_std"]


@pytest.mark.parametrize("pool", ["avg", "max", "", "abs_attn", "rot_attn"])
@pytest.mark.parametrize("proj", ["linear", "mlp", ""])
def test_pools_and_projections(client, gates, pool, proj):
    model = small(client, timm_pool=pool, timm_proj=proj)
    if (pool, proj) == ("", ""):  # a classifier upon a map, as with any CNN of timm
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model.encode_image(torch.randn(2, 3, 64, 64))
        return
    out = model.encode_image(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 32)
    out.sum().backward()
    assert gates(model.visual, that_learn=True) == {"cbam": 5}


@pytest.mark.filterwarnings("ignore:Importing from timm.models.helpers:FutureWarning")  # open_clip 3.3 does
def test_a_locked_tower(client):
    model = small(client)
    model.lock_image_tower(unlocked_groups=2, freeze_bn_stats=True)
    trunk = model.visual.trunk
    learn = {key for key, parameter in trunk.named_parameters() if parameter.requires_grad}
    groups = timm.models.group_parameters(trunk, trunk.group_matcher())
    assert learn == {key for group in sorted(groups)[-2:] for key in groups[group]}
    assert any(".se." in key for key in learn) and any(".se." in key for key, _ in trunk.named_parameters() if key not in learn)


def test_drop_path_and_checkpointing(client):
    model = small(client, timm_drop_path=0.2).train()
    rates = [module.drop_prob for module in model.visual.trunk.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) > 0.1
    model.set_grad_checkpointing()
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)
    model.encode_image(pixels).sum().backward()
    assert pixels.grad.any()


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network):
    model = small(client, timm_model_name=f"local-dir:{folder}", timm_model_pretrained=True).eval()
    assert gates(model) == gates(network)
    x = torch.randn(1, 3, 64, 64)
    same(model.visual.trunk(x), network.forward_head(network.forward_features(x), pre_logits=True))
    again = small(client, timm_model_name=f"local-dir:{folder}").eval()
    again.load_state_dict(model.state_dict())
    same(again.encode_image(x), model.encode_image(x))
