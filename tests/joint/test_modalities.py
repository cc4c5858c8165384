"""Five modalities with holes in one manifest, from the data string to the run and back."""

import json
import shutil
import wave

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo
from zoo.cli.app import run as command

TOWERS = {
    "image": "effnet_cbam_test",
    "text": "transformer:width=32,depth=1",
    "table": "mlp:width=32",
    "sound": "spectrogram:effnet_eca_test,seconds=0.3,mels=32",
    "spectrum": "vector:width=16",
}
PAIRS = [("image", "text"), ("image", "table"), ("text", "sound"), ("sound", "spectrum")]
NAMES = [f"{one}-{other}" for one, other in PAIRS]
WEIGHTS = {"image-table": 0.5}


def tone(path, pitch, seed):
    noise = np.random.default_rng(seed).normal(0, 0.05, 4000)
    samples = 0.5 * np.sin(2 * np.pi * pitch * np.arange(4000) / 16000) + noise
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Things of two kinds, forty to train on; every modality is missing somewhere, and no row has all five."""
    root = tmp_path_factory.mktemp("things")
    lines = []
    for index in range(56):
        kind = index % 2
        draw = np.random.default_rng(index)
        line = {
            "image": f"{index}.png",
            "caption": f"{('dark', 'bright')[kind]} thing, number {index}",
            "age": float(10 * kind + draw.normal()),
            "colour": ("red", "blue", "blue")[index % 3],
            "sound": f"{index}.wav",
            "spectrum": [float(kind - 0.5), float(draw.normal()), 1.0],
        }
        Image.fromarray((draw.integers(0, 60, (16, 16, 3)) + kind * 180).astype(np.uint8)).save(root / line["image"])
        tone(root / line["sound"], (500, 3000)[kind], index)
        for number, name in enumerate(("image", "caption", "sound", "spectrum", "age")):
            if (index // 2) % 5 == number:
                del line[name]
        if index % 7 == 0:
            line.pop("colour")
        lines.append({**line, "split": "eval" if index >= 40 else "train"})
    path = root / "things.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def create(manifest, **how):
    torch.manual_seed(0)
    data = zoo.open_data(manifest)
    return data, zoo.create_task(TOWERS, data, embed_dim=16, img_size=32, augment="none", pairs=PAIRS, **how)


def test_they_learn_together_and_come_back(manifest, tmp_path):
    data, task = create(manifest, head={"image": "mlp"}, loss={"image-text": "siglip", **dict.fromkeys(NAMES[1:], "clip")}, weights=WEIGHTS)
    kinds = {
        which: zoo.datasets.Split(len(rows), rows.read, rows.columns, [i % 2 for i in range(len(rows))], None, rows.cells, rows.paths)
        for which, rows in (("train", data.train), ("eval", data.eval))
    }
    config = zoo.TrainConfig(out=str(tmp_path / "run"), epochs=12, batch_size=10)
    metrics = zoo.fit(task, kinds["train"], kinds["eval"], config, about={"data": str(manifest)})
    for one, other in PAIRS:
        for way in (f"{one}->{other}", f"{other}->{one}"):
            assert metrics[way]["mAP"] > 80 > metrics[way]["chance"]["mAP"], way
    assert set(metrics["geometry"]) == set(NAMES)
    run = zoo.load_run(tmp_path / "run")
    again = zoo.evaluate(run.task, kinds["eval"])
    for one, other in PAIRS:
        assert again[f"{one}->{other}"] == metrics[f"{one}->{other}"]
    assert run.task.describe() == json.loads(json.dumps(task.describe()))


def test_a_run_that_was_cut_ends_the_same(manifest, tmp_path):
    def fit(out):
        data, task = create(manifest, frozen=["text"])
        config = zoo.TrainConfig(out=str(out), epochs=2, batch_size=10, checkpoint_every=1)
        zoo.fit(task, data.train, data.eval, config)
        return torch.cat([parameter.flatten() for parameter in task.joint.parameters()])

    whole = fit(tmp_path / "whole")
    cut = tmp_path / "cut"
    fit(cut)
    checkpoints = sorted((cut / "checkpoints").iterdir())
    assert len(checkpoints) > 1
    shutil.rmtree(checkpoints[-1])
    data, task = create(manifest, frozen=["text"])
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(out=str(cut), epochs=2, batch_size=10, checkpoint_every=1, resume=True))
    assert torch.equal(torch.cat([parameter.flatten() for parameter in task.joint.parameters()]), whole)


def test_a_batch_without_a_modality(manifest):
    data, task = create(manifest)
    task.train()
    prepare = task.prepare(False)
    rows = [{**prepare(data.train[index]), "id": index, "index": index} for index in range(10)]
    for row in rows:
        for name in ("sound", "table"):
            row.pop(name, None)
    loss = task.batch_loss(task.collate(rows))
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is None for parameter in task.joint.towers["sound"].parameters())
    for row in rows:
        for name in ("text", "image"):
            row.pop(name, None)
    assert task.batch_loss(task.collate(rows)).item() == 0


def test_from_the_command_line(manifest, tmp_path, capsys):
    words = ["train", "image=effnet_cbam_test", "text=bag", "table=mlp:columns=age", "--data", str(manifest), "--img-size", "32"]
    options = [
        "--pairs",
        "image-text,image-table",
        "--loss",
        "siglip",
        "--weights",
        "image-table=0.5",
        "--tower-lr",
        "image=1e-4,text=1e-3",
    ]
    more = ["--freeze", "bn,text", "--head", "image=mlp", "--embed-dim", "16", "--epochs", "1", "--batch-size", "10"]
    assert command([*words, *options, *more, "--out", str(tmp_path / "run")]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["zoo"]
    assert written["pairs"] == [["image", "text"], ["image", "table"]] and written["weights"] == {"image-text": 1.0, "image-table": 0.5}
    assert written["part_lr"] == {"towers.image": 1e-4, "towers.text": 1e-3} and written["frozen"] == ["text"] and written["freeze_bn"]
    assert list(written["tower_options"]["table"]["numeric"]) == ["age"] and not written["tower_options"]["table"]["categorical"]
    capsys.readouterr()
    assert command(["eval", str(tmp_path / "run"), "--json"]) == 0
    assert {"image->text", "table->image"} <= json.loads(capsys.readouterr().out).keys()


def test_without_pictures(manifest, tmp_path):
    data = zoo.open_data(manifest)
    task = zoo.create_task({"text": "bag", "table": "mlp", "spectrum": "vector:width=8"}, data, embed_dim=8)
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(out=str(tmp_path / "run"), epochs=1, batch_size=10))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = zoo.load_run(tmp_path / "run").task
    for one, other in zip(task.joint.parameters(), again.joint.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "towers, how, told",
    [
        ({"image": "effnet_cbam_test", "txet": "bag"}, {}, "there is no txet to train a tower on; did you mean 'text'"),
        ({"image": "effnet_cbam_test", "text": "bag", "table": "mlp"}, {"pairs": [("image", "text")]}, "table is in no pair"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"pairs": [("image", "txt")]}, "no tower for 'txt'; did you mean 'text'"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"pairs": ["image-text"]}, "such as \\('image', 'text'\\)"),
        ({"image": "effnet_cbam_test", "colour": "mlp"}, {}, "mlp reads a table, column to cell, and here is 'blue'; .*columns=NAME"),
        ({"image": "effnet_cbam_test", "colour": "effnet_cbam_test"}, {}, "colour: .*: no such file"),
        ({"image": "effnet_cbam_test", "text": "bag:max_length=0"}, {}, "max_length: expected a whole number of at least 1, got 0"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"frozen": "text"}, "frozen: expected a list of modalities, got 'text'"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"weights": {"image-text": 0}}, "weights: expected numbers .*, not all of them 0"),
        ({"image": "effnet_cbam_test", "text": torch.nn.Identity()}, {}, "text: Identity has no `prepare`"),
        ({"image": "effnet_cbam_test", "text": torch.nn.Identity}, {}, "text: expected a name or a module, got <class"),
        ({"image": timm.create_model("effnet_cbam_test"), "text": "bag"}, {}, "image: .* classifier, of 1000 classes; .*num_classes=0"),
        ({"image": "vit_tiny_patch16_224", "text": "bag"}, {}, "image: Input height \\(32\\) doesn't match model \\(224\\)"),
        ({"image": "test_vit", "text": "bag"}, {"head": "attnpool"}, "image: head attnpool: expected a feature map"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"head": None}, "head: expected a name"),
        (
            {"image": "effnet_cbam_test", "text": "bag"},
            {"loss": torch.dist},
            "loss of image-text: expected a function with init_logit_scale",
        ),
        ({"image": "effnet_cbam_test", "table": "mlp:numeric=colour"}, {}, "column 'colour' is numeric, and row 1 has 'blue'"),
        ({"image": "effnet_cbam_test", "table": "mlp:wdith=4"}, {}, "wdith"),
        ({"image": "effnet_cbam_test", "text": "bag"}, {"loss": "clip:margin=2"}, "clip has no option 'margin'"),
        (
            {"image": "effnet_cbam_test", "text": "bag"},
            {"head": {"txt": "mlp"}},
            "a head for 'txt': there is no such tower; did you mean 'text'",
        ),
    ],
)
def test_what_does_not_fit(manifest, towers, how, told):
    with pytest.raises((ValueError, KeyError), match=told):
        zoo.create_task(towers, manifest, img_size=32, **how)


def test_a_pair_that_no_row_has(manifest, tmp_path):
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for index, line in enumerate(lines):
        line["image"] = str(manifest.parent / line["image"]) if "image" in line else None
        line.pop("sound", None)
        line.pop("caption" if index % 2 else "spectrum", None)
    path = tmp_path / "apart.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = zoo.open_data(path)
    task = zoo.create_task({"text": "bag", "spectrum": "vector:width=8"}, data, embed_dim=8)
    with pytest.raises(ValueError, match="the pair text-spectrum has nothing to learn from: no training row has both"):
        zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=1, batch_size=8, out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
