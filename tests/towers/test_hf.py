"""Hugging Face's encoders: features as transformers computes them, padding that changes nothing, two files that bring a tower back.

All models are tiny, random and made here, and no hub is asked: what they are is what counts, not what they know.
"""

import copy
import hashlib
import json
import logging
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from registry import TOWERS
from zoo.towers import HF

TEXTS = ["greek small letter alpha", "a", "", "latin capital letter a with macron and acute"]
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=80)
MODELS = {
    "bert": lambda n: transformers.BertModel(transformers.BertConfig(vocab_size=n, **SMALL)),
    "distilbert": lambda n: transformers.DistilBertModel(
        transformers.DistilBertConfig(vocab_size=n, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=80)
    ),
    "roberta": lambda n: transformers.RobertaModel(transformers.RobertaConfig(vocab_size=n, pad_token_id=1, **SMALL)),
    "mpnet": lambda n: transformers.MPNetModel(transformers.MPNetConfig(vocab_size=n, pad_token_id=1, **SMALL)),
    "modernbert": lambda n: transformers.ModernBertModel(
        transformers.ModernBertConfig(vocab_size=n, pad_token_id=0, cls_token_id=2, sep_token_id=3, **SMALL)
    ),
    "t5": lambda n: transformers.T5Model(_t5(n)),
    "t5_encoder": lambda n: transformers.T5EncoderModel(_t5(n)),
    "gpt2": lambda n: transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=80, bos_token_id=3, eos_token_id=3)
    ),
}


def _t5(tokens):
    return transformers.T5Config(vocab_size=tokens, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2)


def _tokenizer(kind: str, texts=TEXTS):
    """Words and their pieces; BERT's frame of special tokens, T5's end token, or, as GPT-2 has it, neither those nor padding."""
    own = Tokenizer(models.WordPiece(unk_token="<unk>"))
    own.normalizer, own.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["<pad>", "<unk>", "<cls>", "<sep>"]
    own.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials, show_progress=False))
    if kind == "gpt2":
        return transformers.PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", eos_token="<sep>")
    frame = "$A <sep>" if kind.startswith("t5") else "<cls> $A <sep>"
    own.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<cls>", 2), ("<sep>", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", unk_token="<unk>", cls_token="<cls>", sep_token="<sep>"
    )


def _save(folder: Path, kind: str, **kwargs) -> Path:
    torch.manual_seed(0)
    tokenizer = _tokenizer(kind)
    model = MODELS[kind](len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where all is small, also what should not matter
            parameter.add_(torch.randn_like(parameter) * 0.1)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, **kwargs)
    transformers.utils.logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: _save(tmp_path_factory.mktemp(kind), kind) for kind in MODELS}


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


@pytest.fixture
def tower(folders, kind):
    return TOWERS["hf"](str(folders[kind])).eval()


