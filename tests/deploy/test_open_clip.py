"""A trained run as open_clip loads it: equal embeddings, in this process and in one that only imports zoo; and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import zoo
from zoo.deploy import compare_open_clip, export_open_clip
from zoo.deploy import open_clip as ours
from zoo.heads import MLP, Linear
from zoo.joint import JointEmbedding
from zoo.losses import clip, siglip
from zoo.towers import Bag, ClipText, Tokenizer, Transformer
from zoo.train import Preprocess, TrainConfig

SMALL = {"width": 32, "depth": 2, "heads": 2, "max_length": 24}
TEXTS = ["greek small letter alpha", "", "x<pad>y <eos>  Z", "a long one " * 20, "É 猫 & dog's"]


def pictures(*sizes):
    return [Image.fromarray(np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


SOME = pictures((32, 32), (50, 31), (20, 64))


@pytest.fixture(scope="module", params=["linear-clip", "mlp-siglip"])
def run(request, tmp_path_factory):
    """(task, folder): trained for an epoch, then exported."""
    head, loss = request.param.split("-")
    torch.manual_seed(0)
    data = zoo.open_data("glyphs:characters=12")
    task = zoo.create_task({"image": "effnet_cbam_test", "text": "clip_text"}, data, loss=loss, embed_dim=64)
    if head == "mlp":
        task.joint.heads["image"] = MLP(task.joint.towers["image"].num_features, 64)
    out = tmp_path_factory.mktemp("run")
    zoo.fit(task, data.train, data.eval, TrainConfig(epochs=1, out=str(out), workers=0))
    task.joint.eval()
    assert export_open_clip(task.joint, task.of_pictures(), out / "exported", drop_path=0.1) == []
    return task, out / "exported"


def small(image="effnet_cbam_test", *, text=None, heads=None, loss=clip, **options):
    """An untrained joint embedding whose parts all do something."""
    network = zoo.build.create_model(image, num_classes=0, **options)
    tower = text or ClipText(tokenizer=Tokenizer.train(TEXTS * 2), **SMALL)
    heads = heads or {"image": Linear(network.num_features, 16), "text": Linear(tower.num_features, 16)}
    joint = JointEmbedding({"image": network, "text": tower}, heads, loss=loss)
    for parameter in joint.parameters():
        if parameter.ndim == 1 and len(parameter) > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return joint.eval()


def squash(channels=3, **other):
    told = {"mean": (0.5,) * channels, "std": (0.25,) * channels, "crop_mode": "squash", "augment": "shift"}
    return Preprocess((channels, 32, 32), **{**told, **other})


@torch.no_grad()
def test_the_same_embeddings(run):
    task, folder = run
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    pixels = torch.stack([task.of_pictures().transform(training=False)(picture) for picture in SOME])
    theirs = torch.stack([preprocess(picture) for picture in SOME])
    assert (theirs - pixels).abs().max() <= 1e-6
    wanted = task.joint({"image": pixels, "text": task.joint.towers["text"].prepare(TEXTS)})
    image, text = model.encode_image(theirs, normalize=True), model.encode_text(tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(image, wanted["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(text, wanted["text"], atol=1e-5, rtol=0)
    logits = task.joint.logit_scale.exp() * wanted["image"] @ wanted["text"].T + (task.joint.logit_bias or 0)
    torch.testing.assert_close(model.get_logits(theirs, tokenizer(TEXTS))[0], logits, atol=1e-3, rtol=0)
    assert (model.logit_bias is None) == (task.joint.losses["image-text"] is clip)


def test_the_vocabulary_gives_the_same_ids(run):
    task, folder = run
    tower, theirs = task.joint.towers["text"], open_clip.get_tokenizer(f"local-dir:{folder}")
    ids = tower.prepare(TEXTS)
    assert torch.equal(theirs(TEXTS), torch.nn.functional.pad(ids, (0, tower.max_length - ids.shape[1])))


@pytest.mark.parametrize("run", ["mlp-siglip"], indirect=True)
def test_as_its_readme_says_in_another_process(run, tmp_path):
    """The folder was moved; without `import zoo` there is no such network."""
    task, folder = run
    there = folder.rename(tmp_path / "elsewhere")
    try:
        code = (there / "README.md").read_text().split("```")[1].removeprefix("python").replace("THIS_FOLDER", str(there))
        plugin, _, rest = code.strip().partition("\n")
        assert plugin.startswith("import zoo ")
        script = f"""
