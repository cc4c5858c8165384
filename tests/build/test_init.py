"""Weights of the base network in a file: nothing of them is lost at the start, and nothing but the new attention is left in the end."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import zoo
from zoo.backbones.slots import slots
from zoo.build.init import create_initialised, read_state
from zoo.datasets import Data, Split

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def moved(network):
    """Weights that no initialisation gives, and statistics that are not those of a fresh batch norm."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def saved(network, file, metadata=None):
    safetensors.torch.save_file(network.state_dict(), file, metadata)
    return file


@torch.no_grad()
def away(one, two):
    return float((one.eval().forward_features(X) - two.eval().forward_features(X)).abs().max())


@pytest.mark.parametrize(
    "name, base",
    [("effnet_cbam_lite0", "tf_efficientnet_lite0"), ("effnet_eca_b0", "efficientnet_b0"), ("effnet_se_b0", "efficientnet_b0")],
)
@pytest.mark.parametrize("classes", [0, 7])
def test_the_network_computes_what_the_file_does(name, base, classes, tmp_path):
    network = moved(timm.create_model(base, num_classes=classes))
    found = create_initialised(name, saved(network, tmp_path / f"{base}_weights.safetensors"), num_classes=10)
    assert away(found, network) <= 1e-5 < away(timm.create_model(base, num_classes=10), network)
    assert found.num_classes == 10 and found.pretrained_cfg["mean"] == timm.get_pretrained_cfg(base).mean
    assert all(gate is not None for gate in slots(found).values())


def test_the_padding_of_the_tensorflow_weights_matters(tmp_path):
    """The control: as the PyTorch network of the same name the very weights compute something else."""
    network = moved(timm.create_model("tf_efficientnet_lite0", num_classes=0))
    file = saved(network, tmp_path / "weights.safetensors")
    assert away(create_initialised("effnet_cbam_lite0", file), network) > 1e-2
    assert away(create_initialised("effnet_cbam_lite0.tf_in1k", file), network) <= 1e-5
    said = saved(network, tmp_path / "said.safetensors", {"architecture": "tf_efficientnet_lite0", "mean": "[0.1, 0.2, 0.3]"})
    found = create_initialised("effnet_cbam_lite0", said)
    assert away(found, network) <= 1e-5 and found.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_a_directory_of_a_hub_says_what_it_holds(tmp_path):
    network = moved(timm.create_model("tf_efficientnet_lite0", num_classes=5))
    zoo.save_model(network, tmp_path)
    for given in (tmp_path, tmp_path / "model.safetensors"):
        assert away(create_initialised("effnet_cbam_lite0", given, num_classes=2), network) <= 1e-5
    with pytest.raises(ValueError, match="holds tf_efficientnet_lite0; effnet_cbam_b0 is made from efficientnet_b0"):
        create_initialised("effnet_cbam_b0", tmp_path)


def test_a_classifier_of_the_same_size_comes_along(tmp_path):
    network = moved(timm.create_model("test_efficientnet", num_classes=3))
    file = saved(network, tmp_path / "weights.safetensors")
    same, other = (create_initialised("effnet_cbam_test", file, num_classes=classes) for classes in (3, 4))
    assert torch.equal(same.classifier.weight, network.classifier.weight) and other.classifier.weight.shape == (4, 256)
    torch.save({"state_dict": {f"module.{key}": each for key, each in network.state_dict().items()}}, tmp_path / "weights.pth")
    assert away(create_initialised("effnet_cbam_test", tmp_path / "weights.pth"), network) <= 1e-5
    assert away(create_initialised("test_efficientnet", file, num_classes=4), network) == 0


class Bomb:
    def __reduce__(self):
        return (open, ("went_off", "w"))


def test_what_is_wrong_with_a_file_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth: expected a state dict"):
        read_state(tmp_path / "bomb.pth")
    assert not (tmp_path / "went_off").exists()
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="cannot be read"):
        read_state(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_state(tmp_path / "nothing.pth")
    lite = timm.create_model("efficientnet_lite0", num_classes=0)
    file = saved(lite, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"base of effnet_cbam_b0: it lacks blocks\.0\.0\.se\.conv_reduce.*looks like efficientnet_lite0"):
        create_initialised("effnet_cbam_b0", file)
    other = saved(lite, tmp_path / "said.safetensors", {"architecture": "resnet18"})
    with pytest.raises(ValueError, match="says that it holds resnet18"):
        create_initialised("effnet_cbam_lite0", other)


def test_a_run_from_a_file_ends_as_the_pure_network(tmp_path):
    def read(index):
        pixels = np.random.default_rng(index).integers(0, 60, (16, 16, 3)) + index % 2 * 180
        return {"image": Image.fromarray(pixels.astype(np.uint8)), "label": index % 2, "text": f"{index}"}

    rows = Split(32, read, ("image", "label", "text"))
    data = Data("two kinds", rows, rows, classes=("dark", "bright"), img_size=32, augment="shift")
    file = saved(moved(timm.create_model("test_efficientnet", num_classes=0)), tmp_path / "weights.safetensors")
    task = zoo.create_task("effnet_cbam_test", data, init=file, mean=(0.4, 0.5, 0.6))
    assert task.preprocess.mean == (0.4, 0.5, 0.6) and task.describe()["init"] == str(file)
    zoo.fit(task, rows, rows, zoo.TrainConfig(epochs=1, batch_size=16, out=str(tmp_path / "run")))
    pure = timm.create_model("effnet_cbam_test", num_classes=2)
    pure.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "model.safetensors"))
    again = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert away(again, pure) == 0
    assert tuple(json.loads((tmp_path / "run" / "config.json").read_text())["pretrained_cfg"]["mean"]) == (0.4, 0.5, 0.6)
    joint = zoo.create_task({"image": "effnet_cbam_test", "text": "bag"}, data, init=file)
    base = timm.create_model("test_efficientnet", num_classes=0)
    base.load_state_dict(safetensors.torch.load_file(file))
    assert away(joint.joint.towers["image"], base) <= 1e-5
    assert joint.describe()["towers"]["image"] == "effnet_cbam_test" and joint.describe()["init"] == str(file)
    for wrong, told in ((dict(pretrained=True), "give one"), (dict(), "for the name of a network")):
        with pytest.raises(ValueError, match=told):
            zoo.create_task("effnet_cbam_test" if wrong else pure, data, init=file, **wrong)