def _states(folder: Path, text: str) -> torch.Tensor:
    """Hidden states of one text, `[L, C]`, as transformers computes them."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = (transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel).from_pretrained(folder).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state[0]


def test_features_are_those_of_transformers(folders, kind):
    folder = folders[kind]
    for text in (TEXTS[0], TEXTS[3]):
        states = _states(folder, text)
        expected = {"mean": states.mean(0), "last": states[-1], "cls": states[0]}
        for pooling in expected.keys() - ({"cls"} if kind == "gpt2" else set()):
            tower = HF(str(folder), pooling=pooling).eval()
            features = tower(tower.prepare([text, *TEXTS]))
            assert features.shape == (5, 32) and tower.num_features == 32
            torch.testing.assert_close(features[0], expected[pooling], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_changes_nothing(folders, kind, pooling):
    if kind == "gpt2" and pooling == "cls":
        return
    tower = HF(str(folders[kind]), pooling=pooling, max_length=78).eval()
    together = tower(tower.prepare(TEXTS))
    alone = torch.cat([tower(tower.prepare([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    wider = torch.nn.functional.pad(tower.prepare(TEXTS), (0, 3), value=-1)
    torch.testing.assert_close(tower(wider), together, atol=1e-5, rtol=1e-5)
    assert torch.pdist(together).min() > 1e-3 or pooling == "cls", "different texts, same features"


def test_ids_are_those_of_transformers(folders, kind, tower):
    theirs = transformers.AutoTokenizer.from_pretrained(folders[kind])
    for length in (5, 64):
        ids = tower.tokenizer(TEXTS, length)
        assert ids.dtype == torch.int64 and ids.shape[0] == 4
        for row, text in zip(ids, TEXTS, strict=True):
            expected = theirs(text, truncation=True, max_length=length)["input_ids"]
            assert row[row >= 0].tolist() == (expected or [3])
    assert tower.reads == "text" and tower.prepare(TEXTS).shape[1] <= tower.max_length


def test_a_run_brings_it_back(tmp_path, kind, tower):
    """With two files, the config as JSON and the weights; the folder that it came from plays no part."""
    files = tower.files()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    config = json.loads(json.dumps(tower.config)) | {"name": "gone/away"}
    again = HF.from_files(tmp_path, **config).eval()
    ids = tower.prepare(TEXTS)
    assert not torch.allclose(again(ids), tower(ids)), "random until the weights come"
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(tower.state_dict())), strict=True)
    assert torch.equal(again.prepare(TEXTS), ids) and torch.equal(again(ids), tower(ids))
    assert again.config == config and again.files() == files and again.tokenizer.digest == tower.tokenizer.digest


def test_digest_is_that_of_the_file_and_of_the_vocabulary(tmp_path, folders):
    tower = HF(str(folders["bert"]))
    assert tower.tokenizer.digest == hashlib.sha256(tower.files()["tokenizer.json"]).hexdigest()
    for each in folders["bert"].iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    elsewhere = HF(str(tmp_path), max_length=12)
    elsewhere.prepare(TEXTS)
    assert elsewhere.tokenizer.digest == tower.tokenizer.digest == HF(str(tmp_path), pretrained=False).tokenizer.digest
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    saved.enable_truncation(9)
    saved.enable_padding(length=9)
    saved.save(str(tmp_path / "tokenizer.json"))  # as sentence-transformers leave it
    padded = HF(str(tmp_path))
    assert padded.tokenizer.digest == tower.tokenizer.digest and torch.equal(padded.prepare(TEXTS), tower.prepare(TEXTS))
    _tokenizer("bert", TEXTS[:1]).save_pretrained(tmp_path)
    assert HF(str(tmp_path)).tokenizer.digest != tower.tokenizer.digest


def test_tokenizer_survives_pickle_and_copy(tower):
    for again in (pickle.loads(pickle.dumps(tower.tokenizer)), copy.deepcopy(tower.tokenizer)):
        assert torch.equal(again(TEXTS, 9), tower.tokenizer(TEXTS, 9)) and again.digest == tower.tokenizer.digest
    for texts, message in [("one text", "one text"), (["a", None], "text 1 of 2 is a NoneType"), ([], "empty")]:
        with pytest.raises(ValueError, match=message):
            tower.prepare(texts)


def test_all_of_it_learns_and_only_the_encoder_is_there(tower, kind):
    tower.train()(tower.prepare(TEXTS)).pow(3).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in tower.parameters())
    assert not [name for name in tower.state_dict() if "decoder" in name or "pooler" in name]
    assert tower.no_weight_decay() <= {name for name, _ in tower.named_parameters()}
    assert any(tower.get_parameter(name).shape[0] == len(_tokenizer(kind)) for name in tower.no_weight_decay()), "the token embeddings"


def test_dropout_follows_the_mode(folders, kind, tower):
    ids = tower.prepare(TEXTS)
    assert torch.equal(tower(ids), tower(ids))
    if kind != "modernbert":  # which has none
        fresh = HF(str(folders[kind]))
        assert fresh.training and not torch.allclose(fresh(ids), fresh(ids))


def test_half_precision_and_rows_of_padding_alone(tower):
    ids = tower.prepare(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tower(ids)
    torch.testing.assert_close(mixed.float(), tower(ids), atol=0.15, rtol=0.1)
    assert copy.deepcopy(tower).bfloat16()(ids).isfinite().all()
    assert tower(torch.full((2, 5), -1)).isfinite().all()


def test_exports_with_any_batch_and_length(tower):
    ids = tower.prepare(TEXTS)
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=60)
    program = torch.export.export(tower, (ids,), dynamic_shapes=({0: rows, 1: length},)).module()
    for texts in (TEXTS, TEXTS[:2], TEXTS[3:] * 5):
        ids = tower.prepare(texts)
        torch.testing.assert_close(program(ids), tower(ids), atol=1e-5, rtol=1e-5)


def test_without_its_weights(folders):
    """The shape and the vocabulary, started anew: other numbers each time, the same ones for the same seed."""
    towers = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        towers.append(HF(str(folders["bert"]), pretrained=False).eval())
    first, other, again = (tower(tower.prepare(TEXTS)) for tower in towers)
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_weights_are_float32_whatever_the_file(tmp_path, folders):
    half = transformers.AutoModel.from_pretrained(folders["bert"], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path)
    _tokenizer("bert").save_pretrained(tmp_path)
    for pretrained in (True, False):
        assert {parameter.dtype for parameter in HF(str(tmp_path), pretrained=pretrained).parameters()} == {torch.float32}


def test_max_length_fits_the_positions(folders):
    for kind, longest in [("bert", 80), ("roberta", 78), ("mpnet", 78), ("gpt2", 80)]:
        tower = HF(str(folders[kind]), max_length=longest).eval()
        assert tower(tower.prepare(["alpha letter " * 80])).isfinite().all()
        with pytest.raises(ValueError, match=f"max_length={longest + 1}.* at most {longest}"):
            HF(str(folders[kind]), max_length=longest + 1)
    with pytest.raises(ValueError, match="max_length=2: expected more than 2"):
        HF(str(folders["bert"]), max_length=2)
    assert HF(str(folders["t5"]), max_length=900).max_length == 900, "relative positions have no end"
    with pytest.raises(ValueError, match="41 tokens.*max_length=40"):
        HF(str(folders["bert"]), max_length=40)(torch.zeros(1, 41, dtype=torch.int64))


def test_poolings_that_say_nothing(folders):
    with pytest.raises(ValueError, match="'cls': gpt2 reads from left to right"):
        HF(str(folders["gpt2"]), pooling="cls")
    with pytest.raises(ValueError, match="pooling='max': expected mean, cls, last"):
        HF(str(folders["bert"]), pooling="max")


def test_pickles_are_refused_and_converted(tmp_path, folders):
    """And the way out that the message shows leads out."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for each in folders["bert"].iterdir():
        if each.suffix == ".json":
            (old / each.name).write_bytes(each.read_bytes())
    with pytest.raises(ValueError, match="no weights as safetensors .nor any others"):
        HF(str(old))
    torch.save(safetensors.torch.load_file(folders["bert"] / "model.safetensors"), old / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"safetensors \(pytorch_model.bin\).*AutoModel.from_pretrained\(OLD\).save_pretrained\(NEW\)"):
        HF(str(old))
    for part in (transformers.AutoModel, transformers.AutoTokenizer):
        part.from_pretrained(old).save_pretrained(new)
    one, other = HF(str(new)).eval(), HF(str(folders["bert"])).eval()
    assert torch.equal(one(one.prepare(TEXTS)), other(other.prepare(TEXTS)))


