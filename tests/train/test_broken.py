"""Pictures that can not be read: what becomes of their rows, who is told, and that nothing else changes."""

import errno
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFile

import zoo
from zoo.datasets import BrokenPicture, Data, Split, read_folder, read_manifest, read_picture
from zoo.datasets.picture import check_picture
from zoo.train import Stopped
from zoo.train.engine import Engine
from zoo.train.loader import InOrder, PreparedRows, load
from zoo.train.loop import _differences
from zoo.train.sampler import Plan

SCRIPT = Path(__file__).with_name("pictures.py")
_spec = importlib.util.spec_from_file_location("pictures", SCRIPT)
on_disk = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(on_disk)
LABELS, MODEL, bomb, draw, spoil = on_disk.LABELS, on_disk.MODEL, on_disk.bomb, on_disk.draw, on_disk.spoil

SPOILT = {3: "cut", 10: "empty", 11: "text", 26: "bomb", 40: "gone"}  # to train on
SPOILT_EVAL = {50: "cut", 57: "gone"}


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    return draw(tmp_path / "pictures")


@pytest.fixture
def folder(pictures, tmp_path) -> Data:
    data = read_folder(tmp_path / "pictures")
    for index, how in (SPOILT | SPOILT_EVAL).items():
        spoil(pictures[index], how)  # after it was opened: what is gone was there
    return data


def fit(data, out, train=None, **how):
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, img_size=32, augment="shift")
    config = zoo.TrainConfig(**{"epochs": 2, "batch_size": 8, "device": "cpu", "out": str(out), **how})
    return zoo.fit(task, train or data.train, data.eval, config, about={"data": data.name})


def lines(out, name="metrics.jsonl"):
    return [json.loads(line) for line in (Path(out) / name).read_text().splitlines()]


def weights(out):
    return hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest()


def named(out):
    return [Path(line["path"]).name for line in lines(out, "broken.jsonl")]


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(bomb(30_000, 3_000))
    assert (tmp_path / "a.png").stat().st_size < 200_000
    with pytest.warns(Image.DecompressionBombWarning), Image.open(tmp_path / "a.png") as opened:
        assert opened.size == (30_000, 3_000), "Pillow itself only warns, and would decode it"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    told = r"a\.png: a decompression bomb: more than 89,478,485 pixels, .*PIL\.Image\.MAX_IMAGE_PIXELS sets the limit"
    for read in (read_picture, check_picture):
        with pytest.raises(BrokenPicture, match=told):
            read(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(bomb(40_000, 5_000))  # twice the limit: Pillow raises, where it warned before
    with pytest.raises(BrokenPicture, match="a decompression bomb"):
        read_picture(tmp_path / "b.png")
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    noise = Image.new("RGB", (15, 15))
    noise.save(tmp_path / "c.png")
    with pytest.raises(BrokenPicture, match="more than 200 pixels"):
        read_picture(tmp_path / "c.png")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_what_is_wrong_with_the_machine_is_no_broken_picture(pictures, tmp_path, monkeypatch, number):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    data = read_folder(tmp_path / "pictures")
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(OSError, match=r"00\.png") as raised:
        read_picture(pictures[0])
    assert raised.value.errno == number
    with pytest.raises(OSError):
        fit(data, tmp_path / "run", broken="skip")


def test_a_programming_error_is_no_broken_picture(folder, tmp_path):
    def wrong(index):
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake") as raised:
        fit(folder, tmp_path / "run", train=Split(48, wrong, folder.train.columns), broken="skip")
    assert not isinstance(raised.value, BrokenPicture)


@pytest.mark.parametrize("workers", [0, 2])
def test_raise_names_file_and_row_in_one_line(folder, pictures, tmp_path, workers):
    with pytest.raises(BrokenPicture) as raised:
        fit(folder, tmp_path / "run", workers=workers)
    order = [row for batch in Plan(48, 8, 1) for _, row in batch]
    files = [folder.train.paths(row) for row in order]
    first = next(file for file in files if int(Path(file).stem) in SPOILT)
    told = str(raised.value)
    assert told.startswith(f"{first}: ") and f"(row {order[files.index(first)]}; " in told
    assert "\n" not in told and "Traceback" not in told


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_every_row_and_file_is_counted_and_told_once(folder, tmp_path, capsys, policy):
    metrics = fit(folder, tmp_path / "run", broken=policy)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("broken: ")]
    assert sorted(named(tmp_path / "run")) == sorted(f"{index}.png".zfill(6) for index in SPOILT | SPOILT_EVAL)
    assert len(said) == len(SPOILT | SPOILT_EVAL)
    assert [line["broken"] for line in lines(tmp_path / "run")] == [len(SPOILT)] * 2
    assert [line["eval_broken"] for line in lines(tmp_path / "run")] == [len(SPOILT_EVAL)] * 2
    assert sum(map(sum, metrics["confusion"])) == 16 - len(SPOILT_EVAL)
    why = {Path(line["path"]).stem: line["why"] for line in lines(tmp_path / "run", "broken.jsonl")}
    assert why["10"] == "an empty file" and why["40"] == "no such file" and "bomb" in why["26"] and "truncated" in why["03"]
    doing = {"skip": "skipped", "replace": "another row stands in"}[policy]
    assert sum(doing in line for line in said) == len(SPOILT)
    assert sum("left out of the evaluation" in line for line in said) == len(SPOILT_EVAL)
    run = zoo.load_run(tmp_path / "run")
    assert run.broken == policy
    again = zoo.evaluate(run.task, folder.eval, broken=policy)
    assert again["confusion"] == metrics["confusion"] and again["eval_broken"] == len(SPOILT_EVAL)
    with pytest.raises(BrokenPicture, match=r"5[07]\.png"):
        zoo.evaluate(run.task, folder.eval)


