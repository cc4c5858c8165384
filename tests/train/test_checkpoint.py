"""What a checkpoint holds, what is kept, and what becomes of one that is not what was written."""

import io
import json
import os
import pickle
import shutil

import pytest
import safetensors.torch
import torch

from zoo.train import checkpoint, manifest

FILES = ("ema.safetensors", "manifest.json", "model.safetensors", "optimizer.pt", "state.json")


def save(folder, step, value=None, **how):
    value = float(step if value is None else value)
    tensors = {"model": {"w": torch.full((3,), value)}, "ema": {"w": torch.full((3,), -value)}}
    return checkpoint.write(folder, step, tensors, {"optimizer": {"lr": value}}, {"sums": [value, 1], "settings": {"seed": 3}}, **how)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_comes_back(tmp_path):
    save(tmp_path, 7, 0.5)
    saved = checkpoint.newest(tmp_path)
    tensors, optimizer, state = saved.contents
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 0.5)) and torch.equal(tensors["ema"]["w"], torch.full((3,), -0.5))
    assert optimizer == {"optimizer": {"lr": 0.5}} and state == {"step": 7, "sums": [0.5, 1], "settings": {"seed": 3}}
    assert saved.path.name == "step-00000007" and not saved.refused and checkpoint.newest(tmp_path / "nothing") is None


def test_the_manifest_says_what_is_there(tmp_path):
    path = save(tmp_path, 7)
    told = json.loads((path / "manifest.json").read_text())
    assert names(path) == list(FILES) and set(told["files"]) == set(FILES) - {"manifest.json"}
    assert all(told["files"][name]["bytes"] == (path / name).stat().st_size for name in told["files"])
    assert told["step"] == 7 and told["seed"] == 3 and told["versions"]["torch"] == torch.__version__ and "timm" in told["versions"]


def test_the_last_two_are_kept_in_order_of_steps(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step)
        assert (tmp_path / "latest").read_text() == f"step-{step:08d}\n"
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000100"]
    save(tmp_path, 101, keep=1)
    assert names(tmp_path) == ["latest", "step-00000101"]


def test_removing_takes_every_checkpoint_and_nothing_else(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    (folder / "damaged-step-00000003").mkdir()
    (folder / ".writing-step-00000004").mkdir()
    (folder / "notes").write_text("mine")
    checkpoint.remove(folder)
    assert names(folder) == ["notes"]
    (folder / "notes").unlink()
    save(folder, 1)
    checkpoint.remove(folder)
    assert not folder.exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name_and_the_one_before_is_taken(tmp_path, damage, file):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    DAMAGE[damage](path / file)
    with pytest.raises(checkpoint.Damaged, match=rf"^step-00000002: {file} "):
        checkpoint.read(path)
    saved = checkpoint.newest(tmp_path)
    assert saved.path.name == "step-00000001" and saved.contents[2]["step"] == 1 and list(saved.refused) == [path]
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]  # reading changes nothing


def test_a_flipped_byte_is_seen_wherever_it_is(tmp_path):
    """Every third byte of the small files; a flip that JSON does not care about (one blank for another) must leave the meaning."""
    path = save(tmp_path, 1)
    expected = checkpoint.read(path)[2]
    for file in ("state.json", "manifest.json"):
        whole = (path / file).read_bytes()
        for at in range(0, len(whole), 3):
            (path / file).write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            try:
                found = checkpoint.read(path)[2]
            except checkpoint.Damaged:
                continue
            assert file == "manifest.json" and whole[at : at + 1].isspace() and found == expected
        (path / file).write_bytes(whole)


def test_without_the_manifest_a_flipped_weight_would_load(tmp_path):
    """The control: safetensors itself does not see it."""
    path = save(tmp_path, 1) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert safetensors.torch.load_file(path)["w"][-1] != 1.0


def test_a_file_too_many_is_refused_but_not_those_of_a_desktop(tmp_path):
    path = save(tmp_path, 1)
    (path / ".DS_Store").write_bytes(b"x")
    assert checkpoint.newest(tmp_path).path == path
    (path / "extra.safetensors").write_bytes(safetensors.torch.save({"w": torch.zeros(1)}))
    with pytest.raises(checkpoint.Damaged, match="extra.safetensors does not belong there"):
        checkpoint.read(path)


def test_where_none_is_good_all_are_named(tmp_path):
    for step, file in ((1, "optimizer.pt"), (2, "state.json")):
        flip(save(tmp_path, step) / file)
    with pytest.raises(ValueError, match="step-00000002: state.json .*; step-00000001: optimizer.pt .*; --overwrite"):
        checkpoint.newest(tmp_path)