def _edited(folder: Path, origin: Path, **config) -> str:
    for each in origin.iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    (folder / "config.json").write_text(json.dumps(json.loads((origin / "config.json").read_text()) | config))
    return str(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, folders):
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    name = _edited(tmp_path, folders["bert"], model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModel": "mine.M"})
    with pytest.raises(ValueError, match="'mine'.*never run"):
        HF(name)
    name = _edited(tmp_path, folders["bert"], auto_map={"AutoConfig": "mine.C", "AutoModel": "mine.M"})
    assert HF(name).num_features == 32, "transformers' own BERT"


def test_what_is_no_text_encoder(tmp_path, folders):
    with pytest.raises(ValueError, match="'vit' is not a text encoder: it reads pixel_values"):
        HF(_edited(tmp_path, folders["bert"], model_type="vit"))
    transformers.CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'clip' is not a text encoder"):
        HF(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no config.json"):
        HF(str(tmp_path))


def test_a_folder_that_lacks_something(tmp_path, folders):
    name = _edited(tmp_path, folders["bert"])
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    lost = weights.pop("encoder.layer.1.output.dense.weight")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are not in its files, such as encoder.layer.1.output.dense.weight"):
        HF(name)
    del weights["pooler.dense.weight"]  # nobody misses that one
    safetensors.torch.save_file({**weights, "encoder.layer.1.output.dense.weight": lost}, tmp_path / "model.safetensors", {"format": "pt"})
    assert HF(name).num_features == 32
    name = _edited(tmp_path, folders["bert"], vocab_size=20)
    with pytest.raises(ValueError, match="tokenizer has [0-9]+ tokens, its model only 20"):
        HF(name, pretrained=False)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer in it"):
        HF(name)


def test_it_is_quiet_and_leaves_the_users_settings(folders, capfd, caplog, monkeypatch):
    said = transformers.utils.logging
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    before = said.get_verbosity()
    said.set_verbosity_warning()
    try:
        HF(str(folders["t5_encoder"]))  # of which transformers has to say that it found no decoder
        assert said.get_verbosity() == said.WARNING and said.is_progress_bar_enabled()
        assert not caplog.text and "Loading" not in capfd.readouterr().err
        transformers.AutoModel.from_pretrained(folders["t5_encoder"])
        assert "MISSING" in caplog.text and "Loading" in capfd.readouterr().err, "the guard sees what it guards against"
    finally:
        said.set_verbosity(before)


@pytest.fixture(params=["told to be offline", "nobody there", "no answer"])
def no_hub(request, monkeypatch):
    if request.param == "told to be offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and says nothing
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            if request.param == "nobody there":
                silent.close()
            monkeypatch.setattr("zoo.towers.hf._PATIENCE", 0.5)
            yield


def test_without_a_hub(tmp_path, monkeypatch, folders, no_hub):
    """What is in the cache is taken; for what is not, one line at once says what to do."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError, match="hf:me/tiny: no such folder, .*; give a local folder .* HF_HOME") as caught:
        HF("me/tiny")
    assert time.monotonic() - begin < 10 and "\n" not in str(caught.value)
    revision = tmp_path / "models--me--tiny" / "snapshots" / ("0" * 40)
    revision.mkdir(parents=True)
    _edited(revision, folders["bert"])
    main = tmp_path / "models--me--tiny" / "refs" / "main"
    main.parent.mkdir()
    main.write_text("0" * 40)
    assert HF("me/tiny").num_features == 32


@pytest.mark.parametrize("pretrained", [True, False])
def test_takes_no_more_from_the_hub_than_it_needs(monkeypatch, folders, pretrained):
    weights = {"model.safetensors", "model-00001-of-00002.safetensors"}
    wanted = {"config.json", "tokenizer.json", "vocab.txt", "spiece.model", "model.safetensors.index.json"}
    others = {"README.md", "pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx", "onnx/config.json"}
    asked = {}

    def download(name, *, allow_patterns, ignore_patterns, local_files_only):
        taken = huggingface_hub.utils.filter_repo_objects(
            weights | wanted | others, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        asked.update(name=name, taken=set(taken), local_files_only=local_files_only)
        return str(folders["bert"])

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: mock.Mock(spec_set=["model_info"]))  # which answers
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert HF("me/tiny", pretrained=pretrained).config["name"] == "me/tiny"
    assert asked == dict(name="me/tiny", taken=wanted | weights if pretrained else wanted, local_files_only=False)


def test_names_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder, and no name on the hub"):
        HF(str(tmp_path / "nowhere"))


def test_without_transformers_it_has_a_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import of it fails from here on
    assert "hf" in TOWERS
    with pytest.raises(ImportError, match=r"hf needs transformers: pip install 'effnet-zoo\[hf\]'"):
        TOWERS["hf"]("anything")


def test_importing_zoo_does_not_import_transformers():
    code = "import sys, zoo; assert 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