def rows_of(split, broken, workers=0, start=0, **how):
    def prepare(row):
        return {"pixel": row["image"].getpixel((0, 0)), "noise": torch.rand(()).item()}

    rows = PreparedRows(split, prepare, 5, broken=broken, **how)
    return list(load(rows, Plan(len(split), 6, 2, seed=5, start=start), _listed, workers=workers, pin=False))


def _listed(rows):
    return {"rows": rows}


def test_the_other_rows_are_as_they_were(pictures, folder):
    left = rows_of(folder.train, "skip")
    for index in SPOILT:
        pictures[index].write_bytes(b"")
        Image.new("RGB", (16, 16)).save(pictures[index])
    lost = {row for row in range(48) if int(Path(folder.train.paths(row)).stem) in SPOILT}
    whole = rows_of(folder.train, "raise")
    assert len(left) == len(whole) == 16
    for batch, before in zip(left, whole, strict=True):
        assert batch["rows"] == [row for row in before["rows"] if row["index"] not in lost]
        assert {each.row for each in batch.get("broken", ())} == {row["index"] for row in before["rows"]} & lost


def test_a_stand_in_is_a_function_of_seed_epoch_and_index(folder):
    alone = rows_of(folder.train, "replace")
    assert all(len(batch["rows"]) == 6 for batch in alone)
    assert alone == rows_of(folder.train, "replace", workers=2)
    assert alone[5:] == rows_of(folder.train, "replace", start=5)

    def stand_ins(batches):
        place = {(epoch, row): None for epoch, row in (key for batch in Plan(48, 6, 2, seed=5) for key in batch)}
        for key, row in zip(place, (row for batch in batches for row in batch["rows"]), strict=True):
            place[key] = row["index"]
        return {key: index for key, index in place.items() if key[1] != index}

    found = stand_ins(alone)
    assert len(found) == 2 * len(SPOILT)
    first, second = ([found[key] for key in sorted(found) if key[0] == epoch] for epoch in (0, 1))
    assert first != second, "others stand in in another epoch"


def test_a_batch_that_loses_all_of_its_rows(tmp_path, pictures):
    data = read_folder(tmp_path / "pictures")
    batches = list(Plan(48, 4, 1))
    for _, row in batches[0]:
        Path(data.train.paths(row)).write_bytes(b"")
    for _, row in batches[1][1:]:
        Path(data.train.paths(row)).write_bytes(b"")
    assert [len(batch["index"]) for batch in loaded(data, least=2)][:3] == [2, 2, 4], "never fewer than batch norms need"
    assert "index" not in loaded(data, least=0)[0], "which is what a step would be asked to take"
    metrics = fit(data, tmp_path / "run", broken="skip", batch_size=4, epochs=1)
    assert metrics["broken"] == 7 and metrics["loss"] > 0


def loaded(data, least):
    task = zoo.create_task(MODEL, data, img_size=32, augment="none")
    rows = PreparedRows(data.train, task.prepare(True), 0, broken="skip", least=least)
    return list(load(rows, Plan(48, 4, 1), task.collate, workers=0, pin=False))


