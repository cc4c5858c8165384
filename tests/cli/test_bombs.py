"""A pickle in any file of a run directory, or beside them, runs nothing."""

import io
import os
import pickle
import shutil

import pytest
import torch

from zoo.build import load_run


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bombs(tmp_path):
    """Bytes that make a directory when they are unpickled, by pickle and by torch, and that directory."""
    boom = tmp_path / "boom"
    buffer = io.BytesIO()
    torch.save({"weight": Bomb(boom)}, buffer)
    pickle.loads(pickle.dumps(Bomb(boom)))  # the control
    boom.rmdir()
    return (pickle.dumps(Bomb(boom)), buffer.getvalue()), boom


@pytest.mark.parametrize("kind", ["classifier", "joint"])
def test_a_bomb_in_a_run_directory_runs_nothing(kind, request, disk, zoo, tmp_path, bombs):
    contents, boom = bombs
    original = request.getfixturevalue(kind)
    files = [path.name for path in original.iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "metrics.jsonl"} <= set(files)
    for file in files:
        for number, content in enumerate(contents if file.endswith(".safetensors") else contents[:1]):
            run = shutil.copytree(original, tmp_path / f"{file} {number}")
            (run / file).write_bytes(content)
            if file == "metrics.jsonl":
                load_run(run)
            else:
                with pytest.raises(ValueError, match="run"):
                    load_run(run)
            assert not boom.exists()
    run = shutil.copytree(original, tmp_path / "beside")
    for file in ("pytorch_model.bin", "model.pth", "open_clip_pytorch_model.bin"):
        (run / file).write_bytes(contents[1])
    load_run(run)
    (run / "model.safetensors").unlink()
    with pytest.raises(Exception):  # noqa: B017, whatever it is, nothing ran
        load_run(run)
    assert not boom.exists()
