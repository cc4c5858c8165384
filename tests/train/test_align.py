import numpy as np
import pytest
import torch

import zoo
from zoo.train.engine import Engine
from zoo.train.randomness import seed_everything


def make(data, model="effnet_cbam_test", **how):
    torch.manual_seed(0)
    return zoo.create_task({"image": model, "text": "bag"}, data, head="mlp", embed_dim=16, **how)


def batch_of(task, split, indices):
    prepare = task.prepare(False)
    return task.collate([{**prepare(split[i]), "id": i % 2, "index": i} for i in indices])


def gradients(task, batches):
    task.zero_grad()
    seed_everything(3)
    loss = task.training_step(batches, Engine("cpu"))
    return loss.item(), {name: p.grad.clone() for name, p in task.joint.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(data, loss):
    task = make(data, freeze_bn=True, loss=loss, drop_path=0.0)
    task.train()
    whole = [batch_of(task, data.train, range(12))]
    parts = [batch_of(task, data.train, range(0, 5)), batch_of(task, data.train, range(5, 10)), batch_of(task, data.train, range(10, 12))]
    one, two = gradients(task, whole), gradients(task, parts)
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert one[1].keys() == two[1].keys() and "logit_scale" in one[1]
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, two[1][name], atol=2e-5 * max(1, gradient.abs().max().item())), name
    summed = {}
    for part in parts:  # what a loop that adds up the losses of micro-batches would follow
        for name, gradient in gradients(task, [part])[1].items():
            summed[name] = summed.get(name, 0) + gradient / 3
    flat = [torch.cat([each[name].flatten() for name in one[1]]) for each in (one[1], summed)]
    assert (flat[0] - flat[1]).norm() > 0.1 * flat[0].norm()


def test_the_second_pass_drops_what_the_first_one_dropped(data):
    task = make(data, freeze_bn=True, model_options={"drop_rate": 0.5})  # the toy network has nothing for drop-path to drop
    task.train()
    parts = [batch_of(task, data.train, range(0, 6)), batch_of(task, data.train, range(6, 12))]
    seed_everything(3)
    first = [task.embed(part)["image"].detach() for part in parts]
    seen = []
    embed = task.embed
    task.embed = lambda batch, model=None: seen.append(embed(batch, model)) or seen[-1]
    gradients(task, parts)
    assert all(torch.equal(seen[i]["image"].detach(), seen[i + 2]["image"].detach()) for i in (0, 1))
    assert torch.equal(seen[0]["image"], first[0])


