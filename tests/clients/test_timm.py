"""timm's own parts and its train.py: docs/clients/timm.md. What its networks can do is tested in tests/backbones/test_effnet.py."""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.models import checkpoint_seq
from timm.optim import create_optimizer_v2

import zoo

pytestmark = pytest.mark.clients
CLIENT = "timm"
ROOT = Path(__file__).parents[2]


def python(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script(page, gates, same):
    losses = page["losses"]
    assert gates(page["model"]) == gates(page["model"], that_learn=True) == {"cbam": 16}
    assert losses[-1] < losses[0]
    assert json.loads(Path("trained/config.json").read_text())["label_names"] == ["dark", "bright"]
    with torch.no_grad():
        same(page["again"](page["pictures"]), page["average"].module.eval()(page["pictures"]))


def test_timm_may_be_there_first():
    """The order of train.py: create_model is imported at the top, zoo by a string in main()."""
    code = """
from timm.models import create_model, is_model
import importlib
assert not is_model("effnet_cbam_test")
for module in ["zoo"]:
    importlib.import_module(module)
given = dict(in_chans=3, num_classes=10, drop_rate=0.0, drop_path_rate=None, drop_block_rate=None, global_pool=None, bn_momentum=None)
print(type(create_model("effnet_cbam_test", pretrained=False, scriptable=False, checkpoint_path="", bn_eps=None, **given)).__name__)
"""
    assert python("-W", "error", "-c", code).split() == ["GatedEfficientNet"]


def test_a_script_without_the_flag(tmp_path):
    """What the page says for validate.py and the others."""
    (tmp_path / "validate.py").write_text(
        "import argparse, timm\nparser = argparse.ArgumentParser()\nparser.add_argument('--model')\n"
        "if __name__ == '__main__':\n    print(timm.create_model(parser.parse_args().model).num_classes)\n"
    )
    line = "import zoo, runpy; runpy.run_path('validate.py', run_name='__main__')"
    assert line in (ROOT / "docs" / "clients" / "timm.md").read_text()
    assert python("-c", line, "--model", "effnet_cbam_test", cwd=tmp_path).split() == ["1000"]


def test_model_kwargs_of_the_command_line(gates):
    """As train.py reads them: a value is Python where it can be, and text where it cannot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=timm.utils.ParseKwargs)
    given = parser.parse_args(["--model-kwargs", "attn_stages={3: 'eca'}", "attn_kwargs={'rd_ratio': 0.5}", "attn_all=True"]).model_kwargs
    assert gates(timm.create_model("effnet_cbam_test", **given)) == {"cbam": 4, "eca": 1}


def test_layer_decay():
    """A gate learns at the rate of its block, and what it asks for does not decay."""
    model = timm.create_model("effnet_gct_test", num_classes=3)
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5).param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(of) == len(list(model.parameters()))
    for path, _, gate in zoo.attention_slots(model):
        block = model.get_submodule(path.rpartition(".")[0])
        assert len({of[id(parameter)]["lr_scale"] for parameter in block.parameters()}) == 1
        assert all(of[id(gate.get_parameter(name))]["weight_decay"] == 0 for name in gate.no_weight_decay())
    assert of[id(model.conv_stem.weight)]["lr_scale"] < of[id(model.classifier.weight)]["lr_scale"] == 1


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # the stem's output may not
def test_checkpoint_seq(same):
    """timm's way of computing a network in parts a second time, as train.py's --grad-checkpointing does."""
    model = timm.create_model("effnet_cbam_test", num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    stem = model.bn1(model.conv_stem(x))
    same(checkpoint_seq(model.blocks, stem, flatten=True), model.blocks(stem))


def test_the_average_of_gates(gates):
    """ModelEmaV3 copies a network with its gates and follows all of its weights."""
    model = timm.create_model("effnet_cbam_test", num_classes=3)
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = {key: value.clone() for key, value in average.module.state_dict().items()}
    average.update(model)
    assert gates(average.module) == {"cbam": 5}
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(average.module.get_parameter(key), (before[key] + parameter) / 2)


def test_data_config_of_a_saved_network(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == timm.data.resolve_model_data_config(timm.create_model("effnet_cbam_test"))["input_size"]
    assert timm.data.create_transform(**config)(Image.new("RGB", (300, 200))).shape == config["input_size"]


@pytest.mark.parametrize(
    "kwargs, shape",
    [
        ({"in_chans": 1}, (2, 10)),
        ({"in_chans": 4, "num_classes": 3}, (2, 3)),
        ({"global_pool": "", "num_classes": 0}, (2, 256, 2, 2)),
        ({"output_stride": 8, "global_pool": "", "num_classes": 0}, (2, 256, 8, 8)),
        ({"drop_path_rate": 0.2, "exportable": True}, (2, 10)),
        ({"drop_rate": 0.1, "drop_path_rate": None, "global_pool": None, "bn_eps": None, "scriptable": False}, (2, 10)),  # train.py's
    ],
    ids=str,
)
def test_arguments_beside_a_changed_network(gates, folder, kwargs, shape):
    """What a swapped or pruned network takes when it comes back from its folder, weights included."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
    assert gates(model) == gates(timm.create_model(f"local-dir:{folder}"))
    assert model(torch.randn(2, kwargs.get("in_chans", 3), 64, 64)).shape == shape
    model.reset_classifier(5, "avg")
    assert model.get_classifier().out_features == 5
    model.set_grad_checkpointing()


@pytest.fixture
def pictures(tmp_path):
    """A folder as train.py reads it: split, class, pictures."""
    for split in ("train", "validation"):
        for label, grey in (("dark", 40), ("bright", 200)):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (40, 40), (grey + index,) * 3).save(tmp_path / "data" / split / label / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves its pictures to the garbage collector
def test_what_train_calls(tmp_path, pictures, same):
    """The parts of timm that its train.py is made of: data, loader, optimizer, task, average, checkpoint, and on from there."""
    model = timm.create_model("effnet_cbam_test", num_classes=2, drop_path_rate=0.1)
    config = timm.data.resolve_data_config({"img_size": 32}, model=model)
    data = timm.data.create_dataset("", root=pictures, split="train")
    loader = timm.data.create_loader(
        *(data, config["input_size"], 8),
        is_training=True,
        no_aug=True,
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, layer_decay=0.9)
    task = timm.task.ClassificationTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    average = timm.utils.ModelEmaV3(model, decay=0.9)
    saver = timm.utils.CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    for x, y in loader:
        optimizer.zero_grad()
        task(x, y)["loss"].backward()
        optimizer.step()
        average.update(model)
    saver.save_checkpoint(epoch=0, metric=50.0)

    x = torch.randn(2, 3, 32, 32)
    last = str(tmp_path / "last.pth.tar")
    again, followed = (timm.create_model("effnet_cbam_test", num_classes=2).eval() for _ in range(2))
    assert timm.models.resume_checkpoint(again, last, create_optimizer_v2(again, opt="adamw", lr=1e-3, layer_decay=0.9)) == 1
    timm.models.load_checkpoint(followed, last, use_ema=True)
    with torch.no_grad():
        same(again(x), model.eval()(x))
        same(followed(x), average.module.eval()(x))


@pytest.mark.skipif("TIMM_TRAIN" not in os.environ, reason="timm's train.py is not in its wheel; TIMM_TRAIN=path/to/train.py runs it")
@pytest.mark.parametrize("arguments", [["effnet_cbam_test"], ["effnet_cbam_test", "--model-kwargs", "attn_stages={3: 'eca'}"]], ids=len)
def test_train(tmp_path, pictures, gates, arguments):
    python(
        *(os.environ["TIMM_TRAIN"], "--device-modules", "zoo", "--model", *arguments, "--data-dir", str(pictures), "--num-classes", "2"),
        *("--device", "cpu", "--img-size", "32", "--batch-size", "8", "--workers", "0", "--epochs", "2", "--warmup-epochs", "0"),
        *("--opt", "adamw", "--lr", "1e-3", "--layer-decay", "0.9", "--drop-path", "0.1", "--model-ema", "--no-prefetcher"),
        *("--output", str(tmp_path), "--experiment", "run"),
        cwd=tmp_path,
    )
    with (tmp_path / "run" / "summary.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    model = timm.create_model("effnet_cbam_test", num_classes=2, **({"attn_stages": {3: "eca"}} if arguments[1:] else {}))
    timm.models.load_checkpoint(model, str(tmp_path / "run" / "last.pth.tar"))
    assert gates(model) == ({"cbam": 4, "eca": 1} if arguments[1:] else {"cbam": 5})
