"""The index of embeddings: the nearest rows counted another way, and that what is kept is what was made, or is made again."""

import importlib
import json
import os
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import zoo
from zoo.datasets import Data, Split
from zoo.deploy import Index, build_index, kept_index, model_digest
from zoo.deploy.index import nearest_rows, source_digest
from zoo.train.engine import Engine

module = importlib.import_module("zoo.deploy.index")


def unit(rows: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def an_index(rows: int = 50, seed: int = 0) -> Index:
    shown = [{"text": f"row {row}", "label": row} for row in range(2 * rows)]
    return Index({"image": unit(rows, seed=seed)}, {"image": torch.arange(rows) * 2}, shown, {"model": "m", "data": "d"})


class TestNearestRows:
    @pytest.mark.parametrize("k", [1, 7, 60, 1000])
    @pytest.mark.parametrize("chunk", [7, 4096])
    def test_as_a_stable_sort_of_all_products(self, monkeypatch, k, chunk):
        """Whole numbers, so that products are exact and many are equal."""
        monkeypatch.setattr(module, "_CHUNK", chunk)
        monkeypatch.setattr(module, "_QUERIES", 3)
        generator = np.random.default_rng(0)
        queries, gallery = generator.integers(-2, 3, (8, 5)), generator.integers(-2, 3, (60, 5))
        scores, rows = nearest_rows(torch.tensor(queries).float(), torch.tensor(gallery).float(), k)
        products = queries @ gallery.T
        expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
        assert len(np.unique(products)) < 60  # there are ties
        assert rows.tolist() == expected.tolist()
        assert scores.tolist() == np.take_along_axis(products, expected, 1).tolist()

    def test_zero_and_minus_zero_are_equal(self):
        gallery = torch.tensor([[-1.0], [0.0], [-0.0], [1.0], [-0.0]])
        assert nearest_rows(torch.tensor([[-0.0]]), gallery, 5)[1].tolist() == [[0, 1, 2, 3, 4]]

    def test_cosines(self):
        queries, gallery = unit(4, seed=1), unit(300)
        scores, rows = nearest_rows(queries, gallery, 10)
        expected = queries.double().numpy() @ gallery.double().numpy().T
        assert rows.tolist() == np.argsort(-expected, axis=1)[:, :10].tolist()
        np.testing.assert_allclose(scores, np.take_along_axis(expected, rows.numpy(), 1), atol=1e-6)
        assert nearest_rows(gallery[7:8].half(), gallery.half(), 1)[0].dtype == torch.float32

    def test_no_query_and_no_row(self):
        assert nearest_rows(unit(0), unit(5), 3)[0].shape == (0, 3)
        assert nearest_rows(unit(2), unit(0), 3)[1].shape == (2, 0)


class TestSearch:
    def test_rows_of_the_split(self):
        index = an_index()
        scores, rows = index.search("image", index.embeddings["image"][[3, 40]], 2)
        assert rows[:, 0].tolist() == [6, 80] and scores[:, 0].tolist() == pytest.approx([1, 1])
        assert index.search("image", unit(1), 1000)[1].shape == (1, 50)

    @pytest.mark.parametrize(
        "modality, queries, k, told",
        [
            ("imgae", unit(1), 1, "no imgae among the 100 rows; did you mean 'image'"),
            ("image", unit(1), 0, "k: expected at least 1, got 0"),
            ("image", unit(1, 8), 1, r"expected \[Q, 16\], got \[1, 8\]"),
            ("image", unit(1)[0], 1, r"expected \[Q, 16\], got \[16\]"),
        ],
    )
    def test_what_does_not_fit(self, modality, queries, k, told):
        with pytest.raises(ValueError, match=told):
            an_index().search(modality, queries, k)


class TestCells:
    @pytest.fixture
    def many(self, monkeypatch, tmp_path):
        """Rows in 40 clusters, above the number from which cells are looked into."""
        monkeypatch.setattr(module, "MANY", 4000)
        centres = unit(40)
        rows = torch.nn.functional.normalize(centres.repeat(100, 1) + 0.2 * unit(4000, seed=1), dim=1)
        index = Index({"image": rows}, {"image": torch.arange(4000)}, [{}] * 4000)
        index.save(tmp_path)
        return index

    def test_nearly_as_a_look_at_every_row(self, many, tmp_path):
        queries = many.embeddings["image"][::100]
        scores, rows = many.search("image", queries, 10)
        (file,) = tmp_path.glob("image-*.faiss")
        exact_scores, exact_rows = many.search("image", queries, 10, exact=True)
        assert torch.equal(exact_rows, nearest_rows(queries, many.embeddings["image"], 10)[1])
        same = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), exact_rows.tolist(), strict=True)]
        assert sum(same) / (10 * len(same)) > 0.9
        torch.testing.assert_close(scores[:, 0], exact_scores[:, 0])

    def test_more_than_the_cells_hold(self, many):
        assert sorted(many.search("image", unit(1), 4000)[1][0].tolist()) == list(range(4000))

    def test_they_are_kept_until_the_rows_change(self, many, tmp_path, monkeypatch):
        expected = many.search("image", unit(3), 5)[1]
        monkeypatch.setattr(module, "build_cells", None)  # not made again
        again = Index.load(tmp_path)
        assert torch.equal(again.search("image", unit(3), 5)[1], expected)
        monkeypatch.undo()
        monkeypatch.setattr(module, "MANY", 4000)
        again.embeddings["image"] = again.embeddings["image"].flip(0)
        again._cells.clear()
        assert torch.equal(again.search("image", unit(3), 5)[1], 3999 - expected)
        assert len(list(tmp_path.glob("*.faiss"))) == 1

    def test_a_damaged_file(self, many, tmp_path, capsys):
        expected = many.search("image", unit(3), 5)[1]
        (file,) = tmp_path.glob("*.faiss")
        file.write_bytes(file.read_bytes()[:5000])
        assert torch.equal(Index.load(tmp_path).search("image", unit(3), 5)[1], expected)
        assert capsys.readouterr().err.count("is damaged; built again\n") == 1

    def test_without_faiss(self, many, monkeypatch, tmp_path):
        monkeypatch.setattr(module, "faiss_is_there", lambda: False)
        assert torch.equal(many.search("image", unit(2), 5)[1], many.search("image", unit(2), 5, exact=True)[1])
        assert not list(tmp_path.glob("*.faiss"))