import torch
from PIL import Image
import open_clip
try:
    open_clip.create_model("local-dir:{there}")
except RuntimeError as error:
    assert "Unknown model (effnet_cbam_test)" in str(error), error
else:
    raise AssertionError("nobody needs zoo")
picture = Image.new("RGB", (40, 30), (200, 30, 90))
torch.set_grad_enabled(False)
{plugin}
{rest}
torch.save((images, texts), "{tmp_path}/embeddings.pt")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=zoo.__path__[0] + "/..")
        assert done.returncode == 0, done.stderr
    finally:
        there.rename(folder)
    images, texts = torch.load(tmp_path / "embeddings.pt")
    pixels = task.of_pictures().transform(training=False)(Image.new("RGB", (40, 30), (200, 30, 90)))[None]
    with torch.no_grad():
        wanted = task.joint({"image": pixels, "text": task.joint.towers["text"].prepare(["what it shows"])})
    torch.testing.assert_close((images, texts), (wanted["image"], wanted["text"]), atol=1e-5, rtol=0)


def test_the_check_sees_another_model(run, tmp_path):
    task, folder = run
    found = compare_open_clip(task.joint, task.of_pictures(), folder, SOME, TEXTS)
    assert max(found.image, found.text, found.same_pixels, found.same_ids) <= 1e-5 and found.pixels <= 1e-6 and found.texts == 0
    config = json.loads((folder / "open_clip_config.json").read_text())
    wrong = {
        **config,
        "preprocess_cfg": {},
        "model_cfg": {**config["model_cfg"], "text_cfg": {**config["model_cfg"]["text_cfg"], "pool_type": "first"}},
    }
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(wrong))
    found = compare_open_clip(task.joint, task.of_pictures(), tmp_path, SOME, TEXTS)
    assert found.same_ids > 0.01 and found.pixels > 0.1 and found.image > found.same_pixels


def test_texts_that_open_clip_repairs(run):
    """Its tokenizer straightens quotes and decodes HTML before it reads; the way round it that the README tells."""
    task, folder = run
    texts = ["it’s", "a &amp; b", "plain"]
    assert compare_open_clip(task.joint, task.of_pictures(), folder, SOME, texts).texts == 2
    assert "`tokenizer.clean_fn = str`" in (folder / "README.md").read_text()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    tokenizer.clean_fn = str
    ids = task.joint.towers["text"].prepare(texts)
    assert torch.equal(tokenizer(texts)[:, : ids.shape[1]], ids)


@pytest.mark.parametrize(
    "preprocess, told",
    [
        (squash(), None),
        (squash(crop_mode="center"), None),
        (squash(crop_mode="border", interpolation="bilinear"), None),
        (squash(crop_mode="center", crop_pct=0.875), "keeps the middle 0.875"),
        (squash(interpolation="nearest"), "resizes bicubic where the run does nearest"),
    ],
    ids=["squash", "center", "border", "crop", "nearest"],
)
def test_pictures_are_prepared_the_same_or_it_is_told(preprocess, told, tmp_path):
    joint = small(loss=siglip)
    notes = export_open_clip(joint, preprocess, tmp_path)
    found = compare_open_clip(joint, preprocess, tmp_path, SOME, TEXTS)
    assert found.same_pixels <= 1e-5 and found.same_ids <= 1e-5
    if told is None:
        assert notes == [] and found.pixels <= 1e-6
        return
    (note,) = notes
    assert told in note and note in (tmp_path / "README.md").read_text() and found.pixels > 0.1
    exact = eval(note.partition("`")[2].partition("`")[0].replace("timm.data.create_transform", "dict"))
    transform = replace(preprocess, **{key: tuple(value) if isinstance(value, list) else value for key, value in exact.items()})
    assert transform == preprocess


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet", "efficientnet_b0"])
def test_any_network_of_timm(name, tmp_path):
    joint = small(name)
    preprocess = Preprocess.of(joint.towers["image"], augment="shift")
    export_open_clip(joint, preprocess, tmp_path)
    found = compare_open_clip(joint, preprocess, tmp_path, SOME, TEXTS)
    assert max(found.image, found.text) <= 1e-5
    assert "import zoo" not in (tmp_path / "README.md").read_text(), "timm has it without"


