"""EfficientDet: docs/clients/effdet.md."""

import pytest
import torch

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),  # effdet scripts its loss and its matcher as it is imported
]
CLIENT = "effdet"


def small(client, name, size=(128, 128), **options):
    config = client.get_efficientdet_config("efficientdet_d0")
    config.update(backbone_name=name, image_size=list(size), num_classes=2, fpn_channels=16, fpn_cell_repeats=1, box_class_repeats=1)
    return client.EfficientDet(config, **options)


def test_the_script(page, gates):
    model, losses = page["model"], page["losses"]
    assert gates(model) == gates(model, that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    assert page["found"].shape == (2, 100, 6) and page["found"].isfinite().all()


@torch.no_grad()
def test_it_comes_back(page, same):
    same(page["again"].eval()(page["pictures"]), page["model"].eval()(page["pictures"]))


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 128), (100, 76)])
def test_anchors_lie_where_the_maps_do(client, size):
    """Levels 3 to 7: three of the network's, two that are pooled; as many anchors as there are predictions."""
    model = small(client, "effnet_cbam_test", size=size, pretrained_backbone=False).eval()
    assert model.backbone.feature_info.reduction() == [8, 16, 32]
    scores, boxes = model(torch.randn(2, 3, *size))
    cells = [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]
    assert [tuple(each.shape[-2:]) for each in scores] == cells == [tuple(each.shape[-2:]) for each in boxes]
    anchors = client.anchors.Anchors.from_config(model.config).boxes
    assert len(anchors) == sum(each.shape[1] // 4 * each.shape[2] * each.shape[3] for each in boxes)


@torch.no_grad()
def test_changed_networks(client, gates, same, folder, network):
    model = small(client, f"local-dir:{folder}", pretrained_backbone=True).eval()
    assert gates(model) == gates(network)
    x = torch.randn(1, 3, 128, 128)
    same(model.backbone(x), network.forward_intermediates(x, indices=(2, 3, 4), intermediates_only=True))
