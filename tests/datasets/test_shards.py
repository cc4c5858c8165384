"""WebDataset's shards: at hand where they lie here, read forward where they do not; the same rows either way."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.build import load_run, open_data
from zoo.datasets import runs_a_command
from zoo.train.loader import PreparedRows, load
from zoo.train.sampler import Plan


def picture(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number % 250, np.uint8)).save(held, "png")
    return held.getvalue()


def write(path, samples):
    """samples: (file name, content)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in samples:
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, **words: str):
    return [(f"{number:04}.png", picture(number)), *((f"{number:04}.{ending}", content) for ending, content in words.items())]


def labelled(number: int):
    return sample(number, cls=str(number % 3), txt=f"picture {number}")


@pytest.fixture
def shards(tmp_path):
    """Four shards of 10, 11, 12 and 13 samples, 46 in all."""
    first = 0
    for number, size in enumerate((10, 11, 12, 13)):
        write(tmp_path / f"train-{number:02}.tar", [file for index in range(first, first + size) for file in labelled(index)])
        first += size
    write(tmp_path / "val-0.tar", [file for index in range(100, 106) for file in labelled(index)])
    return tmp_path


def numbers(split) -> list[int]:
    return [int(np.asarray(row["image"])[0, 0, 0]) for row in split]


def test_shards_that_lie_here_are_rows_at_hand(shards):
    data = open_data(f"wds:{shards}/train-{{00..03}}.tar,eval={shards}/val-*.tar")
    assert numbers(data.train) == list(range(46)) and numbers(data.eval) == list(range(100, 106))
    assert data.classes == ("0", "1", "2") and data.columns == ("image", "label", "text") and data.train.stretches is None
    row = data.train[31]
    assert row["label"] == 1 and row["text"] == "picture 31" and row["image"].size == (8, 8)
    assert data.train.where(31) == f"{shards}/train-02.tar, 0031"
    assert numbers(open_data(data.name).train) == list(range(46))  # a run opens them again, from any folder
    assert pickle.loads(pickle.dumps(data.train))[45]["text"] == "picture 45"


def test_a_fifth_is_held_out_the_same_one_in_any_folder(shards, tmp_path_factory):
    data = open_data(f"wds:{shards}/train-*.tar")
    both = sorted(numbers(data.train) + numbers(data.eval))
    assert both == list(range(46)) and 3 <= len(data.eval) <= 20
    assert {row["label"] for row in data.eval} == {0, 1, 2} == {row["label"] for row in data.train}
    moved = tmp_path_factory.mktemp("moved")
    for shard in shards.glob("train-*.tar"):
        (moved / shard.name).write_bytes(shard.read_bytes())
    assert numbers(open_data(f"wds:{moved}/train-*.tar").eval) == numbers(data.eval)


