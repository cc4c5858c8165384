"""Grad-CAM: by hand for one network; found in any; nothing is touched."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.report.grad_cam import cam_layer, grad_cam

needs_grad_cam = pytest.mark.skipif(find_spec("pytorch_grad_cam") is None, reason="pip install 'effnet-zoo[explain]'")


class Small(nn.Module):
    """A convolution, a mean and a linear layer: Grad-CAM in closed form."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


@needs_grad_cam
def test_by_hand():
    model = Small()
    x = torch.randn(2, 3, 32, 24)
    found = grad_cam(model, x, target=2)
    with torch.no_grad():
        maps = model.conv(x)
        slope = model.fc.weight[2].view(1, -1, 1, 1) * (maps > 0) / maps[0, 0].numel()  # of the class by each place of the convolution
        cam = (slope.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)
        cam = cam - cam.amin((1, 2), keepdim=True)
        cam = F.interpolate((cam / cam.amax((1, 2), keepdim=True))[:, None], (32, 24), mode="bicubic")[:, 0].clamp(min=0)
        cam = cam / cam.amax((1, 2), keepdim=True)
    assert found.shape == (2, 32, 24) and found.dtype == np.float32
    assert np.allclose(found, cam.numpy(), atol=1e-5)


@needs_grad_cam
def test_the_likeliest_class_of_each_picture():
    model, x = Small().eval(), torch.randn(6, 3, 32, 24)
    likeliest = model(x).argmax(1).tolist()
    assert len(set(likeliest)) > 1
    found = grad_cam(model, x)
    for row, target in enumerate(likeliest):
        assert np.allclose(found[row], grad_cam(model, x[row : row + 1], target=target)[0], atol=1e-5)


@pytest.mark.parametrize(
    "name, size, layer",
    [
        ("effnet_cbam_test", (160, 160), "bn2"),
        ("effnet_cbam_test", (64, 48), "blocks.3.0.bn1"),  # further on the map is 2 x 2
        ("resnet18", (128, 128), "layer4"),
        ("mobilenetv3_small_050", (128, 128), "blocks"),  # what follows reads a single pixel
        ("test_vit", (160, 160), "blocks.5.norm1"),
        ("test_convnext", (160, 160), None),
        ("swin_tiny_patch4_window7_224", (224, 224), "norm"),
    ],
)
@needs_grad_cam
def test_any_classifier(name, size, layer):
    model = timm.create_model(name, num_classes=5).eval()
    x = torch.randn(1, 3, *size)
    if layer is not None:
        assert cam_layer(model, x)[0] == layer
    found = grad_cam(model, x, target=3)
    assert found.shape == (1, *size) and found.min() >= 0 and found.max() <= 1
    assert found.std() > 0.01, "somewhere more than elsewhere"


@needs_grad_cam
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers(dtype):
    model = timm.create_model("effnet_eca_test", num_classes=5).to(dtype)
    assert np.isfinite(grad_cam(model, torch.randn(2, 3, 64, 64, dtype=dtype))).all()


@needs_grad_cam
def test_the_model_is_left_as_it_was():
    model = timm.create_model("effnet_srm_test", num_classes=5, drop_rate=0.5).train()
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    next(model.parameters()).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = {key: value.grad for key, value in model.named_parameters()}
    values = {key: None if grad is None else grad.clone() for key, grad in grads.items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    x = torch.randn(2, 3, 64, 64)
    random = torch.get_rng_state()
    with torch.no_grad():
        grad_cam(model, x)
    assert not x.requires_grad and x.grad is None and torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    for key, parameter in model.named_parameters():
        assert parameter.grad is grads[key] and (values[key] is None or torch.equal(values[key], parameter.grad))
    assert not any(module._forward_hooks for module in model.modules())


@needs_grad_cam
def test_a_joint_embedding_is_asked_what_is_like_a_text():
    joint = zoo.create_joint({"image": "effnet_eca_test", "text": "bag"}, embed_dim=8).train()
    x = torch.randn(2, 3, 96, 96)
    one, other = grad_cam(joint, x, towards=torch.eye(8)[0]), grad_cam(joint, x, towards=torch.eye(8)[5])
    alone = grad_cam(joint, x)
    assert one.shape == other.shape == alone.shape == (2, 96, 96) and joint.training
    assert not np.allclose(one, other, atol=1e-2) and not np.allclose(one, alone, atol=1e-2)
    frozen = zoo.create_joint({"image": "effnet_eca_test", "text": "bag"}, embed_dim=8, frozen=("image",))
    frozen.load_state_dict(joint.state_dict())
    assert np.allclose(grad_cam(frozen, x, towards=torch.eye(8)[0]), one, atol=1e-5), "a frozen tower has maps too"
    assert frozen.frozen == {"image"} and not any(each.requires_grad for each in frozen.towers["image"].parameters())


@needs_grad_cam
def test_mistakes():
    model, x = timm.create_model("effnet_eca_test", num_classes=5), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="target 7: expected a class from 0 to 4"):
        grad_cam(model, x, target=7)
    with pytest.raises(ValueError, match="expected a joint embedding"):
        grad_cam(model, x, towards=torch.ones(8))
    with pytest.raises(ValueError, match="has no classes"):
        grad_cam(zoo.create_joint({"image": "effnet_eca_test", "text": "bag"}, embed_dim=8), x, target=1)
    with pytest.raises(ValueError, match="gives something else"):
        grad_cam(timm.create_model("effnet_eca_test", features_only=True), x)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(ValueError, match="makes no feature map"):
        grad_cam(flat, torch.randn(1, 3, 2, 2))


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match=r"pip install 'effnet-zoo\[explain\]'"):
        grad_cam(Small(), torch.randn(1, 3, 32, 32))
