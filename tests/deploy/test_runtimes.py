"""Each runtime says what PyTorch says of a trained network, for any number of rows; and a missing library is named."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.deploy.runtimes import ANY_SIZE, BATCH, RUNTIMES, files_of, torch_export
from zoo.towers import Bag, ClipText, Tokenizer, Transformer
from zoo.train import TrainConfig

NAMES = sorted(RUNTIMES)
SAME = 1e-4  # of the largest number said; CBAM makes more of rounding than the others
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "executorch": ("executorch",)}


def needed(name):
    for library in LIBRARIES.get(name, ()):
        pytest.importorskip(library, reason=f"pip install 'effnet-zoo[{RUNTIMES[name].EXTRA}]'")
    return RUNTIMES[name]


@pytest.fixture(scope="module")
def trained():
    """(network, its evaluation pixels): a classifier that has learned something."""
    torch.manual_seed(0)
    data = zoo.open_data("digits")
    task = zoo.create_task("effnet_cbam_test", data)
    zoo.fit(task, data.train.take(np.arange(512)), data.eval.take(np.arange(16)), TrainConfig(epochs=2, lr=4e-3))
    transform = task.of_pictures().transform(training=False)
    return task.trainable_module.eval(), torch.stack([transform(data.eval[row]["image"]) for row in range(20)])


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """name -> path of the network as that runtime reads it; written once."""
    paths = {}

    def write(name):
        if name not in paths:
            paths[name] = tmp_path_factory.mktemp(name) / f"model{RUNTIMES[name].SUFFIX}"
            needed(name).write(trained[0], trained[1][:2], paths[name], about='{"é": 1}')
        return paths[name]

    return write


def apart(one, other):
    return (np.abs(one - other).max() / np.abs(other).max()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_same_logits_for_any_number_of_rows(trained, written, name):
    network, pixels = trained
    runtime = needed(name)
    path = written(name)
    assert all(file.is_file() for file in files_of(runtime, path)) and set(path.parent.iterdir()) == set(files_of(runtime, path))
    run = runtime.open(path, threads=1)
    said = []
    for rows in (1, 3, 20):
        wanted = network(pixels[:rows]).numpy()
        said.append((run(pixels[:rows].numpy()), wanted))
    for found, wanted in said:  # kept until now: a runtime may write over what it gave before
        assert found.shape == wanted.shape and found.dtype == np.float32 and apart(found, wanted) < SAME
    assert apart(said[0][0], network(pixels[1:2]).numpy()) > 0.01, "so small a difference must mean something"


@pytest.mark.parametrize("name", NAMES)
def test_what_it_is_is_known(name):
    needed(name)
    assert version(RUNTIMES[name].PACKAGE) and RUNTIMES[name].SUFFIX.startswith(".")
    assert RUNTIMES[name].EXTRA in ("", name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "executorch"])
def test_the_file_says_what_it_is(written, name):
    assert needed(name).about(written(name)) == '{"é": 1}'


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NAMES if name != "executorch"])
def test_pictures_of_any_size(trained, tmp_path, name):
    network = trained[0]
    path = tmp_path / f"model{RUNTIMES[name].SUFFIX}"
    needed(name).write(network, torch.randn(2, 3, 64, 64), path, dynamic=ANY_SIZE)
    run = RUNTIMES[name].open(path, threads=1)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 72)):
        x = torch.randn(shape)
        assert apart(run(x.numpy()), network(x).numpy()) < SAME


def test_one_size_only(trained, written, tmp_path):
    with pytest.raises(ValueError, match="one size of pictures"):
        RUNTIMES["executorch"].write(trained[0], trained[1], tmp_path / "model.pte", dynamic=ANY_SIZE)
    run = needed("onnx").open(written("onnx"))
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(np.zeros((1, 3, 48, 48), np.float32))

    class Rows(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[0] == 2 else x

    with pytest.raises(ValueError, match="2 x 3 and does not take any batch"):
        torch_export.trace(Rows(), torch.zeros(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("tower", [Transformer, Bag, ClipText], ids=lambda tower: tower.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_texts_as_padded_ids(tmp_path, name, tower):
    own = {} if tower is Bag else {"depth": 1, "heads": 2}
    network = tower(tokenizer=Tokenizer.bytes(), width=16, max_length=24, **own).eval()
    path = tmp_path / f"text{RUNTIMES[name].SUFFIX}"
    pad = lambda texts: nn.functional.pad(ids := network.prepare(texts), (0, 24 - ids.shape[1]))  # noqa: E731
    needed(name).write(network, pad(["one"]), path, names=("text", "embeddings"))
    run = RUNTIMES[name].open(path, threads=1)
    for texts in (["x"], ["a longer text than those", "é", ""]):
        assert apart(run(pad(texts).numpy()), network(network.prepare(texts)).numpy()) < SAME


@torch.no_grad()
def test_openvino_takes_a_shuffle_of_channels(tmp_path):
    torch.manual_seed(0)
    network, x = timm.create_model("effnet_sa_test", num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    needed("openvino").write(network, x, tmp_path / "model.xml")
    assert apart(RUNTIMES["openvino"].open(tmp_path / "model.xml", threads=1)(x.numpy()), network(x).numpy()) < SAME


def test_openvino_pools_where_the_size_is_known(trained, tmp_path):
    runtime, kinds = needed("openvino"), {}
    for dynamic in (BATCH, ANY_SIZE):
        model = runtime.convert(trained[0], torch.randn(2, 3, 64, 64), dynamic=dynamic)
        kinds[len(dynamic)] = [operator.get_type_name() for operator in model.get_ordered_ops()]
    fixed, free = kinds.values()
    gates = free.count("ReduceMax") // 2  # over pixels, and over channels
    assert gates and (fixed.count("MaxPool"), fixed.count("AvgPool")) == (gates, gates + 1)  # and the mean before the classifier
    assert (fixed.count("ReduceMax"), fixed.count("ReduceMean")) == (gates, gates)
    assert "MaxPool" not in free and "AvgPool" not in free


@torch.no_grad()
def test_openvino_at_half_the_width_and_for_one_shape(trained, written):
    network, pixels = trained
    path = written("openvino")
    wanted = network(pixels[:2]).numpy()
    half = needed("openvino").open(path, threads=1, precision="bf16")(pixels[:2].numpy())
    assert half.dtype == np.float32 and apart(half, wanted) < 0.2
    one = RUNTIMES["openvino"].open(path, threads=1, shape=tuple(pixels[:2].shape))
    assert apart(one(pixels[:2].numpy()), wanted) < SAME
    with pytest.raises(RuntimeError):
        one(pixels[:3].numpy())
    with pytest.raises(ValueError, match="precision: expected f32 or bf16, got 'int4'"):
        RUNTIMES["openvino"].open(path, precision="int4")


@pytest.mark.parametrize("name, library", [(name, library) for name in LIBRARIES for library in LIBRARIES[name]])
def test_a_missing_library_is_named(trained, tmp_path, monkeypatch, name, library):
    for module in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / f"model{RUNTIMES[name].SUFFIX}"
    path.write_bytes(b"")
    works = [lambda: RUNTIMES[name].write(trained[0], trained[1], path), lambda: RUNTIMES[name].open(path)]
    if name == "onnx":  # one library runs a file, two others write it
        works = works[1:] if library == "onnxruntime" else works[:1]
    for work in works:
        with pytest.raises(ImportError, match=rf"pip install 'effnet-zoo\[{name}\]'"):
            work()
    assert path.read_bytes() == b""
