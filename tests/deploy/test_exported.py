"""An exported folder: pictures and texts in plain Python, read like a run, and everything that can be wrong with one."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from registry import ATTENTION
from zoo.backbones import swap_attention
from zoo.build import load_run
from zoo.deploy import Differs, at_size, check_exported, export, exported, parts, set_aside, write_exported
from zoo.deploy.runtimes import RUNTIMES, torchscript
from zoo.towers import MLP
from zoo.train import TrainConfig

RUNTIME = "torchscript"  # needs torch alone, and is the fastest to write


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """kind -> a trained run."""
    made = {}
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    for kind, model, name in (
        ("classifier", "effnet_cbam_test", "digits"),
        ("joint", {"image": "effnet_se_test", "text": "bag"}, "glyphs:characters=12"),
    ):
        data = zoo.open_data(name)
        task = zoo.create_task(model, data)
        out = root / kind
        config = TrainConfig(epochs=2 if kind == "classifier" else 1, lr=4e-3, out=str(out), workers=0)
        zoo.fit(task, data.train.take(np.arange(min(512, len(data.train)))), data.eval.take(np.arange(12)), config, about={"data": name})
        made[kind] = out
    return made


def write(run, out, runtime=RUNTIME, **more):
    opened = load_run(run)
    config = json.loads((run / "config.json").read_text())
    return opened, write_exported(opened.task, config, runtime, out, run=str(run), **more)


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    """kind -> its exported folder; not to be written into."""
    root = tmp_path_factory.mktemp("exported")
    for kind, run in runs.items():
        assert write(run, root / kind)[1] == []
    return {kind: root / kind for kind in runs}


@pytest.fixture
def copy(folders, tmp_path):
    """copy("classifier"): a folder to write into."""
    return lambda kind: shutil.copytree(folders[kind], tmp_path / kind)


def some_pictures(count=3):
    rows = zoo.open_data("digits").eval
    return [rows[number]["image"].convert("RGB") for number in range(count)]


@torch.no_grad()
def test_a_classifier_in_plain_python(runs, folders, tmp_path):
    model, task = zoo.load_exported(folders["classifier"], threads=1), load_run(runs["classifier"]).task
    pictures = some_pictures()
    pixels = torch.stack([task.preprocess.transform(training=False)(picture) for picture in pictures])
    wanted = task.trainable_module.eval()(pixels).softmax(1)
    said = model(pictures)
    for found, row in zip(said, wanted, strict=True):
        assert list(found) == [task.classes[number] for number in row.argsort(descending=True).tolist()]
        assert list(found.values()) == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-4)
    pictures[0].save(tmp_path / "0.png")
    for one in (pictures[0], np.asarray(pictures[0]), tmp_path / "0.png", str(tmp_path / "0.png"), np.asarray(pictures[0].convert("L"))):
        assert model(one) == pytest.approx(said[0], abs=1e-5), type(one)
    assert model.image(pictures).shape == (3, 10) and model.image(pictures[0]).shape == (10,)
    many = model.image(pictures * 20)
    assert many.shape == (60, 10) and np.allclose(many[57:], model.image(pictures), atol=1e-4)


@torch.no_grad()
def test_a_joint_embedding_in_plain_python(runs, folders):
    model, task = zoo.load_exported(folders["joint"]), load_run(runs["joint"]).task
    pictures, texts = some_pictures(), ["greek small letter alpha", "", "x " * 200]
    pixels = torch.stack([task.of_pictures().transform(training=False)(picture) for picture in pictures])
    wanted = task.joint.eval()({"image": pixels, "text": task.joint.towers["text"].prepare(texts)})
    assert np.allclose(model.image(pictures), wanted["image"], atol=1e-5) and np.allclose(model.text(texts), wanted["text"], atol=1e-5)
    assert np.allclose(model(pictures[1]), wanted["image"][1], atol=1e-5) and model.text(texts[0]).shape == (task.joint.embed_dim,)
    with pytest.raises(ValueError, match="embeds image, text; it reads no pictures called 'photo'"):
        model.image(pictures, modality="photo")


def test_what_is_no_picture(folders, tmp_path):
    model = zoo.load_exported(folders["classifier"])
    for wrong in (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), [3], [None]):
        with pytest.raises(ValueError, match="expected a picture"):
            model(wrong)
    with pytest.raises(ValueError, match="gone.png: no such file"):
        model(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="no pictures"):
        model([])
    with pytest.raises(ValueError, match="reads no texts"):
        model.text("a")


@pytest.mark.parametrize("kind", ["classifier", "joint"])
def test_it_is_measured_like_the_run(runs, folders, kind):
    run, ours = load_run(runs[kind]), load_run(folders[kind])
    rows = run.open_data().eval
    rows = rows.take(np.arange(min(120, len(rows))))
    wanted, found = (zoo.evaluate(each.task, rows, batch_size=50) for each in (run, ours))
    assert found[run.task.metric] == pytest.approx(wanted[run.task.metric], abs=1e-6) and run.runtime is None
    assert ours.runtime["name"] == RUNTIME and ours.settings == run.settings
    if kind == "joint":
        assert torch.allclose(ours.task.joint.logit_scale, run.task.joint.logit_scale, atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "joint"])
def test_it_is_not_for_training(runs, folders, kind, tmp_path):
    opened = load_run(folders[kind])
    rows = opened.open_data().train
    with pytest.raises(ValueError, match=f"for use, not for training: train {runs[kind]} instead"):
        zoo.fit(opened.task, rows, None, TrainConfig(epochs=1, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=f"for use and not for training: take {runs[kind]} instead"):
        zoo.build.create_model(str(folders[kind]))
    with pytest.raises(ValueError, match=f"stays as it is: take {runs[kind]} instead"):
        opened.to_change()
    assert load_run(runs[kind]).to_change()


def test_checked_and_refused(runs, tmp_path):
    opened, _ = write(runs["classifier"], tmp_path / "out")
    pictures = some_pictures(5)
    found = check_exported(opened.task, tmp_path / "out", {"image": pictures}, rows_at_a_time=2)
    assert found["rows"] == 5 and found["difference"]["image"] < 1e-4 and found["tolerance"] == export.TOLERANCE
    config = json.loads((tmp_path / "out" / "config.json").read_text())["runtime"]
    assert config["checked"] == found and "refused" not in config

    class Off(nn.Module):
        """The network with one logit a hundredth off."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            y = self.network(x)
            return y + 0.01 * y.abs().max() * (torch.arange(10) == 3)

    def wrong(part, path, about):
        torchscript.write(Off(part.network), part.example, path, about=about)

    opened, _ = write(runs["classifier"], tmp_path / "work", write=wrong)
    with pytest.raises(Differs, match=r"differ from PyTorch's \(image by \d\.\de-0\d of the largest, 0.001 may be\) on 5 rows"):
        check_exported(opened.task, tmp_path / "work", {"image": pictures})
    assert check_exported(*write_again(tmp_path, runs, wrong), tolerance=0.5)["tolerance"] == 0.5
    aside = set_aside(tmp_path / "work", tmp_path / "result")
    assert aside == tmp_path / "result-refused" and not list((tmp_path / "work").iterdir())
    with pytest.raises(ValueError, match="this export was refused: its outputs differ"):
        zoo.load_exported(aside)
    (tmp_path / "mine-refused").mkdir()
    with pytest.raises(ValueError, match="mine-refused, where a refused export would be kept, holds something else"):
        set_aside(tmp_path / "work", tmp_path / "mine")


