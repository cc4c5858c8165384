"""The edge: names become objects."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import zoo
from zoo.build import UnknownModel
from zoo.datasets import Data, Split


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        file = tmp_path / "animals" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * number, dtype=np.uint8)).save(file)
    return tmp_path / "animals"


@pytest.fixture
def manifest(folder):
    path = folder / "captions.csv"
    lines = [f"{('cat', 'dog')[n % 2]}/{n}.png,animal {n},{'eval' if n > 8 else 'train'}" for n in range(12)]
    path.write_text("\n".join(["image,caption,split", *lines]))
    return path


def _read(index):
    return {"image": Image.new("RGB", (16, 16), (index * 20,) * 3), "label": index % 3, "text": f"picture {index}"}


def _other(index):
    return {**_read(index), "text": f"an elephant at noon {index}"}


@pytest.fixture
def data():
    split = Split(9, _read, ("image", "label", "text"))
    return Data("three kinds", split, split, classes=("a", "b", "c"), img_size=32, augment="shift")


class TestOpenData:
    def test_a_registered_name(self):
        data = zoo.open_data("digits")
        assert data.classes == tuple("0123456789") and len(data.train) + len(data.eval) == 1797

    def test_a_registered_name_with_options(self):
        few = zoo.open_data("glyphs:characters=20")
        assert len(few.eval) == 20
        assert len(zoo.open_data("glyphs:characters=30").eval) == 30

    def test_a_folder(self, folder):
        for given in (folder, str(folder), f"{folder}/"):
            assert zoo.open_data(given).classes == ("cat", "dog")

    def test_a_manifest(self, manifest):
        data = zoo.open_data(manifest)
        assert (len(data.train), len(data.eval)) == (9, 3) and data.classes is None
        upper = manifest.rename(manifest.with_suffix(".CSV"))
        assert len(zoo.open_data(str(upper)).train) == 9

    def test_data_itself(self, data):
        assert zoo.open_data(data) is data

    def test_a_folder_called_like_nothing_registered(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        assert zoo.open_data("animals").classes == ("cat", "dog")

    @pytest.mark.parametrize("name, near", [("digit", "'digits'"), ("gliphs", "'glyphs'"), ("zzz", "known: digits, glyphs")])
    def test_an_unknown_name(self, name, near):
        with pytest.raises(KeyError, match=name) as caught:
            zoo.open_data(name)
        assert near in str(caught.value)

    @pytest.mark.parametrize(
        "name, told",
        [
            ("digits:3", "digits:3.*is no number"),
            ("glyphs:characters=few", "characters=few is no number"),
            ("glyphs:characters=-1", "characters=-1; expected 2 to"),
            ("glyphs:colour=3", "unexpected keyword argument 'colour'"),
            ("", "expected a name"),
        ],
    )
    def test_a_wrong_option(self, name, told):
        with pytest.raises(ValueError, match=told):
            zoo.open_data(name)

    def test_a_file_of_another_kind(self, tmp_path):
        file = tmp_path / "notes.doc"
        file.touch()
        with pytest.raises(
            ValueError, match=r"notes.doc: expected a folder of class folders, a manifest \(.csv, .tsv, .jsonl, .parquet\), or"
        ):
            zoo.open_data(file)

    @pytest.mark.parametrize("name", ["no/such/folder", "nothing.csv", "nothing.txt"])
    def test_no_such_path(self, name):
        with pytest.raises(FileNotFoundError, match=name):
            zoo.open_data(name)


class TestCreateJoint:
    TOWERS = {"image": "effnet_cbam_test", "text": "transformer"}

    def test_as_in_the_readme(self):
        joint = zoo.create_joint(self.TOWERS, head="mlp", embed_dim=24, loss="clip").eval()
        text = joint.towers["text"].prepare(["greek small letter alpha", "digit seven"])
        out = joint({"image": torch.randn(2, 3, 32, 32), "text": text})
        assert {name: each.shape for name, each in out.items()} == dict.fromkeys(("image", "text"), (2, 24))
        for each in out.values():
            torch.testing.assert_close(each.norm(dim=1), torch.ones(2))
        assert joint({"text": text}).keys() == {"text"}

    def test_captions_decide_the_vocabulary(self):
        plain = zoo.create_joint(self.TOWERS)
        learned = zoo.create_joint(self.TOWERS, values={"text": ["greek small letter alpha"] * 4})
        lengths = [joint.towers["text"].prepare(["greek small letter alpha"]).ne(0).sum() for joint in (plain, learned)]
        assert lengths[1] < lengths[0]

    def test_options_reach_their_tower(self):
        joint = zoo.create_joint(self.TOWERS, options={"image": {"attn_stages": {4: "eca"}}, "text": {"depth": 1}})
        assert joint.towers["text"].config["depth"] == 1
        assert [name for _, name, _ in zoo.attention_slots(joint.towers["image"])] == ["cbam"] * 4 + ["eca"]

    def test_modules_instead_of_names(self):
        image = timm.create_model("effnet_eca_test", num_classes=0)
        assert zoo.create_joint({"image": image, "text": "bag"}).towers["image"] is image

    @pytest.mark.parametrize(
        "towers, options, error, told",
        [
            ({"image": "effnet_cbam_tset", "text": "bag"}, {}, UnknownModel, "did you mean 'effnet_cbam_test'"),
            ({"image": "effnet_cbam_test", "text": "transfomer"}, {}, KeyError, "did you mean 'transformer'"),
            ({"image": "bag", "text": "bag"}, {}, ValueError, "is a tower for text"),
            ({"image": "effnet_cbam_test", "text": "resnet18"}, {}, ValueError, "a timm model reads pictures"),
            (TOWERS, {"head": "liner"}, KeyError, "did you mean 'linear'"),
            (TOWERS, {"loss": "siglp"}, KeyError, "did you mean 'siglip'"),
            (TOWERS, {"embed_dim": 0}, ValueError, "embed_dim: expected at least 1, got 0"),
            (TOWERS, {"options": {"audio": {}}}, ValueError, "options for audio: there is no such tower"),
            (TOWERS, {"pairs": [("image", "audio")]}, ValueError, "audio"),
            ({"image": "effnet_cbam_test", "table": "mlp"}, {}, ValueError, "numeric and categorical are learned from training values"),
            ({"image": torch.nn.Identity(), "text": "bag"}, {}, ValueError, "Identity does not say how wide its features are"),
        ],
    )
    def test_what_does_not_fit(self, towers, options, error, told):
        with pytest.raises(error, match=told):
            zoo.create_joint(towers, **options)


class TestCreateTask:
    def test_a_classifier(self, data):
        task = zoo.create_task("effnet_eca_test", data)
        assert task.kind == "classify" and task.classes == ("a", "b", "c")
        assert task.trainable_module.num_classes == 3
        assert task.preprocess.input_size == (3, 32, 32) and task.preprocess.augment == "shift"

    def test_what_is_given_comes_before_what_suits_the_data(self, data):
        task = zoo.create_task("effnet_eca_test", data, img_size=48, augment="rand", model_options={"attn_stages": {0: "none"}})
        assert task.preprocess.input_size == (3, 48, 48) and task.preprocess.augment == "rand"
        assert len(zoo.attention_slots(task.trainable_module)) == 4
        assert task.describe()["model_options"] == {"attn_stages": {0: "none"}}

    def test_a_network_of_ones_own(self, data):
        network = timm.create_model("effnet_se_test", num_classes=3)
        task = zoo.create_task(network, data)
        assert task.trainable_module is network and task.name == "effnet_se_test"

    def test_a_joint_embedding_learns_its_words_from_the_training_rows(self, data):
        task = zoo.create_task({"image": "effnet_eca_test", "text": "bag"}, data, embed_dim=16, loss="siglip")
        assert task.kind == "align" and task.columns == ("image", "text")
        assert task.describe()["embed_dim"] == 16 and task.describe()["loss"] == "siglip"
        other = zoo.create_task({"image": "effnet_eca_test", "text": "bag"}, replace(data, train=Split(9, _other, data.train.columns)))
        assert task.describe()["tokenizers"] != other.describe()["tokenizers"]

    @pytest.mark.parametrize(
        "model, options, told",
        [
            ("effnet_eca_tset", {}, "did you mean 'effnet_eca_test'"),
            ({"image": "effnet_eca_test", "audio": "bag"}, {}, "three kinds has image, label, text; there is no audio"),
            ({"text": "bag", "label": "bag"}, {}, "label is what a classifier learns"),
            ("effnet_eca_test", {"img_size": 0}, "img_size: expected at least 8 pixels, got 0"),
            ("effnet_eca_test", {"augment": "flip"}, "augment: expected one of"),
            ("effnet_eca_test", {"drop_path": 1.0}, "drop_path: expected a share"),
            ("effnet_eca_test", {"smoothing": 1.0}, "smoothing: expected a number"),
            ("effnet_eca_test", {"mixup": -1.0}, "mixup: expected an alpha"),
        ],
    )
    def test_what_does_not_fit(self, data, model, options, told):
        with pytest.raises(ValueError, match=told):
            zoo.create_task(model, data, **options)

    def test_another_number_of_classes(self, data):
        with pytest.raises(ValueError, match="num_classes: the model has 10, the data has 3"):
            zoo.create_task(timm.create_model("effnet_se_test", num_classes=10), data)

    def test_data_without_labels(self, manifest):
        with pytest.raises(ValueError, match="no labels to classify.*image=..., text=..."):
            zoo.create_task("effnet_eca_test", manifest)

    def test_a_network_with_two_channels(self, data):
        with pytest.raises(ValueError, match="the model wants 2"):
            zoo.create_task(timm.create_model("effnet_se_test", num_classes=3, in_chans=2), data)


class TestLoadRun:
    CONFIG = zoo.TrainConfig(epochs=1, batch_size=4)

    @pytest.mark.parametrize("model", ["effnet_eca_test", {"image": "effnet_eca_test", "text": "transformer"}])
    def test_it_comes_back_bit_equal(self, data, tmp_path, model):
        task = zoo.create_task(model, data, freeze_bn=True, mixup=0.2, cutmix=0.1, drop_path=0.2, head="mlp", augment="none")
        zoo.fit(task, data.train, data.eval, replace(self.CONFIG, out=str(tmp_path / "run")))
        run = zoo.load_run(str(tmp_path / "run"))
        before, after = task.trainable_module.state_dict(), run.task.trainable_module.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        assert run.task.describe() == json.loads(json.dumps(task.describe()))
        assert run.task.preprocess == task.preprocess

    def test_it_opens_its_data_again(self, folder, tmp_path):
        opened = zoo.open_data(folder)
        task = zoo.create_task("effnet_eca_test", opened, img_size=32)
        zoo.fit(task, opened.train, opened.eval, replace(self.CONFIG, out=str(tmp_path / "run")), about={"data": str(folder)})
        run = zoo.load_run(tmp_path / "run")
        assert run.open_data().classes == ("cat", "dog")
        with pytest.raises(ValueError, match=r"expected 2 \(cat, dog\), got 10 \(0, 1"):
            run.open_data("digits")

    def test_a_run_that_does_not_know_its_data(self, data, tmp_path):
        zoo.fit(zoo.create_task("effnet_eca_test", data), data.train, None, replace(self.CONFIG, out=str(tmp_path / "run")))
        run = zoo.load_run(tmp_path / "run")
        with pytest.raises(ValueError, match="give --data"):
            run.open_data()
        assert run.open_data(data) is data

    def test_no_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such directory"):
            zoo.load_run(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="is not a run"):
            zoo.load_run(tmp_path)
        zoo.save_model(timm.create_model("effnet_se_test"), tmp_path)
        with pytest.raises(ValueError, match="is not a run"):
            zoo.load_run(tmp_path)

    @pytest.mark.parametrize(
        "file, content, told",
        [
            ("model.safetensors", None, "model.safetensors is missing"),
            ("model.safetensors", b"half", "model.safetensors is damaged"),
            ("joint.safetensors", None, "joint.safetensors"),
            ("joint.safetensors", b"half", "joint.safetensors is damaged"),
            ("tokenizer.text.json", None, "tokenizer.text.json"),
            ("tokenizer.text.json", b"{", "tokenizer.text.json is damaged"),
            ("config.json", b'{"architecture": "effnet_eca_test", "zoo": {"task": "align", "preprocess": {}}}', "config.json is damaged"),
        ],
    )
    def test_a_file_that_is_missing_or_damaged(self, data, tmp_path, file, content, told):
        task = zoo.create_task({"image": "effnet_eca_test", "text": "bag:width=8"}, data, embed_dim=8)
        zoo.fit(task, data.train, None, replace(self.CONFIG, out=str(tmp_path)))
        (tmp_path / file).write_bytes(content) if content is not None else (tmp_path / file).unlink()
        with pytest.raises(ValueError, match=f"the run does not load: .*{told}"):
            zoo.load_run(tmp_path)
        if file == "model.safetensors":
            with pytest.raises((ValueError, FileNotFoundError), match=told):
                zoo.build.create_model(str(tmp_path))

    def test_a_second_column_of_pictures_from_a_run_that_is_gone(self, data, tmp_path):
        zoo.fit(zoo.create_task("effnet_eca_test", data), data.train, None, replace(self.CONFIG, out=str(tmp_path / "first")))

        def read(split):
            return Split(len(split), lambda index: {**split[index], "photo": split[index]["image"]}, ("image", "photo"))

        double = replace(data, train=read(data.train), eval=read(data.eval), classes=None)
        task = zoo.create_task({"image": "effnet_cbam_test", "photo": str(tmp_path / "first")}, double, embed_dim=8)
        zoo.fit(task, double.train, None, replace(self.CONFIG, out=str(tmp_path / "second")))
        shutil.rmtree(tmp_path / "first")
        before, after = task.joint.state_dict(), zoo.load_run(tmp_path / "second").task.joint.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)

    def test_parts_that_are_objects(self, data, tmp_path):
        towers = {"image": "effnet_eca_test", "text": zoo.towers.Bag(tokenizer=zoo.towers.Tokenizer.bytes(), width=8)}
        for name, head in (("named", "linear"), ("object", {"text": torch.nn.Linear(8, 16)})):
            task = zoo.create_task(towers, data, embed_dim=16, head=head)
            zoo.fit(task, data.train, None, replace(self.CONFIG, out=str(tmp_path / name)))
        assert zoo.load_run(tmp_path / "named").task.describe() == json.loads(
            json.dumps(zoo.create_task(towers, data, embed_dim=16).describe())
        )
        with pytest.raises(ValueError, match="text was given as an object, Linear; make the task again in Python"):
            zoo.load_run(tmp_path / "object")

    def test_an_unknown_task(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"zoo": {"task": "dream"}}))
        with pytest.raises(ValueError, match="unknown task 'dream'; expected classify or align"):
            zoo.load_run(tmp_path)


@pytest.mark.parametrize(
    "choice, expected",
    [
        ("clip", ("clip", [], {})),
        ("triplet:margin=0.3", ("triplet", [], {"margin": 0.3})),
        ("hf:some/folder,max_length=32,pooling=cls", ("hf", ["some/folder"], {"max_length": 32, "pooling": "cls"})),
        ("mlp:columns=age+sex,dropout=0.1", ("mlp", [], {"columns": "age+sex", "dropout": 0.1})),
    ],
)
def test_a_name_with_options(choice, expected):
    assert zoo.build.named(choice) == expected


def test_a_choice_for_each():
    pairs = ("image-text", "image-table")
    assert zoo.build.each_of("clip", pairs) == "clip"
    assert zoo.build.each_of("triplet:margin=0.3,x=1", pairs) == "triplet:margin=0.3,x=1"
    assert zoo.build.each_of("image-text=clip,image-table=triplet:margin=0.3,x=1", pairs) == {
        "image-text": "clip",
        "image-table": "triplet:margin=0.3,x=1",
    }
