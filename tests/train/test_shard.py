"""What can be sharded, and what a run of one process makes of it; sharded runs are in tests/distributed."""

import pytest
import torch
from torch import nn

import zoo
from zoo.train import checkpoint
from zoo.train.loader import InOrder
from zoo.train.modalities import Collate
from zoo.train.sampler import Plan
from zoo.train.shard import shard

TOWERS = {"image": "effnet_eca_test", "text": "transformer:width=16,depth=1,heads=2"}


def test_only_towers_of_texts_are_sharded(data):
    rows = (data.train, data.eval)
    with pytest.raises(ValueError, match="shard: a classifier is one convolutional network"):
        zoo.fit(zoo.create_task("effnet_eca_test", data), *rows, zoo.TrainConfig(shard=("text",)))
    with pytest.raises(ValueError, match="shard: the tower of image does not read texts"):
        zoo.fit(zoo.create_task(TOWERS, data), *rows, zoo.TrainConfig(shard=("image",)))
    with pytest.raises(ValueError, match="shard: there is no tower for 'txt'; .*text"):
        zoo.fit(zoo.create_task(TOWERS, data), *rows, zoo.TrainConfig(shard=("txt",)))
    with pytest.raises(ValueError, match="BatchNorm1d|batch norms"):
        shard(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "cpu")


def test_the_config_says_what_does_not_go():
    with pytest.raises(ValueError, match="expected a list of modalities, got 'text'"):
        zoo.TrainConfig(shard="text")
    with pytest.raises(ValueError, match="shard: .*bf16 or fp32"):
        zoo.TrainConfig(shard=("text",), precision="fp16")


def test_one_process_has_nothing_to_shard_or_to_share_and_older_runs_go_on(data, tmp_path, monkeypatch):
    """A run of older code knows nothing of `sync_bn`; its default is what that code did. Shards leave no trace in a run."""
    config = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path), device="cpu")
    metrics = zoo.fit(zoo.create_task(TOWERS, data), data.train, data.eval, config)
    read = checkpoint.read

    def read_older(path):
        tensors, optimizer, state = read(path)
        assert "shard" not in state["settings"]
        del state["settings"]["sync_bn"]
        return tensors, optimizer, state

    monkeypatch.setattr(checkpoint, "read", read_older)
    again = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path), device="cpu", resume=True, shard=("text",))
    assert zoo.fit(zoo.create_task(TOWERS, data), data.train, data.eval, again)["loss"] == metrics["loss"]
    with pytest.raises(ValueError, match="sync_bn was False and is True"):
        changed = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path), device="cpu", resume=True, sync_bn=True)
        zoo.fit(zoo.create_task(TOWERS, data), data.train, data.eval, changed)


def test_what_stands_in_for_a_missing_value_belongs_to_no_row():
    def prepare(values):
        return torch.tensor([len(value) for value in values])

    rows = [{"id": 1, "index": 1}, {"id": 2, "index": 2}]
    assert "text" not in Collate({"text": prepare})(rows)
    batch = Collate({"text": prepare}, {"text": ""})(rows)
    assert batch["text"].tolist() == [0] and batch["rows.text"].tolist() == [] and batch["rows.text"].dtype == torch.int64
    batch = Collate({"text": prepare}, {"text": ""})([*rows, {"id": 3, "index": 3, "text": "four"}])
    assert batch["text"].tolist() == [4] and batch["rows.text"].tolist() == [2]


@pytest.mark.parametrize("size, world", [(11, 1), (11, 2), (11, 4), (3, 4), (16, 4)])
def test_a_filled_plan_gives_every_process_as_many_batches(size, world):
    plain = [list(InOrder(size, 4, rank, world)) for rank in range(world)]
    filled = [list(InOrder(size, 4, rank, world, fill=True)) for rank in range(world)]
    assert len({len(plan) for plan in filled}) == 1
    for few, even in zip(plain, filled, strict=True):
        assert even[: len(few)] == few and len(even) - len(few) in (0, 1)
        assert all(batch == plain[0][0] for batch in even[len(few) :])


def test_each_process_takes_as_many_rows_of_a_step():
    """Also where all rows there are do not fill one: the mean over the processes is the mean over the rows only then."""
    for size, world in ((7, 2), (11, 4), (64, 4)):
        plans = [list(Plan(size, 8, 1, rank=rank, world=world)) for rank in range(world)]
        assert {tuple(len(batch) for batch in plan) for plan in plans} == {(min(8, size // world),) * len(plans[0])}