def test_captions_of_a_sample_are_rows_on_one_side(tmp_path):
    told = [json.dumps({"captions": [f"{number} a", f"{number} b"], "label": "x"}) for number in range(20)]
    write(tmp_path / "a.tar", [file for number, words in enumerate(told) for file in sample(number, json=words)])
    data = open_data(f"wds:{tmp_path}/a.tar")
    assert len(data.train) + len(data.eval) == 40
    for split in (data.train, data.eval):
        assert [row["text"].split()[1] for row in split] == ["a", "b"] * (len(split) // 2)
        assert split.pictures.tolist() == split.ids.tolist() == [index // 2 for index in range(len(split))]
    assert not set(numbers(data.train)) & set(numbers(data.eval))


def test_labels_may_be_several_and_none(tmp_path):
    told = [["cat", "dog"], [], ["dog"], ["cat"]]
    write(tmp_path / "a.tar", [file for number, labels in enumerate(told) for file in sample(number, json=json.dumps({"labels": labels}))])
    write(tmp_path / "b.tar", sample(9, json=json.dumps({"labels": ["dog"]})))
    data = open_data(f"wds:{tmp_path}/a.tar,eval={tmp_path}/b.tar")
    assert data.multi_label and data.classes == ("cat", "dog")
    assert [row["labels"] for row in data.train] == [(0, 1), (), (1,), (0,)]


@pytest.mark.parametrize("form", ["pipe", "gz", "file"])
def test_what_is_read_forward_has_the_same_rows(shards, form):
    here = open_data(f"wds:{shards}/train-{{00..03}}.tar,eval={shards}/val-0.tar")
    if form == "gz":
        for shard in shards.glob("*.tar"):
            with tarfile.open(shard) as old:
                write(shard.with_suffix(".tar.gz"), [(member.name, old.extractfile(member).read()) for member in old])
    front, end = {"pipe": ("pipe:cat ", ".tar"), "gz": ("", ".tar.gz"), "file": ("file:", ".tar")}[form]
    data = open_data(f"wds:{front}{shards}/train-{{00..03}}{end},eval={front}{shards}/val-0{end}")
    assert data.train.stretches == (10, 11, 12, 13) and data.classes == here.classes and data.columns == here.columns
    for mine, theirs in ((data.train, here.train), (data.eval, here.eval)):
        assert numbers(mine) == numbers(theirs)
        assert [row["label"] for row in mine] == [row["label"] for row in theirs]
        assert list(mine.texts()) == list(theirs.texts())
    assert numbers(data.train.take([40, 3])) == [40, 3]


def test_what_is_read_forward_holds_out_by_name(shards):
    data = open_data(f"wds:file:{shards}/train-{{00..03}}.tar")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(46)) and len(data.eval) > 2


def test_a_told_size_spares_the_counting_and_shards_begin_again(shards, monkeypatch):
    monkeypatch.setattr("zoo.datasets.forward_shards._count", lambda start: pytest.fail("counted"))
    data = open_data(f"wds:file:{shards}/train-{{00..03}}.tar,eval=file:{shards}/val-0.tar,size=48,eval_size=6,classes=3")
    assert data.train.stretches == (12, 12, 12, 12) and data.classes == ("0", "1", "2")
    expected = [*range(10), 0, 1, *range(10, 21), 10, *range(21, 33), *range(33, 45)]
    assert numbers(data.train) == expected


class Number:
    def __call__(self, row):
        return {"number": int(np.asarray(row["image"])[0, 0, 0])}


def collate(rows):
    return [(row["index"], row["number"]) for row in rows]


def taken(data, *, workers=0, **places) -> list[list[int]]:
    plan = Plan(len(data.train), 3, places.pop("epochs", 1), stretches=data.train.stretches, **places)
    batches = list(load(PreparedRows(data.train, Number(), 0), plan, collate, workers=workers, pin=False))
    for batch in batches:
        for index, number in batch:
            assert index == number  # the row that was asked for
    return [[index for index, _ in batch] for batch in batches]


@pytest.fixture
def stream(shards):
    return open_data(f"wds:file:{shards}/train-{{00..03}}.tar,eval=file:{shards}/val-0.tar")


def test_the_order_of_a_stream_is_the_seeds_and_nobody_elses(stream):
    alone = taken(stream, seed=1, epochs=2)
    assert taken(stream, seed=1, epochs=2, workers=2) == alone != taken(stream, seed=2, epochs=2)
    first, second = alone[:15], alone[15:]
    assert first != second
    for epoch in (first, second):  # 46 rows in steps of 3: each at most once, all but one
        seen = [row for batch in epoch for row in batch]
        assert len(seen) == len(set(seen)) == 45


def test_a_stream_goes_on_where_it_stopped(stream):
    assert taken(stream, seed=1, epochs=2, start=7, workers=2) == taken(stream, seed=1, epochs=2)[7:]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_once_an_epoch_over_processes_and_workers(stream, workers):
    ranks = [taken(stream, rank=rank, world=2, workers=workers) for rank in (0, 1)]
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert len(seen) == len(set(seen)) == 42  # seven steps of 2 x 3
    accumulated = [taken(stream, rank=rank, world=2, accumulate=2) for rank in (0, 1)]
    seen = [row for batches in accumulated for batch in batches for row in batch]
    assert len(seen) == len(set(seen)) == 36


def test_processes_and_workers_read_shards_of_their_own(tmp_path):
    """What lanes are for: 2 processes x 2 workers over 16 shards read each once; a plain permutation opens one again for most rows."""
    for number in range(16):
        write(tmp_path / f"{number:02}.tar", [file for index in range(6) for file in labelled(number * 6 + index)])
    write(tmp_path / "val.tar", labelled(0))
    data = open_data(f"wds:file:{tmp_path}/{{00..15}}.tar,eval=file:{tmp_path}/val.tar")

    def opened(stretches) -> int:
        started = []
        for rank in (0, 1):
            batches = list(Plan(len(data.train), 3, 1, rank=rank, world=2, stretches=stretches))
            for worker in (0, 1):
                reader = pickle.loads(pickle.dumps(data.train.read))
                start = reader.start
                reader.start = lambda number, start=start: started.append(number) or start(number)
                for batch in batches[worker::2]:
                    for _, row in batch:
                        reader(row)
        return len(started)

    assert opened(data.train.stretches) == 16
    assert opened(None) > 48


def test_a_reader_is_its_processes_own(stream):
    """A fork that went on in the parent's open file would read what the parent has read, or the other way round."""
    reader = stream.train.read
    assert reader(0)["text"] == "picture 0"
    inherited = reader._places[0]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, f"{reader(4)['text']};{reader._places[0] is inherited}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"picture 4;False"
    assert reader(1)["text"] == "picture 1" and reader._places[0] is inherited
    os.close(reading), os.close(writing)


def test_a_shard_that_shrank_is_told(shards, stream):
    write(shards / "train-00.tar", labelled(0))
    with pytest.raises(ValueError, match=r"train-00.tar: has 1 rows now, 10 were expected"):
        stream.train[5]


def test_a_run_on_a_stream_resumes_bit_equal(stream, tmp_path):
    import torch

    def weights(out, **more):
        task = zoo.create_task("effnet_none_test", stream, img_size=32)
        config = zoo.TrainConfig(epochs=2, batch_size=8, out=str(tmp_path / out), checkpoint_every=2, **more)
        zoo.fit(task, stream.train, stream.eval, config, about={"data": stream.name})
        return task.trainable_module.state_dict()

    torch.manual_seed(0)
    whole = weights("whole")

    class Enough(Exception):
        pass

    torch.manual_seed(0)
    read = stream.train.read
    count = iter(range(60))

    def until(index):
        if next(count, None) is None:
            raise Enough
        return read(index)

    object.__setattr__(stream.train, "read", until)
    with pytest.raises(Enough):
        weights("cut")
    object.__setattr__(stream.train, "read", read)
    torch.manual_seed(0)
    resumed = weights("cut", resume=True)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    "string, told",
    [
        ("wds:{0}/train-04.tar", r"train-04.tar: no such shard; did you mean 'train-0"),
        ("wds:{0}/gone/*.tar", r"no such shard; there is no folder"),
        ("wds:{0}", r"a folder, not a shard; expected .*\*\.tar"),
        ("wds:", "expected a name or a path behind wds:"),
        ("wds:{0}/train-00.tar,evall=x", "wds: has no option 'evall'; did you mean 'eval'"),
        ("wds:{0}/train-00.tar,size=10", "size is for shards that are read forward"),
        ("wds:file:{0}/train-00.tar,size=10", "give eval=SHARDS as well"),
        ("wds:file:{0}/train-00.tar,size=ten,eval=file:{0}/val-0.tar", "size: expected a whole number of at least 1, got 'ten'"),
        ("wds:{0}/train-00.tar,eval={0}/train-0*.tar", "train-00.tar is for training and for eval"),
        ("wds:file:{0}/gone.tar,eval=file:{0}/val-0.tar", r"gone.tar: .*No such file"),
    ],
)
def test_what_is_wrong_with_the_string_is_told(shards, string, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        open_data(string.format(shards))


def test_what_is_wrong_with_a_shard_is_told_by_shard_and_sample(tmp_path):
    def opened(*samples):
        write(tmp_path / "a.tar", [file for each in samples for file in each])
        return open_data(f"wds:{tmp_path}/a.tar")

    with pytest.raises(ValueError, match="a.tar: no sample with a picture; expected samples such as 0001.jpg"):
        opened([("1.txt", "alone")])
    with pytest.raises(ValueError, match="a.tar: 0003: its text is not UTF-8, or its json no JSON"):
        opened(labelled(1), sample(3, json="{"))
    with pytest.raises(ValueError, match="a.tar: 0003: label: expected a name or a number, got .*several are called labels"):
        opened(sample(3, json='{"label": ["a"]}'))
    data = opened(labelled(1), labelled(2), [("0005.png", b"no picture"), ("0005.cls", "1")], labelled(4))
    broken = [split for split in (data.train, data.eval) for index in range(len(split)) if "0005" in split.where(index)][0]
    with pytest.raises(ValueError, match="a.tar, 0005: not a picture in a format that Pillow knows"):
        list(broken)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match="a.tar: unexpected end of data"):
        open_data(f"wds:{tmp_path}/a.tar")
    write(tmp_path / "b.tar", sample(7, cls="9"))
    opened(labelled(1), labelled(2))
    with pytest.raises(ValueError, match="b.tar, 0007: the label '9' is for eval and no training sample has it"):
        open_data(f"wds:{tmp_path}/a.tar,eval={tmp_path}/b.tar")


def test_a_run_does_not_run_commands_by_itself(shards, tmp_path):
    """A run directory is data: what it says it was trained on must not reach a shell."""
    assert runs_a_command("wds:pipe:touch x") and not runs_a_command("wds:https://host/x.tar") and not runs_a_command("pipe.csv")
    data = open_data(f"wds:{shards}/train-*.tar")
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=1, out=str(tmp_path / "run")), about={"data": data.name})
    config = tmp_path / "run" / "config.json"
    told = json.loads(config.read_text())
    told["zoo"]["data"] = f"wds:pipe:touch {tmp_path}/ran; cat {shards}/train-00.tar"
    config.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="which runs a command: give it as --data if you mean it"):
        load_run(tmp_path / "run").open_data()
    assert not (tmp_path / "ran").exists()
    assert len(load_run(tmp_path / "run").open_data(told["zoo"]["data"]).train) and (tmp_path / "ran").exists()  # asked for, it does
