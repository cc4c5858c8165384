"""The means of a network's last three stages, on one scale."""

import pytest
import timm
import torch

import zoo
from zoo.heads import Linear, Stages
from zoo.joint import JointEmbedding, width_for


def test_every_channel_counts_alike():
    head, x = Stages(6, 4), torch.randn(32, 6) * torch.tensor([1e-2, 1.0, 1.0, 1e2, 1.0, 5.0]) + 3
    scaled = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), scaled @ head.proj.weight.T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head.eval()(x), scaled @ head.proj.weight.T, atol=0.1)  # one batch has not taught it the scale


@pytest.mark.parametrize("name", ["effnet_cbam_b0", "resnet18", "vit_tiny_patch16_224"])
def test_reads_what_timm_says_are_the_stages(name):
    size = 224 if name.startswith("vit") else 64
    joint = zoo.create_joint({"image": name, "text": "bag"}, head={"image": "stages"}, embed_dim=8).eval()
    tower, x = joint.towers["image"], torch.randn(2, 3, size, size)
    found = joint.features("image", x)
    maps = tower.forward_intermediates(x, indices=3, intermediates_only=True)
    assert found.shape == (2, width_for(tower, "stages")) == (2, joint.heads["image"].proj.in_features)
    torch.testing.assert_close(found, torch.cat([each.mean((2, 3)) for each in maps], 1))
    assert [each.shape[1] for each in maps] == [each["num_chs"] for each in list(tower.feature_info)[-3:]]


def test_what_is_behind_the_last_stage_is_not_read():
    joint = zoo.create_joint({"image": "effnet_cbam_test", "text": "bag"}, head={"image": "stages"}, embed_dim=8)
    joint({"image": torch.randn(2, 3, 32, 32)})["image"].sum().backward()
    silent = {name for name, parameter in joint.towers["image"].named_parameters() if parameter.grad is None}
    assert silent == {"conv_head.weight", "bn2.weight", "bn2.bias"}


def test_a_tower_without_stages_is_told():
    network = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(ValueError, match="the head of text .Stages. reads the means of stages, and its tower has none; take linear"):
        JointEmbedding(
            {"image": network, "text": zoo.towers.Bag(tokenizer=zoo.towers.tokenizer.Tokenizer.bytes())},
            {"image": Linear(512, 4), "text": Stages(4, 4)},
            loss=zoo.losses.clip,
        )
    with pytest.raises(ValueError, match="head 'stages' reads the means of stages"):
        zoo.create_joint({"image": "resnet18", "text": "bag"}, head={"text": "stages"})