def test_gates_that_were_all_swapped_have_a_name(tmp_path):
    joint = small("effnet_eca_test")
    zoo.swap_attention(joint.towers["image"], "cbam", keep="fresh")
    export_open_clip(joint, squash(), tmp_path)
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["timm_model_name"] == "effnet_cbam_test"
    assert compare_open_clip(joint, squash(), tmp_path, SOME, TEXTS).image <= 1e-5


def test_other_modalities_stay_behind(tmp_path):
    joint = small()
    tower = Bag(tokenizer=Tokenizer.bytes(), width=8)
    towers = {**joint.towers, "title": tower}
    joint = JointEmbedding(towers, {**joint.heads, "title": Linear(8, 16)}, loss=clip).eval()
    assert "left out: title" in export_open_clip(joint, squash(), tmp_path)[0]
    assert compare_open_clip(joint, squash(), tmp_path, SOME, TEXTS).text <= 1e-5


TOKENIZER = Tokenizer.train(TEXTS * 2)


@pytest.mark.parametrize(
    "joint, preprocess, told",
    [
        (lambda: small(text=Transformer(tokenizer=TOKENIZER, **SMALL)), squash(), "got text: Transformer. Train image=... text=clip_text"),
        (lambda: small(text=Bag(tokenizer=TOKENIZER, width=32)), squash(), "got text: Bag"),
        (lambda: small(text=ClipText(tokenizer=Tokenizer.bytes(), **SMALL)), squash(), "byte by byte"),
        (lambda: small(heads={"image": MLP(256, 16), "text": MLP(32, 16)}), squash(), "the head is MLP; train with --head linear"),
        (lambda: small(heads={"image": torch.nn.Linear(256, 16), "text": Linear(32, 16)}), squash(), "expected linear or mlp"),
        (lambda: small(attn_stages={3: "eca"}), squash(), "attn_stages"),
        (lambda: small(in_chans=1), squash(1), "open_clip reads RGB pictures, the run reads 1 channel"),
    ],
    ids=["transformer", "bag", "bytes", "mlp", "head", "stages", "grey"],
)
def test_what_open_clip_cannot_express_is_refused(joint, preprocess, told, tmp_path):
    with pytest.raises(ValueError, match=told.replace(".", r"\.").replace("(", r"\(")):
        export_open_clip(joint(), preprocess, tmp_path / "out")
    assert not (tmp_path / "out" / "open_clip_model.safetensors").exists()


def test_gates_swapped_in_some_places_have_no_name(tmp_path):
    joint = small("effnet_eca_test")
    zoo.swap_attention(joint.towers["image"], "cbam", keep="fresh", stages=[4])
    with pytest.raises(ValueError, match="effnet_eca_test is another than this one, which has other gates in some places"):
        export_open_clip(joint, squash(), tmp_path)


@torch.no_grad()
def test_a_padding_that_the_weights_do_not_show():
    """effnet_se_b0.tf_in1k has the weights' names and shapes of effnet_se_b0, and pads otherwise."""
    network = zoo.build.create_model("effnet_se_test", num_classes=0).eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert ours._is(network, "effnet_se_test", pixels)
    network.conv_stem.padding = (0, 0)
    assert not ours._is(network, "effnet_se_test", pixels)


def test_without_open_clip_it_says_what_to_install(run, monkeypatch):
    task, folder = run
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"effnet-zoo\[open_clip\]"):
        compare_open_clip(task.joint, task.of_pictures(), folder, SOME, TEXTS)