def test_a_damaged_one_is_kept_aside_until_the_run_has_passed_it(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    flip(tmp_path / "step-00000020" / "model.safetensors")
    (told,) = checkpoint.set_aside(checkpoint.newest(tmp_path))
    assert "model.safetensors is not what was written" in told and "going on from step-00000010" in told and "damaged-step-00000020" in told
    assert names(tmp_path) == ["damaged-step-00000020", "latest", "step-00000010"] and "10" in (tmp_path / "latest").read_text()
    assert checkpoint.newest(tmp_path).path.name == "step-00000010" and not checkpoint.newest(tmp_path).refused
    for step in (12, 14):
        save(tmp_path, step)
    assert names(tmp_path) == ["damaged-step-00000020", "latest", "step-00000012", "step-00000014"]
    save(tmp_path, 20)
    flip(tmp_path / "step-00000020" / "model.safetensors")  # again
    checkpoint.set_aside(checkpoint.newest(tmp_path))
    save(tmp_path, 21)
    assert names(tmp_path) == ["latest", "step-00000014", "step-00000021"]


def test_the_damaged_one_would_otherwise_drive_out_a_good_one(tmp_path):
    """The control of the test above: left where it is, it counts as one of the two that are kept."""
    for step in (10, 20):
        save(tmp_path, step)
    flip(tmp_path / "step-00000020" / "model.safetensors")
    save(tmp_path, 12)
    assert "step-00000012" in names(tmp_path) and checkpoint.newest(tmp_path).path.name == "step-00000012"
    assert "step-00000010" not in names(tmp_path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bombs(tmp_path):
    """{"pickle": bytes, "torch": bytes} that make a directory when they are unpickled, and that directory."""
    boom = tmp_path / "boom"
    buffer = io.BytesIO()
    torch.save({"optimizer": Bomb(boom)}, buffer)
    bombs = {"pickle": pickle.dumps(Bomb(boom)), "torch": buffer.getvalue()}
    pickle.loads(bombs["pickle"])  # the control
    boom.rmdir()
    torch.load(io.BytesIO(bombs["torch"]), weights_only=False)
    boom.rmdir()
    return bombs, boom


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_bomb_runs_nothing_even_with_the_right_hash(tmp_path, bombs, kind, file):
    contents, boom = bombs
    path = save(tmp_path / "checkpoints", 1)
    (path / file).write_bytes(contents[kind])
    if file != "manifest.json":
        files = {name: manifest.record((path / name).read_bytes()) for name in FILES if name != "manifest.json"}
        (path / "manifest.json").write_bytes(manifest.manifest(files, step=1))
    with pytest.raises(checkpoint.Damaged, match=f"{file} cannot be understood"):
        checkpoint.read(path)
    if file != "manifest.json":  # nor in a checkpoint from before there were manifests
        (path / "manifest.json").unlink()
        with pytest.raises(checkpoint.Damaged, match=f"{file} cannot be understood"):
            checkpoint.read(path)
    assert not boom.exists()


def test_an_older_one_without_a_manifest_is_read_but_a_newer_one_is_not(tmp_path):
    path = save(tmp_path, 1)
    (path / "manifest.json").unlink()
    with pytest.raises(checkpoint.Damaged, match="manifest.json is missing"):
        checkpoint.read(path)
    state = json.loads((path / "state.json").read_text())
    del state["manifest"]
    (path / "state.json").write_text(json.dumps(state))
    assert checkpoint.read(path)[2]["step"] == 1
    (path / "ema.safetensors").unlink()
    with pytest.raises(checkpoint.Damaged, match="ema.safetensors is missing"):
        checkpoint.read(path)


def test_what_is_no_fault_of_the_checkpoint_does_not_condemn_it(tmp_path, monkeypatch):
    """No permission, too many open files: nothing is set aside for that. A disk that cannot read is another matter."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    read_bytes = type(tmp_path).read_bytes

    def fails(number):
        def read(self):
            if self.parent.name == "step-00000002" and self.name == "optimizer.pt":
                raise OSError(number, os.strerror(number))
            return read_bytes(self)

        return read

    monkeypatch.setattr(type(tmp_path), "read_bytes", fails(13))
    with pytest.raises(PermissionError):
        checkpoint.newest(tmp_path)
    monkeypatch.setattr(type(tmp_path), "read_bytes", fails(5))
    assert checkpoint.newest(tmp_path).path.name == "step-00000001"


def test_a_checkpoint_that_is_rewritten_while_it_is_read_is_not_mixed(tmp_path, monkeypatch):
    """The bytes that were checked are those that are used: another file in its place changes nothing."""
    path = save(tmp_path / "one", 1)
    other = save(tmp_path / "two", 1, 9.0)
    load = safetensors.torch.load

    def swapped(content):
        for file in ("model.safetensors", "ema.safetensors"):
            shutil.copy(other / file, path / file)
        return load(content)

    monkeypatch.setattr(safetensors.torch, "load", swapped)
    with pytest.raises(checkpoint.Damaged, match="model.safetensors"):  # the second file is the other's already
        checkpoint.read(path)