def test_moving_batch_norm_with_micro_batches_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="accumulate=2: the batch norms .* freeze them"):
        zoo.fit(make(data), data.train, data.eval, zoo.TrainConfig(epochs=1, accumulate=2, batch_size=8, out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_rows_without_a_modality_are_left_out_of_its_pair(data):
    task = make(data, drop_path=0.0)
    task.eval()
    prepare = task.prepare(False)
    rows = [{**prepare(data.train[i]), "id": i, "index": i} for i in range(5)]
    expected = task.batch_loss(task.collate([rows[0], rows[2], rows[4]]))
    del rows[1]["text"], rows[3]["image"]
    assert task.batch_loss(task.collate(rows)).item() == pytest.approx(expected.item(), rel=1e-5)
    for row in rows:
        row.pop("text", None)
    nothing = task.batch_loss(task.collate(rows))
    assert nothing.item() == 0
    nothing.backward()


@pytest.mark.parametrize("how", [{}, {"frozen": ["text"]}, {"frozen": ["image", "text"]}], ids=["learned", "text frozen", "both frozen"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_with_nothing_of_the_run_in_them(data, how, accumulate):
    """Rows of a table, say, in a run of pictures and texts: also batches that are nothing but such rows."""

    def read(index):
        return data.train[index] if index < 2 else {"label": 0}

    split = zoo.datasets.Split(8, read, data.train.columns)
    metrics = zoo.fit(make(data, freeze_bn=True, **how), split, split, zoo.TrainConfig(epochs=2, batch_size=2, accumulate=accumulate))
    assert metrics["image->text"]["queries"] == 2


def test_one_picture_alone_in_a_batch(data):
    task = make(data, img_size=32, drop_path=0.0)  # the last map has one pixel
    task.train()
    whole = batch_of(task, data.train, range(3))
    batch = {**whole, "image": whole["image"][:1], "rows.image": whole["rows.image"][:1]}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        task.joint({"image": batch["image"]})
    norms = {name: part for name, part in task.joint.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    learned = {name: part.running_mean.clone() for name, part in norms.items()}
    task.batch_loss(batch).backward()
    assert norms and all(part.training and torch.equal(part.running_mean, learned[name]) for name, part in norms.items())


def test_a_joint_embedding_learns_and_comes_back(data, tmp_path):
    task = make(data)
    config = zoo.TrainConfig(epochs=10, batch_size=8, out=str(tmp_path))
    two = zoo.datasets.Split(data.eval.size, data.eval.read, data.eval.columns, ids=[i % 2 for i in range(16)])
    metrics = zoo.fit(task, data.train, two, config, about={"data": "two kinds"})
    assert metrics["image->text"]["R@1"] > 90 and metrics["image->text"]["chance"]["R@1"] == pytest.approx(50)
    run = zoo.load_run(tmp_path)
    again = zoo.evaluate(run.task, two)
    assert again["image->text"] == metrics["image->text"] and again["text->image"] == metrics["text->image"]
    for one, other in zip(task.joint.state_dict().items(), run.task.joint.state_dict().items(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
    import timm

    tower = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for key, tensor in tower.state_dict().items():
        assert torch.equal(tensor, task.joint.towers["image"].state_dict()[key])
    (tmp_path / "tokenizer.text.json").write_text(zoo.towers.Tokenizer.bytes().to_json())
    with pytest.raises(ValueError, match="tokenizer.text.json is not the one"):
        zoo.load_run(tmp_path)


def test_scale_and_bias_start_where_the_loss_wants_them(data):
    import math

    task = make(data, loss="siglip")
    task.begin(zoo.TrainConfig(batch_size=33), 1)
    assert task.joint.logit_bias.item() == pytest.approx(math.log(1 / 32))
    with torch.no_grad():
        task.joint.logit_scale.fill_(50.0)
    task.after_step()
    assert task.joint.logit_scale.item() == pytest.approx(math.log(100))


def test_what_a_frozen_tower_says_is_read_once_and_is_what_it_says(data):
    plain, kept = make(data, frozen=["text"], drop_path=0.0), make(data, frozen=["text"], drop_path=0.0)
    engine = Engine("cpu")
    kept.look(data.train, engine)
    reads = []
    kept.joint.towers["text"].register_forward_hook(lambda *given: reads.append(1))
    for task in (plain, kept):
        task.train()
    batch = batch_of(plain, data.train, [5, 3, 40])
    one, two = gradients(plain, [batch]), gradients(kept, [batch])
    assert not reads and one[0] == pytest.approx(two[0], rel=1e-5)
    for name, gradient in one[1].items():
        assert (two[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5, name
    assert not any(name.startswith("towers.text") for name in one[1])
    kept.eval()
    kept.embed(batch)
    assert reads, "other rows than those of the training are read as they come"


def test_a_modality_that_says_the_same_everywhere_is_warned_of(data, capsys):
    def same(index):
        return {**data.train[index], "text": "an emoji"}

    make(data).look(zoo.datasets.Split(20, same, data.train.columns, cells=same), Engine("cpu"))
    assert "all 20 training rows have the same text (an emoji)" in capsys.readouterr().err
    make(data).look(data.train, Engine("cpu"))
    assert not capsys.readouterr().err


def test_long_vectors_that_differ_in_the_middle_are_not_the_same(capsys):
    rows = [{"text": f"{index}", "spectrum": np.eye(1, 3000, 1500 + index)[0]} for index in range(6)]  # as text: [0. 0. 0. ... 0. 0. 0.]
    task = zoo.create_task({"text": "bag", "spectrum": "vector"}, zoo.datasets.Data("spectra", rows, rows))
    task.look(zoo.datasets.Split(6, rows.__getitem__, ("text", "spectrum")), Engine("cpu"))
    assert "same" not in capsys.readouterr().err


def test_a_batch_of_one_row_is_refused(data):
    with pytest.raises(ValueError, match="a batch of one row has nothing to be told apart from"):
        make(data).begin(zoo.TrainConfig(batch_size=1), 1)
    make(data).begin(zoo.TrainConfig(batch_size=1), 2)
    with pytest.raises(ValueError, match="one training row has nothing to be told apart from"):
        zoo.fit(make(data), data.train.take([0]), data.eval, zoo.TrainConfig(epochs=1))


def test_an_evaluation_needs_one_whole_pair(data):
    task = make(data)
    with pytest.raises(ValueError, match="the eval rows have image, label; this task also needs text"):
        task.check(zoo.datasets.Split(4, data.eval.read, ("image", "label")), "eval")