def write_again(tmp_path, runs, wrong):
    opened, _ = write(runs["classifier"], tmp_path / "loose", write=wrong)
    return opened.task, tmp_path / "loose", {"image": some_pictures(2)}


def test_nothing_is_taken_for_equal_because_it_is_no_number(runs, tmp_path):
    class Nothing(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3)).unsqueeze(1).expand(-1, 10) * torch.nan

    opened, _ = write(runs["classifier"], tmp_path, write=lambda part, path, about: torchscript.write(Nothing(), part.example, path))
    with pytest.raises(Differs, match="image by nan"):
        check_exported(opened.task, tmp_path, {"image": some_pictures(2)})


def test_damage_and_other_versions_are_named(copy, tmp_path):
    folder = copy("joint")
    file = folder / "image.ts"
    content = file.read_bytes()
    file.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(ValueError, match=r"image.ts is damaged: its sha256 is \w{8}..., expected \w{8}"):
        zoo.load_exported(folder)
    with pytest.raises(ValueError, match="the run does not load: .*image.ts is damaged"):
        load_run(folder)
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="image.ts is damaged: it has [0-9,]+ bytes, expected"):
        zoo.load_exported(folder)
    file.unlink()
    with pytest.raises(ValueError, match="image.ts is missing"):
        zoo.load_exported(folder)
    file.write_bytes(content)
    config = json.loads((folder / "config.json").read_text())

    def with_runtime(**changed):
        (folder / "config.json").write_text(json.dumps({**config, "runtime": {**config["runtime"], **changed}}))
        return folder

    with pytest.raises(ValueError, match=r"was exported by effnet-zoo 7.1, newer than this one .*: pip install -U effnet-zoo"):
        zoo.load_exported(with_runtime(format=exported.FORMAT + 1, zoo="7.1"))
    with pytest.raises(ValueError, match="unknown runtime 'torchscrip'; did you mean 'torchscript'"):
        zoo.load_exported(with_runtime(name="torchscrip"))
    with pytest.raises(ValueError, match="config.json is damaged"):
        zoo.load_exported(with_runtime(parts=None))
    assert zoo.load_exported(with_runtime()).text("a").ndim == 1
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no exported folder"):
        zoo.load_exported(folder)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        zoo.load_exported(tmp_path / "gone")


def test_an_option_that_the_runtime_does_not_have(folders):
    with pytest.raises(ValueError, match="torchscript has no option 'precision'; it has threads"):
        zoo.load_exported(folders["classifier"], precision="bf16")