class TestFile:
    def test_it_comes_back(self, tmp_path):
        index = an_index()
        index.save(tmp_path / "new")
        again = Index.load(tmp_path / "new")
        assert torch.equal(again.embeddings["image"], index.embeddings["image"]) and torch.equal(again.rows["image"], index.rows["image"])
        assert again.shown == index.shown and again.about == index.about
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["index.safetensors"]
        plain = safetensors.torch.load_file(tmp_path / "new" / "index.safetensors")
        assert json.loads(bytes(plain["json"].tolist()))["shown"] == index.shown

    def test_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such index"):
            Index.load(tmp_path)

    def test_cut_off_anywhere(self, tmp_path):
        an_index().save(tmp_path)
        file = tmp_path / "index.safetensors"
        whole = file.read_bytes()
        for size in [0, 1, 7, 8, 9, 100, *range(200, len(whole), 397), len(whole) - 1]:
            file.write_bytes(whole[:size])
            with pytest.raises(ValueError, match="is damaged"):
                Index.load(tmp_path)

    def test_a_byte_changed_anywhere(self, tmp_path):
        an_index().save(tmp_path)
        file = tmp_path / "index.safetensors"
        whole = file.read_bytes()
        for place in range(0, len(whole), 13):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="is damaged"):
                Index.load(tmp_path)

    def test_a_write_that_does_not_end(self, tmp_path, monkeypatch):
        an_index().save(tmp_path)

        def dies(tensors, file):
            file.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(safetensors.torch, "save_file", dies)
        with pytest.raises(KeyboardInterrupt):
            an_index(seed=1).save(tmp_path)
        assert torch.equal(Index.load(tmp_path).embeddings["image"], an_index().embeddings["image"])
        assert len(list(tmp_path.iterdir())) == 1

    def test_several_at_once(self, tmp_path):
        """Whatever is read is whole, and one of those that were written."""
        indices = [an_index(rows=400 + 100 * seed, seed=seed) for seed in range(3)]
        indices[0].save(tmp_path)
        errors: list[BaseException] = []

        def writes(index):
            try:
                for _ in range(20):
                    index.save(tmp_path)
            except BaseException as error:
                errors.append(error)

        writers = [threading.Thread(target=writes, args=(index,)) for index in indices]
        for writer in writers:
            writer.start()
        read = 0
        while read < 5 or any(writer.is_alive() for writer in writers):
            again = Index.load(tmp_path).embeddings["image"]
            assert any(torch.equal(again, index.embeddings["image"]) for index in indices)
            read += 1
        for writer in writers:
            writer.join()
        assert not errors and len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def rows_with_gaps():
    """Six rows: pictures 0 0 1 - 2 3, captions "a" "b" "a" "c" - "b"."""
    pictures, texts = np.array([0, 0, 1, 9, 2, 3]), ["a", "b", "a", "c", "", "b"]

    def read(index):
        row = {"label": index}
        if index != 3:
            row["image"] = Image.new("RGB", (32, 32), (60 * int(pictures[index]), 90, 20))
        if texts[index]:
            row["text"] = texts[index]
        return row

    return Split(6, read, ("image", "text", "label"), pictures=pictures)


@pytest.fixture(scope="module")
def task(rows_with_gaps):
    data = Data("gaps", rows_with_gaps, rows_with_gaps, img_size=32, augment="none")
    torch.manual_seed(0)
    return zoo.create_task({"image": "effnet_eca_test", "text": "bag"}, data, embed_dim=16)