def test_where_nothing_can_be_read_it_says_so(tmp_path, pictures):
    data = read_folder(tmp_path / "pictures")
    task = zoo.create_task(MODEL, data, img_size=32, augment="none")
    for path in pictures:
        path.write_bytes(b"")
    for policy in ("skip", "replace"):
        with pytest.raises(ValueError, match="1,000 rows, drawn to stand in .*an empty file"):
            fit(data, tmp_path / policy, broken=policy)
    with pytest.raises(ValueError, match="none of the 16 eval rows can be read; the first: .*an empty file"):
        zoo.evaluate(task, data.eval, broken="skip")


class StopAfter:
    """Raises SIGTERM in this process when so many rows were asked for."""

    def __init__(self, read, rows):
        self.read, self.left = read, rows

    def __call__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.read(index)


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_neither_a_stop_nor_workers_change_a_result(folder, tmp_path, policy):
    how = {"broken": policy, "ema": 0.9, "checkpoint_every": 2}
    fit(folder, tmp_path / "whole", **how)
    fit(folder, tmp_path / "workers", workers=2, **how)
    stopping = Split(48, StopAfter(folder.train.read, 20), folder.train.columns, paths=folder.train.paths)
    with pytest.raises(Stopped):
        fit(folder, tmp_path / "cut", train=stopping, **how)
    seen = named(tmp_path / "cut")
    assert 0 < len(seen) < len(SPOILT)
    (tmp_path / "cut" / "broken.jsonl").write_text((tmp_path / "cut" / "broken.jsonl").read_text() + '{"path": "cut o')
    fit(folder, tmp_path / "cut", resume=True, workers=2, **how)
    assert weights(tmp_path / "whole") == weights(tmp_path / "workers") == weights(tmp_path / "cut")
    counts = [
        [(line["broken"], line["eval_broken"], line["loss"]) for line in lines(tmp_path / run)] for run in ("whole", "workers", "cut")
    ]
    assert counts[0] == counts[1] == counts[2] and counts[0][0][0] == len(SPOILT)
    assert named(tmp_path / "cut")[: len(seen)] == seen
    assert sorted(named(tmp_path / "cut")) == sorted(named(tmp_path / "whole")) == sorted(set(named(tmp_path / "whole")))