def test_the_options_of_a_folder_and_others(runs, tmp_path, monkeypatch):
    """A folder that was made for bfloat16 opens so, unless it is asked for otherwise."""
    write(runs["classifier"], tmp_path, options={"precision": "bf16"})
    asked = []
    monkeypatch.setattr(torchscript, "open", lambda path, *, threads=None, precision="f32": asked.append(precision))
    zoo.load_exported(tmp_path)
    zoo.load_exported(tmp_path, precision="f32")
    assert asked == ["bf16", "f32"]


def test_a_file_that_its_runtime_does_not_open(copy):
    folder = copy("classifier")
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.ts").write_bytes(b"written by another torch")
    config["runtime"]["files"]["model.ts"] = exported.record(b"written by another torch")
    config["runtime"]["library"] = "torch 9.0"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"torch 2\S* does not open model.ts, which torch 9.0 wrote: "):
        zoo.load_exported(folder)


def test_a_file_alone(runs, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'effnet-zoo[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")
    write(runs["classifier"], tmp_path / "c", "onnx")
    alone = shutil.copy(tmp_path / "c" / "model.onnx", tmp_path / "mine.onnx")
    pictures = some_pictures()
    for one, other in zip(zoo.load_exported(alone)(pictures), zoo.load_exported(tmp_path / "c")(pictures), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    (tmp_path / "half.onnx").write_bytes((tmp_path / "mine.onnx").read_bytes()[:2000])
    with pytest.raises(ValueError, match="half.onnx is damaged, or no ONNX file"):
        zoo.load_exported(tmp_path / "half.onnx")
    RUNTIMES["onnx"].write(nn.Flatten(), torch.zeros(2, 3, 8, 8), tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="foreign.onnx does not say what it reads"):
        zoo.load_exported(tmp_path / "foreign.onnx")
    with pytest.raises(FileNotFoundError, match="gone.onnx: no such file"):
        zoo.load_exported(tmp_path / "gone.onnx")


def test_a_half_way_swapped_network_is_not_exported(runs, tmp_path):
    opened = load_run(runs["classifier"])
    swap_attention(opened.task.trainable_module, "eca", keep="graft")
    with pytest.raises(ValueError, match=r"\d+ gates are being handed over, .* finish the hand-over"):
        parts(opened.task)
    zoo.finish_swap(opened.task.trainable_module)
    assert len(parts(opened.task)[0]) == 1


def test_towers_that_no_file_can_hold_stay_behind(tmp_path):
    tower = MLP.fit([{"a": 1.0}, {"a": 2.0}])
    data = zoo.open_data("glyphs:characters=12")
    task = zoo.create_task({"image": "effnet_se_test", "text": "bag"}, data)
    joint = zoo.create_joint({**task.joint.towers, "table": tower}, embed_dim=16)
    task = zoo.build.align.as_task(joint, task.description, task.preprocess, {"table": ["a"]}, False)
    found, left = parts(task)
    assert [part.modality for part in found] == ["image", "text"]
    assert left == ["left out: table; a MLP does not read what every runtime has, pictures or token ids"]


def test_another_size(runs, tmp_path):
    opened = load_run(runs["classifier"])
    at_size(opened.task, 48)
    config = json.loads((runs["classifier"] / "config.json").read_text())
    write_exported(opened.task, config, RUNTIME, tmp_path / "out", run="")
    model = zoo.load_exported(tmp_path / "out")
    assert model.preprocess["image"].input_size == (3, 48, 48)
    assert check_exported(opened.task, tmp_path / "out", {"image": some_pictures()})["difference"]["image"] < 1e-4
    with pytest.raises(ValueError, match="at least 8 pixels, got 4"):
        at_size(opened.task, 4)


@torch.no_grad()
def gate_as_onnx(name, tmp_path):
    """The largest difference, and the largest output, of a briefly trained network with this gate."""
    pytest.importorskip("onnxscript", reason="pip install 'effnet-zoo[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")
    data = zoo.open_data("digits")
    task = zoo.create_task(f"effnet_{name}_test", data)
    with torch.enable_grad():
        zoo.fit(task, data.train.take(np.arange(256)), None, TrainConfig(epochs=1, lr=4e-3))
    network = task.trainable_module.eval()
    transform = task.of_pictures().transform(training=False)
    pixels = torch.stack([transform(data.eval[row]["image"]) for row in range(3)])
    path = tmp_path / "model.onnx"
    RUNTIMES["onnx"].write(network, pixels, path)
    run = RUNTIMES["onnx"].open(path, threads=1)
    for rows in (1, 3):
        wanted = network(pixels[:rows]).numpy()
        assert np.abs(run(pixels[:rows].numpy()) - wanted).max() <= export.TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["se", "eca", "coord", "none"])
def test_gates_as_onnx(name, tmp_path):
    gate_as_onnx(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_every_gate_as_onnx(name, tmp_path):
    gate_as_onnx(name, tmp_path)
