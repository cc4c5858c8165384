"""The joint embedding: unit length, any modality absent, a scale that is learned and held in range."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from zoo.heads import MLP, Linear
from zoo.joint import JointEmbedding
from zoo.losses import clip, siglip
from zoo.towers import Bag, Tokenizer


class Vector(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.num_features = width
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.shift

    def no_weight_decay(self):
        return {"shift"}


def make(loss=clip, names=("image", "text", "table"), **kwargs):
    torch.manual_seed(0)
    return JointEmbedding({name: Vector(6) for name in names}, {name: Linear(6, 4) for name in names}, loss=loss, **kwargs)


def batch(*names, rows=5):
    torch.manual_seed(1)
    return {name: torch.randn(rows, 6) for name in names}


def test_a_picture_and_a_text_tower():
    image = timm.create_model("test_efficientnet", num_classes=0)
    text = Bag(tokenizer=Tokenizer.bytes(), width=32)
    heads = {"image": MLP(image.num_features, 16), "text": Linear(32, 16)}
    joint = JointEmbedding({"image": image, "text": text}, heads, loss=siglip)
    out = joint({"image": torch.randn(3, 3, 32, 32), "text": text.prepare(["one", "two", "three"])})
    assert list(out) == ["image", "text"] and out["image"].shape == out["text"].shape == (3, 16)
    sum(joint.loss(out).values()).backward()
    without = [name for name, parameter in joint.named_parameters() if parameter.grad is None]
    assert not without


def test_embeddings_are_the_equation_and_of_unit_length():
    joint, given = make(), batch("image", "text")
    out = joint(given)
    expected = given["text"] @ joint.heads["text"].proj.weight.T
    torch.testing.assert_close(out["text"], expected / expected.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(out["image"].norm(dim=-1), torch.ones(5))
    assert joint.embed_dim == 4


def test_any_modality_may_be_absent():
    joint = make()
    both = joint(batch("image", "text"))
    assert list(joint(batch("text"))) == ["text"]
    torch.testing.assert_close(joint({"text": batch("image", "text")["text"]})["text"], both["text"])
    assert set(joint.loss(both)) == {"image-text"}
    assert set(joint.loss(joint(batch("image", "text", "table")))) == {"image-text", "image-table"}
    assert joint.loss(joint(batch("text", "table"))) == {}


def test_pairs_are_chosen():
    joint = make(pairs=[("text", "table")])
    assert joint.pairs == (("text", "table"),)
    assert set(joint.loss(joint(batch("image", "text", "table")))) == {"text-table"}


@pytest.mark.parametrize("loss", [clip, siglip])
def test_the_loss_sees_scale_bias_and_ids(loss):
    joint, ids = make(loss, batch_size=32), torch.tensor([0, 0, 1, 2, 3])
    out = joint(batch("image", "text"))
    bias = None if loss is clip else torch.tensor([math.log(1 / 31)])
    given = {"logit_scale": torch.tensor([math.exp(loss.init_logit_scale)]), "logit_bias": bias}
    torch.testing.assert_close(joint.loss(out, ids)["image-text"], loss(out["image"], out["text"], ids=ids, **given))
    torch.testing.assert_close(joint.loss(out)["image-text"], loss(out["image"], out["text"], **given))
    assert not torch.equal(joint.loss(out)["image-text"], joint.loss(out, ids)["image-text"])


def test_scale_and_bias_start_and_restart():
    joint = make(siglip, batch_size=16)
    assert joint.logit_scale.shape == joint.logit_bias.shape == (2,)  # of two pairs
    assert joint.logit_bias.tolist() == pytest.approx([math.log(1 / 15)] * 2)
    with torch.no_grad():
        joint.logit_scale.fill_(1.0)
    joint.restart_scale(512)
    assert joint.logit_scale.tolist() == pytest.approx([math.log(10)] * 2)
    assert joint.logit_bias.tolist() == pytest.approx([math.log(1 / 511)] * 2)
    assert make(clip).logit_bias is None and "logit_bias" not in make(clip).state_dict()


@pytest.mark.parametrize(("value", "expected"), [(-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))])
def test_the_scale_stays_in_range(value, expected):
    joint = make()
    before = joint.logit_scale
    with torch.no_grad():
        joint.logit_scale.fill_(value)
    joint.after_step()
    assert joint.logit_scale is before and joint.logit_scale.tolist() == pytest.approx([expected] * 2) and joint.logit_scale.requires_grad


def test_the_scale_is_learned():
    """On pairs that already match, more scale is less loss."""
    joint = make()
    same = F.normalize(torch.randn(5, 4), dim=-1)
    joint.loss({"image": same, "text": same})["image-text"].backward()
    assert joint.logit_scale.grad[0] < 0 and joint.logit_scale.grad[1] == 0, "a scale is its pair's own"


def test_no_weight_decay():
    expected = {"logit_scale", "towers.image.shift", "towers.text.shift", "towers.table.shift"}
    assert make(clip).no_weight_decay() == expected
    assert make(siglip).no_weight_decay() == expected | {"logit_bias"}


def test_no_weight_decay_reaches_into_a_tower():
    """A gate inside a timm model names its own parameters; nobody above it does."""
    inner = nn.Sequential(Vector(6))
    inner.num_features = 6
    joint = JointEmbedding({"image": inner, "text": Vector(6)}, {"image": Linear(6, 4), "text": Linear(6, 4)}, loss=clip)
    assert "towers.image.0.shift" in joint.no_weight_decay()
    assert joint.no_weight_decay() <= {name for name, _ in joint.named_parameters()}


def test_zero_vectors_stay_finite():
    joint = make()
    out = joint({"image": torch.zeros(3, 6), "text": torch.zeros(3, 6)})
    joint.loss(out)["image-text"].backward()
    assert out["image"].isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in joint.parameters())


def test_half_precision_gives_float32_of_unit_length():
    joint, given = make(), batch("image", "text")
    with torch.autocast("cpu", torch.bfloat16):
        out = joint(given)
        assert joint.loss(out)["image-text"].dtype == torch.float32
    assert out["image"].dtype == torch.float32
    torch.testing.assert_close(out["image"].norm(dim=-1), torch.ones(5))


def test_building_touches_neither_heads_nor_random_state():
    heads = {name: nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4)) for name in ("image", "text")}
    before, state = copy.deepcopy(heads["image"].state_dict()), torch.get_rng_state()
    joint = JointEmbedding({name: Vector(6) for name in heads}, heads, loss=clip)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in heads["image"].state_dict().items())
    assert joint.embed_dim == 4 and heads["image"].training


def test_weights_come_back():
    joint, other, given = make(siglip), make(siglip, batch_size=8), batch("image", "text")
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(joint.state_dict(), strict=True)
    one, two = joint(given), other(given)
    assert torch.equal(joint.loss(one)["image-text"], other.loss(two)["image-text"])


def test_a_wrong_batch():
    joint = make()
    with pytest.raises(KeyError, match=r"'immage' \(this model embeds image, text, table\); did you mean 'image'\?"):
        joint({"immage": torch.zeros(1, 6), "text": torch.zeros(1, 6)})
    with pytest.raises(ValueError, match="expected any of: image, text, table"):
        joint({})


def test_a_wrong_build():
    tower, head = Vector(6), Linear(6, 4)
    for towers, heads, message in [
        ({"image": tower}, {"image": head}, "two modalities"),
        ({"image": tower, "text": tower}, {"image": head}, "one head a tower"),
        ({"image": tower, "a-b": tower}, {"image": head, "a-b": head}, "'a-b'"),
        ({"image": tower, "a.b": tower}, {"image": head, "a.b": head}, "'a.b'"),
        ({"image": tower, "items": tower}, {"image": head, "items": head}, "'items'"),
        ({"image": tower, "text": tower}, {"image": head, "text": Linear(6, 5)}, "differ in width"),
    ]:
        with pytest.raises(ValueError, match=message):
            JointEmbedding(towers, heads, loss=clip)
    for pairs, message in [
        ([("image", "txt")], "did you mean 'text'"),
        ([("image", "image")], "two different"),
        ([("image", "text"), ("text", "image")], "twice"),
        ([], "nothing to learn"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(pairs=pairs)


class Map(nn.Module):
    """A tower with a feature map, three channels wide, and a wider vector."""

    num_features, head_hidden_size = 3, 5

    def forward_features(self, x):
        return x

    def forward(self, x):
        return F.pad(x.mean((2, 3)), (0, 2))


class Brightest(nn.Module):
    reads = "map"

    def __init__(self, in_features, embed_dim):
        super().__init__()
        self.proj = nn.Linear(in_features, embed_dim)

    def forward(self, x):
        return self.proj(x.amax((2, 3)))


def test_a_head_that_reads_maps_gets_the_map_and_another_one_the_vector():
    heads = {"image": Brightest(3, 4), "photo": Linear(5, 4)}
    joint = JointEmbedding({"image": Map(), "photo": Map()}, heads, loss=clip)
    x = torch.randn(2, 3, 4, 6)
    out = joint({"image": x, "photo": x})
    torch.testing.assert_close(out["image"], F.normalize(heads["image"].proj(x.amax((2, 3))), dim=-1))
    torch.testing.assert_close(out["photo"], F.normalize(heads["photo"].proj(F.pad(x.mean((2, 3)), (0, 2))), dim=-1))
    with pytest.raises(ValueError, match=r"the head of text \(Brightest\) reads feature maps, and its tower has none"):
        JointEmbedding({"image": Map(), "text": Vector(6)}, {"image": Brightest(3, 4), "text": Brightest(6, 4)}, loss=clip)


def test_a_pair_has_its_own_loss_scale_and_weight():
    joint = make(loss={"image-text": clip, "image-table": siglip}, weights={"image-table": 0.25}, batch_size=16)
    with torch.no_grad():
        joint.logit_scale.copy_(torch.tensor([1.0, 2.0]))
    out = joint(batch("image", "text", "table"))
    losses = joint.loss(out)
    expected = clip(out["image"], out["text"], logit_scale=torch.tensor([math.e]))
    torch.testing.assert_close(losses["image-text"], expected)
    bias = torch.tensor([math.log(1 / 15)])
    torch.testing.assert_close(
        losses["image-table"], siglip(out["image"], out["table"], logit_scale=torch.tensor([math.e**2]), logit_bias=bias) / 4
    )


def test_a_loss_that_warms_up_is_told_how_far_the_training_is():
    seen = []

    def hinge(a, b, *, logit_scale, logit_bias, ids, hardest=1.0):
        seen.append((logit_scale, logit_bias, hardest))
        return (a - b).square().sum()

    hinge.init_logit_scale = hinge.init_logit_bias = None
    hinge.during = lambda progress: {"hardest": min(1.0, 2 * progress)}
    joint = make(hinge, names=("image", "text"))
    assert joint.logit_scale is None and joint.logit_bias is None and "logit_scale" not in joint.state_dict()
    out = joint(batch("image", "text"))
    joint.loss(out, progress=0.25)
    joint.loss(out)
    joint.after_step()
    assert seen == [(None, None, 0.5), (None, None, 1.0)]


def test_a_frozen_tower_stays_and_its_head_learns():
    tower = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    tower.num_features = 6
    joint = JointEmbedding({"image": Vector(6), "text": tower}, {"image": Linear(6, 4), "text": Linear(6, 4)}, loss=clip, frozen=["text"])
    before = copy.deepcopy(tower.state_dict())
    given = batch("image", "text")
    joint.train()
    one, two = joint(given), joint(given)
    assert torch.equal(one["text"], two["text"]), "its dropout is off"
    sum(joint.loss(one).values()).backward()
    assert all(parameter.grad is None for parameter in tower.parameters()) and joint.heads["text"].proj.weight.grad.any()
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())


@pytest.mark.parametrize(
    "how, told",
    [
        ({"weights": {"text-image": 1.0}}, "a weight for text-image, which is no pair; did you mean 'image-text'"),
        ({"weights": {"image-text": -1.0}}, "weights: expected numbers of at least 0"),
        ({"loss": {"image-text": clip}}, "no loss for the pair image-table"),
        ({"loss": {"image-text": clip, "image-tabel": clip}}, "a loss for image-tabel, which is no pair"),
        ({"frozen": ["tex"]}, "frozen: there is no tower for 'tex'; did you mean 'text'"),
    ],
)
def test_what_is_no_pair_and_no_tower(how, told):
    with pytest.raises(ValueError, match=told):
        make(**how)