class TestBuild:
    @pytest.mark.parametrize("batch_size", [1, 2, 256])
    def test_each_picture_and_each_caption_once(self, task, rows_with_gaps, batch_size):
        index = build_index(task, rows_with_gaps, Engine("cpu"), batch_size=batch_size)
        assert index.rows["image"].tolist() == [0, 2, 4, 5] and index.rows["text"].tolist() == [0, 1, 3]
        assert [shown["label"] for shown in index.shown] == list(range(6)) and "image" not in index.shown[0]
        for name, rows in index.rows.items():
            for place, row in enumerate(rows.tolist()):
                batch = task.collate([{**task.prepare(False)(rows_with_gaps[row]), "id": 0, "index": row}])
                torch.testing.assert_close(index.embeddings[name][place], task.embed(batch)[name][0].detach(), atol=1e-5, rtol=0)
                assert index.embeddings[name][place].norm() == pytest.approx(1, abs=1e-5)

    def test_no_rows(self, task, rows_with_gaps):
        index = build_index(task, rows_with_gaps.take([]), Engine("cpu"))
        assert index.embeddings == {} and index.shown == []


class TestKept:
    @pytest.fixture
    def keep(self, tmp_path):
        """keep(data, ...): the index that is kept, and how many have been built."""
        built = []

        def call(data="digits", model="m", **options):
            index = kept_index(
                tmp_path / "run", str(data), "eval", lambda: (built.append(1), an_index(seed=len(built)))[1], model=model, **options
            )
            return index, len(built)

        return call

    def test_once(self, keep, tmp_path, capsys):
        first, again = keep()[0], keep()
        assert again[1] == 1 and torch.equal(again[0].embeddings["image"], first.embeddings["image"])
        assert keep(rebuild=True)[1] == 2 and keep()[1] == 2
        assert keep("glyphs:characters=20")[1] == 3 and keep("glyphs:characters=30")[1] == 4 and keep()[1] == 4
        assert len(list((tmp_path / "run" / "index").iterdir())) == 3 and capsys.readouterr().err == ""

    def test_another_model(self, keep, tmp_path, capsys):
        keep()
        assert keep(model="other")[1] == 2 and keep(model="other")[1] == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "the model has changed since" in said and len(list((tmp_path / "run" / "index").iterdir())) == 1

    def test_a_damaged_one(self, keep, tmp_path, capsys):
        keep()
        (file,) = (tmp_path / "run" / "index").rglob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
        assert keep()[1] == 2 and keep()[1] == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "is damaged" in said and said.endswith("built again\n")

    def test_where_nothing_can_be_kept(self, keep, tmp_path, capsys):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "index").touch()
        assert keep()[1] == 1 and keep()[1] == 2
        assert capsys.readouterr().err.count("the index is not kept: ") == 2

    def test_data_of_which_nothing_is_known_is_not_kept(self, keep, tmp_path):
        assert keep("three kinds")[1] == 1 and keep("three kinds")[1] == 2 and not (tmp_path / "run").exists()

    def test_a_relative_path_is_the_same_data(self, keep, tmp_path, monkeypatch):
        (tmp_path / "m.csv").write_text("image,caption\n")
        monkeypatch.chdir(tmp_path)
        assert keep("m.csv")[1] == keep(tmp_path / "m.csv")[1] == keep("./m.csv")[1] == 1


class TestDigests:
    def test_a_run(self, tmp_path):
        for name in ("config.json", "model.safetensors", "metrics.jsonl", ".writing-model.safetensors"):
            (tmp_path / name).write_text("{}")
        digests = [model_digest(tmp_path)]
        (tmp_path / "metrics.jsonl").write_text("more")
        assert model_digest(tmp_path) == digests[0]
        (tmp_path / "tower.photo").mkdir()
        files = (("model.safetensors", "[]"), ("joint.safetensors", ""), ("config.json", "{ }"), ("tower.photo/model.safetensors", ""))
        for name, content in files:
            stat = os.stat(tmp_path / "model.safetensors")
            (tmp_path / name).write_text(content)
            os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as long and as old as before, and yet another
            digests.append(model_digest(tmp_path))
        assert len(set(digests)) == 5

    def test_a_source(self, tmp_path):
        folder = tmp_path / "folder" / "cat"
        folder.mkdir(parents=True)
        (folder / "1.png").touch()
        first = source_digest(str(tmp_path / "folder"))
        assert source_digest(str(tmp_path / "folder")) == first
        (folder / "2.png").touch()
        assert source_digest(str(tmp_path / "folder")) != first
        assert len({source_digest(name) for name in ("digits", "glyphs", "glyphs:characters=60", "nothing")}) == 4
        assert source_digest("nothing") is None and source_digest("") is None
