import pytest
import timm
import torch
import torch.nn.functional as F

import zoo
from zoo.train import Classify
from zoo.train.engine import Engine


@pytest.fixture
def task(data):
    torch.manual_seed(0)
    return zoo.create_task("effnet_cbam_test", data, drop_path=0.0)


def batch_of(task, split, indices):
    prepare = task.prepare(True)
    return task.collate([{**prepare(split[i]), "id": i, "index": i} for i in indices])


def test_the_loss_is_smoothed_cross_entropy(task, data):
    task.eval()
    batch = batch_of(task, data.train, range(6))
    logits = task.trainable_module(batch["image"])
    assert task.batch_loss(batch).item() == pytest.approx(F.cross_entropy(logits, batch["label"], label_smoothing=0.1).item(), abs=1e-6)
    assert task(batch["image"], batch["label"])["output"].shape == (6, 2)


def test_micro_batches_sum_to_the_gradient_of_the_whole(task, data):
    task.eval()  # batch norm would see other statistics
    engine = Engine("cpu")
    whole, parts = batch_of(task, data.train, range(5)), [batch_of(task, data.train, range(3)), batch_of(task, data.train, range(3, 5))]
    for part, rows in ((parts[0], slice(0, 3)), (parts[1], slice(3, 5))):
        part["image"] = whole["image"][rows]  # the same augmentation
    found = []
    for batches in ([whole], parts):
        task.zero_grad()
        loss = task.training_step(batches, engine)
        found.append((loss.item(), [p.grad.clone() for p in task.trainable_module.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_mixup_takes_odd_batches_and_single_rows(data):
    """Each row of them: one that is no number is seen, wherever it stands."""
    task = zoo.create_task("effnet_none_test", data, mixup=0.8, cutmix=1.0)
    task.train()
    for count in (2, 5, 4):
        assert task.batch_loss(batch_of(task, data.train, range(count))).isfinite()
        for row in range(count):
            batch = batch_of(task, data.train, range(count))
            batch["image"][row] = float("nan")
            assert not task.batch_loss(batch).isfinite()
        task.trainable_module.load_state_dict(zoo.create_task("effnet_none_test", data).trainable_module.state_dict())  # the statistics
    task.eval()
    assert task.batch_loss(batch_of(task, data.train, [3])).isfinite()


def test_evaluation_counts_every_row_once(task, data):
    metrics = zoo.evaluate(task, data.eval, batch_size=5)
    confusion = torch.tensor(metrics["confusion"])
    assert confusion.sum() == 16 and confusion.sum(1).tolist() == [8, 8]
    task.eval()
    right = 0
    with torch.no_grad():
        for i in range(16):
            row = task.prepare(False)(data.eval[i])
            right += int(task.trainable_module(row["image"][None]).argmax()) == row["label"]
    assert metrics["top1"] == pytest.approx(100 * right / 16)


def test_frozen_batch_norm_keeps_its_statistics(data):
    task = zoo.create_task("effnet_se_test", data, freeze_bn=True)
    task.train()
    before = task.trainable_module.bn1.running_mean.clone()
    task.batch_loss(batch_of(task, data.train, range(4)))
    assert torch.equal(task.trainable_module.bn1.running_mean, before)
    task.freeze_bn = False
    task.train()
    task.batch_loss(batch_of(task, data.train, range(4)))
    assert not torch.equal(task.trainable_module.bn1.running_mean, before)


def test_a_model_of_other_classes_is_refused(data):
    model = timm.create_model("effnet_none_test", num_classes=5)
    with pytest.raises(ValueError, match="num_classes: the model has 5, the data has 2"):
        zoo.create_task(model, data)
    task = zoo.create_task(timm.create_model("effnet_none_test", num_classes=2), data)
    assert isinstance(task, Classify) and task.name == "effnet_none_test"


def test_a_label_beyond_the_classes_is_named(task):
    from PIL import Image

    with pytest.raises(ValueError, match="label 7: the model has 2 classes"):
        task.prepare(True)({"image": Image.new("RGB", (8, 8)), "label": 7})