def test_a_run_that_was_stopped_by_a_broken_picture_goes_on_with_skip(folder, tmp_path, pictures):
    fit(folder, tmp_path / "whole", broken="skip", checkpoint_every=1)
    with pytest.raises(BrokenPicture):
        fit(folder, tmp_path / "stopped", checkpoint_every=1)
    assert not lines(tmp_path / "whole") == [] and not (tmp_path / "stopped" / "broken.jsonl").exists()
    fit(folder, tmp_path / "stopped", broken="skip", checkpoint_every=1, resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    with pytest.raises(ValueError, match="broken was 'skip' and is 'replace'"):
        fit(folder, tmp_path / "whole", broken="replace", resume=True)
    fit(folder, tmp_path / "whole", overwrite=True, broken="skip", epochs=1)
    assert len(named(tmp_path / "whole")) == len(SPOILT | SPOILT_EVAL), "the list of the run before is gone with it"


def test_a_run_from_before_there_was_a_choice_goes_on():
    now = zoo.TrainConfig().settings()
    then = {name: value for name, value in now.items() if name != "broken"}
    assert _differences(now, then) == []
    assert _differences({**now, "broken": "skip"}, then) == []
    assert _differences(now, {**then, "broken": "skip"}) == ["broken was 'skip' and is 'raise'"]


def manifest(folder, name, files, empty=()):
    rows = ["image,caption,id,split"]
    for index, file in enumerate(files):
        cell = "" if index in empty else file.relative_to(folder)
        rows.append(f"{cell},{LABELS[index % 2]} picture {index},{index},{'train' if index < 48 else 'val'}")
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def fit_joint(data, out, **how):
    torch.manual_seed(0)
    task = zoo.create_task({"image": MODEL, "text": "bag"}, data, img_size=32, augment="shift", embed_dim=16)
    config = zoo.TrainConfig(epochs=2, batch_size=6, device="cpu", out=str(out), **how)
    metrics = zoo.fit(task, data.train, data.eval, config)
    return metrics, weights(out), hashlib.sha256((out / "joint.safetensors").read_bytes()).hexdigest()


def test_to_a_joint_embedding_it_is_a_row_without_a_picture(pictures, tmp_path):
    """The very weights and metrics of a manifest in which those cells are empty."""
    root = tmp_path / "pictures"
    spoilt = {**SPOILT, **SPOILT_EVAL}
    for index, how in spoilt.items():
        spoil(pictures[index], how)
    with pytest.raises(ValueError, match=r"all\.csv, line 12: .*10\.png: an empty file"):
        read_manifest(manifest(root, "all.csv", pictures))
    broken = read_manifest(manifest(root, "all.csv", pictures), broken=True)
    holes = read_manifest(manifest(root, "holes.csv", pictures, empty=spoilt))
    metrics, *sums = fit_joint(broken, tmp_path / "broken", broken="skip")
    expected, *expected_sums = fit_joint(holes, tmp_path / "holes")
    assert sums == expected_sums
    assert metrics["broken"] == len(SPOILT) and metrics["eval_broken"] == len(SPOILT_EVAL)
    for way in ("image->text", "text->image"):
        assert metrics[way] == expected[way]
    assert metrics["image->text"]["queries"] == 14
    assert fit_joint(broken, tmp_path / "workers", broken="skip", workers=2)[1:] == tuple(sums)
    replaced = fit_joint(broken, tmp_path / "replaced", broken="replace")
    assert replaced[1] != sums[0] and replaced[0]["broken"] == len(SPOILT)


def test_a_column_of_pictures_of_its_own(pictures, tmp_path):
    """`photo` beside `image`: the row keeps what can be read."""
    root = tmp_path / "pictures"
    rows = ["image,photo,caption,split"]
    rows += [
        f"{a.relative_to(root)},{b.relative_to(root)},p {n},train" for n, (a, b) in enumerate(zip(pictures, pictures[::-1], strict=True))
    ]
    (root / "two.csv").write_text("\n".join(rows) + "\n")
    spoil(pictures[20], "empty")
    data = read_manifest(root / "two.csv", broken=True)
    towers = {"image": MODEL, "photo": MODEL, "text": "bag"}
    task = zoo.create_task(towers, data, img_size=32, augment="none", embed_dim=16)
    prepared = PreparedRows(data.train, task.prepare(True), 0, broken="skip", holes=True)
    batches = list(load(prepared, InOrder(64, 64), task.collate, workers=0, pin=False))
    (batch,) = batches
    assert set(range(64)) - set(batch["rows.image"].tolist()) == {20}
    assert set(range(64)) - set(batch["rows.photo"].tolist()) == {43}
    assert [each.row for each in batch["broken"]] == [20, 43] and len(batch["rows.text"]) == 64


def test_every_row_weighs_the_same_where_a_process_has_fewer(pictures, tmp_path, monkeypatch):
    """Two processes with six rows and with two: the mean of their gradients is that of the eight, once each knows the mean of the sizes."""
    data = read_folder(tmp_path / "pictures")
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, img_size=32, augment="none", freeze_bn=True, drop_path=0)
    task.train()
    prepared = PreparedRows(data.train, task.prepare(False), 0)
    rows = [prepared[(0, index)] for index in (*range(4), *range(30, 34))]
    engine = Engine("cpu")

    def gradient(part, mean):
        task.zero_grad()
        monkeypatch.setattr(engine, "mean", mean)
        task.training_step([task.collate(part)], engine)
        return torch.cat([each.grad.flatten() for each in task.parameters() if each.grad is not None])

    whole = gradient(rows, float)
    told = (gradient(rows[:6], lambda _: 4.0) + gradient(rows[6:], lambda _: 4.0)) / 2
    alone = (gradient(rows[:6], float) + gradient(rows[6:], float)) / 2
    torch.testing.assert_close(told, whole, atol=1e-5, rtol=1e-4)
    assert (alone - whole).norm() > 0.05 * whole.norm()


@pytest.mark.parametrize("policy", ["skip", pytest.param("replace", marks=pytest.mark.long)])
def test_two_processes(pictures, tmp_path, policy):
    """One of them loses all rows of a batch; both count."""
    data = read_folder(tmp_path / "pictures")
    lost = [row for rank in (0, 1) for _, row in list(Plan(48, 6, 1, rank=rank, world=2))[rank]][: 6 + 3]
    for row in lost:
        Path(data.train.paths(row)).write_bytes(b"")
    spoil(pictures[50], "cut")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT), str(tmp_path / "pictures")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "run"), policy], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [(line["broken"], line["eval_broken"]) for line in lines(tmp_path / "run")] == [(9, 1)] * 2
    files = {Path(data.train.paths(row)).name for row in lost} | {"50.png"}
    assert sorted(named(tmp_path / "run")) == sorted(files)
    assert sum(line.startswith("broken: ") for line in done.stderr.splitlines()) == len(files)
