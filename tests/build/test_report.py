"""zoo.write_report: of whole runs, of halves of them, and of what is none."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.cli.app import run as command
from zoo.train.randomness import seed_everything


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    lines = ["image,label,split"]
    for number in range(24):
        shade = np.full((16, 16, 3), 200 * (number % 2) + number, np.uint8)
        Image.fromarray(shade).save(root / f"{number}.png")
        lines.append(f"{number}.png,{('dark', 'bright')[number % 2]},{'eval' if number >= 16 else 'train'}")
    (root / "data.csv").write_text("\n".join(lines) + "\n")
    return root / "data.csv"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    opened = zoo.open_data(data)
    seed_everything(0)
    task = zoo.create_task("effnet_cbam_test", opened, img_size=32, augment="none")
    zoo.fit(task, opened.train, opened.eval, zoo.TrainConfig(out=str(out), epochs=1, batch_size=8), about={"data": opened.name})
    return out


@pytest.fixture
def run(trained, tmp_path):
    """A copy, to be written into."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """How fast networks are is measured elsewhere."""
    monkeypatch.setattr("zoo.build.report._ROUNDS", 1)


def changed(run, **settings):
    config = json.loads((run / "config.json").read_text())
    config["zoo"] |= settings
    (run / "config.json").write_text(json.dumps(config))
    return run


def test_a_run(run):
    path = zoo.write_report([run])
    html = path.read_text()
    assert path == run / "report.html" and "on 8 rows" in html and "Where it looks" in html and "Latency" in html
    measured = zoo.evaluate(zoo.load_run(run).task, zoo.load_run(run).open_data().eval)["top1"]
    assert f'<span class="value">{measured:.1f}</span>' in html
    assert zoo.write_report([run]).exists(), "again, over the old one"


def test_the_run_is_left_as_it_was(run):
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    zoo.write_report([run], run.parent / "x.html")
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_data_that_has_moved(run, data):
    changed(run, data="/gone/data.csv")
    html = zoo.write_report([run]).read_text()
    assert (
        "Its data are not at hand" in html and "/gone/data.csv: no such manifest" in html and "How it learned" in html and "Latency" in html
    )
    assert "when it was last evaluated" in html and "The worst mistakes" not in html
    assert "on 8 rows" in zoo.write_report([run], data=str(data)).read_text()


def test_weights_that_are_damaged(run):
    (run / "model.safetensors").write_bytes(b"x")
    html = zoo.write_report([run]).read_text()
    assert "The network does not load" in html and "How it learned" in html


def test_a_training_that_has_not_ended(run):
    changed(run, epochs=5)
    (run / ".lock").touch()
    html = zoo.write_report([run]).read_text()
    assert "1 of 5 epochs are there: a training writes into it right now, or was killed" in html
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": NaN}\n{"epoch": 3, "lo')
    html = zoo.write_report([run]).read_text()
    assert "line 3 cannot be read" in html and "No number in epoch 2." in html
    (run / "metrics.jsonl").unlink()
    assert "No epoch has ended yet" in zoo.write_report([run]).read_text()


def test_an_exported_folder_beside_its_run(run, tmp_path):
    out = tmp_path / "exported"
    assert command(["export", str(run), "--to", "torchscript", "--out", str(out)]) == 0
    html = zoo.write_report([run, out], tmp_path / "both.html").read_text()
    assert "Exported for torchscript" in html and "Runtime" in html and html.count("on 8 rows") == 2
    assert "for maps report on the run that it came from" in html
    zoo.write_report([out])
    assert command(["export", str(run), "--to", "torchscript", "--out", str(out), "--overwrite"]) == 0, "a report is no stranger there"


def test_a_replaced_run_has_no_old_report(run, data):
    zoo.write_report([run])
    opened = zoo.open_data(data)
    task = zoo.create_task("effnet_none_test", opened, img_size=32)
    zoo.fit(task, opened.train, config=zoo.TrainConfig(out=str(run), epochs=1, batch_size=8, overwrite=True))
    assert not (run / "report.html").exists()


def test_runs_of_one_name(run, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other" / "run")
    html = zoo.write_report([run, other], tmp_path / "x.html").read_text()
    assert "<bdi>other/run</bdi>" in html
    with pytest.raises(ValueError, match="a run is given twice"):
        zoo.write_report([run, run], tmp_path / "x.html")


def test_several_labels_a_picture(data, tmp_path):
    lines = ["image,labels,split"]
    for number in range(24):
        lines.append(f"{number}.png,{('dark', 'bright', 'dark|odd', '')[number % 4]},{'eval' if number >= 16 else 'train'}")
    manifest = data.with_name("several.csv")
    manifest.write_text("\n".join(lines) + "\n")
    opened, out = zoo.open_data(manifest), tmp_path / "several"
    task = zoo.create_task("effnet_none_test", opened, img_size=32)
    zoo.fit(task, opened.train, opened.eval, zoo.TrainConfig(out=str(out), epochs=1, batch_size=8), about={"data": opened.name})
    html = zoo.write_report([out]).read_text()
    assert "Mean average precision" in html and "The classes of the lowest average precision" in html and "The worst mistakes" in html
    assert "dark, odd" in html and "a classifier with any number of 3 classes a picture" in html


def test_a_joint_embedding_without_pictures(data, tmp_path):
    lines = ["caption,size,split"] + [f"thing number {number},{number},{'eval' if number >= 16 else 'train'}" for number in range(24)]
    manifest = data.with_name("table.csv")
    manifest.write_text("\n".join(lines) + "\n")
    opened, out = zoo.open_data(manifest), tmp_path / "table"
    task = zoo.create_task({"text": "bag", "table": "mlp"}, opened)
    zoo.fit(task, opened.train, opened.eval, zoo.TrainConfig(out=str(out), epochs=1, batch_size=8), about={"data": opened.name})
    html = zoo.write_report([out]).read_text()
    assert (
        "text → table" in html and "thing number 2" in html and "Its speed could not be measured" in html and "Where it looks" not in html
    )


def test_mistakes(run, tmp_path):
    with pytest.raises(ValueError, match="expected at least one directory"):
        zoo.write_report([])
    with pytest.raises(ValueError, match="expected a file that ends in .html"):
        zoo.write_report([run], tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        zoo.write_report([run, tmp_path / "nowhere"], tmp_path / "x.html")
    with pytest.raises(ValueError, match="is not a run"):
        zoo.write_report([tmp_path], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
