"""The recipe of docs/towers/hf.md, as it stands there: a joint embedding in transformers, with the same embeddings, also from disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import zoo
from zoo.heads import Linear
from zoo.losses import clip
from zoo.towers import HF
from zoo.train import Preprocess

PAGE = Path(__file__).parents[2] / "docs" / "towers" / "hf.md"
TEXTS = ["a red square", "a", "two blue circles above a green triangle"]
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, max_position_embeddings=80)
ENCODERS = {
    "bert": lambda n: transformers.BertModel(transformers.BertConfig(vocab_size=n, **SMALL)),
    "roberta": lambda n: transformers.RobertaModel(transformers.RobertaConfig(vocab_size=n, pad_token_id=1, **SMALL)),
    "mpnet": lambda n: transformers.MPNetModel(transformers.MPNetConfig(vocab_size=n, pad_token_id=1, **SMALL)),
}


@pytest.fixture(scope="module")
def dual_encoder():
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["dual_encoder"]


@pytest.fixture(autouse=True)
def no_bars():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def _text(folder: Path, kind: str, pooling: str = "cls") -> HF:
    own = Tokenizer(models.WordPiece(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["<unk>", "<pad>", "<cls>", "<sep>"] if kind != "bert" else ["<pad>", "<unk>", "<cls>", "<sep>"]
    own.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False))
    own.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", unk_token="<unk>")
    ENCODERS[kind](len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return HF(str(folder), pooling=pooling)


def _joint(text: HF, attention: str = "cbam", **kwargs) -> zoo.JointEmbedding:
    image = timm.create_model(f"effnet_{attention}_test", num_classes=0, **kwargs)
    heads = {"image": Linear(image.num_features, 24), "text": Linear(text.num_features, 24)}
    joint = zoo.JointEmbedding({"image": image, "text": text}, heads, loss=clip)
    with torch.no_grad():
        for parameter in joint.parameters():  # away from the start; the texts' hidden states stay of size one, as layer norm has them
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for _ in range(3):  # statistics of the batch norms that are not those of the start
            joint.train()({"image": torch.randn(8, 3, 64, 64)})
    return joint.eval()


def _agree(joint, model, tokenizer):
    pixels = torch.randn(3, 3, 64, 64)
    tokens = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        ours = joint({"image": pixels, "text": joint.towers["text"].prepare(TEXTS)})
        theirs = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    torch.testing.assert_close(theirs.image_embeds, ours["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.text_embeds, ours["text"], atol=1e-5, rtol=0)
    logits = ours["image"] @ ours["text"].T * joint.logit_scale.exp()
    torch.testing.assert_close(theirs.logits_per_image, logits, atol=1e-3, rtol=1e-4)
    assert torch.pdist(ours["text"]).min() > 0.01 and torch.pdist(ours["image"]).min() > 1e-4


@pytest.mark.parametrize("kind, attention", [("bert", "cbam"), ("roberta", "cbam"), ("mpnet", "cbam"), ("bert", "fca")])
def test_the_same_embeddings_also_from_disk(tmp_path, dual_encoder, kind, attention):
    """`fca` keeps constants beside its weights, which are in no file."""
    joint = _joint(_text(tmp_path / "text", kind), attention, attn_stages={4: "eca"})
    run = zoo.save_model(joint.towers["image"], tmp_path / "run")
    model, tokenizer = dual_encoder(joint, run)
    _agree(joint, model, tokenizer)
    model.save_pretrained(tmp_path / "dual")
    tokenizer.save_pretrained(tmp_path / "dual")
    again = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "dual").eval()
    _agree(joint, again, transformers.AutoTokenizer.from_pretrained(tmp_path / "dual"))


def test_pictures_are_prepared_alike(tmp_path):
    image = timm.create_model("effnet_cbam_test", num_classes=0)
    ours = Preprocess.of(image, img_size=48, augment="none")
    run = zoo.save_model(image, tmp_path, data_config=ours.data_config())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    theirs = transformers.AutoImageProcessor.from_pretrained(run)(picture)["pixel_values"]
    torch.testing.assert_close(theirs[0], ours.transform(False)(picture))


def test_the_mean_is_refused(tmp_path, dual_encoder):
    joint = _joint(_text(tmp_path / "text", "bert", pooling="mean"))
    with pytest.raises(ValueError, match="first token.*pooling='mean'"):
        dual_encoder(joint, tmp_path)
