"""zoo train: both forms, what it leaves, every mistake, and Ctrl-C."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image

from zoo.cli.train import parse_model

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")
JOINT = ("image=effnet_eca_test", "text=bag")


def test_a_bare_name_is_a_classifier():
    assert parse_model(["effnet_cbam_b0"]) == "effnet_cbam_b0"
    assert parse_model(["image=a", "text=b"]) == {"image": "a", "text": "b"}


def test_what_training_leaves(classifier, joint):
    files = {"config.json", "model.safetensors", "metrics.jsonl", "checkpoints"}
    assert {path.name for path in classifier.iterdir()} == files
    assert {path.name for path in joint.iterdir()} - {"index"} == files | {"joint.safetensors", "tokenizer.text.json"}
    for run in (classifier, joint):
        assert timm.create_model(f"local-dir:{run}", pretrained=True).num_features == 256
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_is_said_while_training(zoo, disk, tmp_path):
    out = tmp_path / "a run"
    said = zoo("train", "effnet_eca_test", "--data", disk.manifest, "--out", out, *SMALL)
    assert said.code == 0 and not said.out  # a log goes to stderr
    first, epoch, last = said.err.splitlines()
    assert "24 rows, 8 to evaluate on" in first and epoch.startswith("epoch 1/1  loss ") and f"zoo eval {out}" in last


def test_every_option_arrives(zoo, disk, tmp_path):
    options = {"lr": 0.002, "opt": "sgd", "sched": "step", "warmup": 0.1, "weight_decay": 0.1, "clip_grad": 2.0, "ema": 0.9}
    options |= {"img_size": 40, "augment": "rand", "smoothing": 0.2, "mixup": 0.2, "cutmix": 0.3, "drop_path": 0.1, "seed": 3}
    options |= {"precision": "bf16", "batch_size": 6, "accumulate": 2, "epochs": 2}
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    more = ("--freeze", "bn", "--checkpoint-every", "1", "--device", "cpu", "--workers", "0")
    said = zoo("train", "effnet_eca_test", "--data", disk.manifest, "--out", tmp_path / "run", *given, *more)
    assert said.code == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["zoo"]
    assert {name: written[name] for name in options} == options
    assert written["freeze_bn"] is True and written["data"] == str(disk.manifest) and written["rows"] == 24


def test_every_option_of_a_joint_embedding_arrives(zoo, disk, tmp_path):
    options = ("--head", "linear", "--embed-dim", "24", "--loss", "siglip", "--freeze", "bn", "--accumulate", "2")
    said = zoo("train", "image=effnet_eca_test", "text=transformer", "--data", disk.manifest, "--out", tmp_path / "run", *SMALL, *options)
    assert said.code == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["zoo"]
    assert (written["head"], written["embed_dim"], written["loss"]) == ("linear", 24, "siglip")
    assert written["towers"] == {"image": "effnet_eca_test", "text": "transformer"}


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("effnet_cbam_tset",), "did you mean 'effnet_cbam_test'"),
        (("effnet_cbma_b0",), "did you mean 'effnet_cbam_b0'"),
        (("effnet_cbam_b99",), "did you mean 'effnet_cbam_b"),
        (("image=effnet_ecca_test", "text=bag"), "did you mean 'effnet_eca_test'"),
        (("image=effnet_eca_test", "text=bagg"), "unknown tower 'bagg'; did you mean 'bag'?"),
        ((*JOINT, "--head", "mpl"), "unknown head 'mpl'; did you mean 'mlp'"),
        ((*JOINT, "--loss", "siglipp"), "unknown loss 'siglipp'; did you mean 'siglip'"),
        ((*JOINT, "--embed-dim", "0"), "embed_dim: expected at least 1, got 0"),
        ((*JOINT, "--accumulate", "2"), "--freeze bn"),
        ((*JOINT, "--head", "imge=attnpool"), "head: 'imge=attnpool': there is no imge; did you mean 'image'"),
        ((*JOINT, "--head", "image=gem:p=2,txt=mlp"), "gem has no option 'txt'"),
        ((*JOINT, "--head", "image=gem,txt=mlp"), "head: 'txt=mlp': there is no txt; did you mean 'text'"),
        ((*JOINT, "--head", "attnpool:heads=4"), "attnpool has no option 'heads'; did you mean 'num_heads'"),
        ((*JOINT, "--head", "attnpool:num_heads=two"), "num_heads: expected a whole number of at least 1 or null, got 'two'"),
        ((*JOINT, "--loss", "triplet:margin=x"), "margin: expected a number, got 'x'"),
        ((*JOINT, "--loss", "triplet:margin=-1"), "margin is a difference of cosines"),
        ((*JOINT, "--pairs", "image-image"), "expected two different modalities"),
        ((*JOINT, "--pairs", "image-txt"), "no tower for 'txt'; did you mean 'text'"),
        ((*JOINT, "--tower-lr", "image=0"), "tower-lr: expected numbers above 0"),
        (("image=effnet_eca_test", "text=transformer:depth=two"), "depth: expected a whole number of at least 1, got 'two'"),
        (("image=effnet_eca_test", "text=transformer:width=0"), "width: expected a whole number of at least 1, got 0"),
        (("image=effnet_eca_test", "text=bag:widht=8"), "bag has no option 'widht'; did you mean 'width'"),
        (("image=effnet_eca_test", "text=bag:dropout=NaN"), "dropout: expected a number, got nan"),
        (("image=effnet_eca_test", "text=hf"), "expected hf:NAME"),
        (("image=effnet_eca_test:depth=2", "text=bag"), "has no options in its name"),
        (("image=no/such/run", "text=bag"), "no/such/run: no such run directory"),
        (("effnet_eca_test", "--opt", "adamww"), "unknown optimizer 'adamww'; did you mean 'adamw'"),
        (("effnet_eca_test", "--sched", "cosin"), "unknown schedule 'cosin'; known: cosine"),
        (("effnet_eca_test", "--augment", "flip"), "augment: expected one of none, shift"),
        (("effnet_eca_test", "--freeze", "stemm"), "'stemm' is no part of this network; did you mean 'stem'"),
        (("effnet_eca_test", "--precision", "fp8"), "precision: expected one of fp32"),
        (("effnet_eca_test", "--precision", "fp16", "--device", "cpu"), "fp16 needs a GPU"),
        (("effnet_eca_test", "--device", "tpu"), "device: expected one of auto"),
        (("image=transformer", "text=bag"), "'transformer' is a tower for text"),
        (("image=effnet_eca_test", "text=effnet_cbam_b0"), "a timm model reads pictures"),
        (("image=effnet_eca_test",), "joins two modalities or more"),
        (("image=effnet_eca_test", "image=effnet_eca_test"), "a modality is given twice"),
        (("image=effnet_eca_test", "audio=bag"), "there is no audio"),
        (("text=bag", "label=bag"), "label is what a classifier learns"),
        (("effnet_eca_test", "effnet_se_test"), "expected one name (a classifier), or modality=tower pairs"),
        (("image=", "text=bag"), "model 'image='"),
        (("", "text=bag"), "modality=tower pairs"),
        (("local-dir:/nowhere",), "/nowhere"),
    ],
)
def test_a_name_that_does_not_fit(train_mistake, arguments, told):
    assert told in train_mistake(*arguments)


@pytest.mark.parametrize(
    "option, value",
    [
        *(("--epochs", value) for value in (0, -1)),
        *(("--batch-size", value) for value in (0, -8)),
        *(("--accumulate", value) for value in (0, 1000)),
        *(("--lr", value) for value in (0, -1, "nan", "inf")),
        *(("--weight-decay", value) for value in (-1, "nan")),
        *(("--clip-grad", value) for value in (0, "nan")),
        *(("--warmup", value) for value in (1, -0.1, "nan")),
        *(("--ema", value) for value in (0, 1, "nan")),
        *(("--img-size", value) for value in (0, 7, -32)),
        *(("--smoothing", value) for value in (1, -0.1, "nan")),
        *(("--mixup", value) for value in (-1, "nan", "inf")),
        *(("--cutmix", value) for value in (-1, "nan")),
        *(("--drop-path", value) for value in (1, -0.1, "nan")),
        *(("--seed", value) for value in (-1,)),
        *(("--workers", value) for value in (-1,)),
        *(("--checkpoint-every", value) for value in (0,)),
    ],
)
def test_a_bad_number(train_mistake, option, value):
    told = train_mistake("effnet_eca_test", option, value)
    name = "micro-batches" if value == 1000 else option[2:].replace("-", "_")
    assert name in told and (str(value) in told or f"{float(value)}" in told)


@pytest.mark.parametrize(
    "data, told",
    [
        ("digit", "unknown dataset 'digit'; did you mean 'digits'?"),
        ("no/such", "no/such: no such folder or file"),
        ("nothing.csv", "nothing.csv: no such manifest"),
        ("", "data: expected a name"),
        ("digits:3", "expected options such as"),
        ("digits:colour=3", "colour"),
        ("glyphs:characters=many", "characters=many is no number"),
        ("glyphs:characters=0", "characters=0; expected 2 to"),
    ],
)
def test_data_that_is_not_there(train_mistake, data, told):
    assert told in train_mistake("effnet_eca_test", data=data)


def test_a_manifest_row_that_is_wrong(train_mistake, disk, tmp_path):
    manifest = tmp_path / "m.csv"
    (tmp_path / "words.png").write_text("these are words")
    for row, told in (
        ("missing.png,dark", "missing.png: no such file"),
        ("words.png,dark", "words.png: not a picture"),
        (",dark", "image is empty"),
        ("a,b,c", "3 cells, expected 2"),
    ):
        manifest.write_text(f"image,label\n{disk.folder}/dark/0.png,dark\n{row}\n")
        line = train_mistake("effnet_eca_test", data=manifest)
        assert f"{manifest}, line 3: " in line and told in line


def test_an_empty_class_folder(train_mistake, disk, tmp_path):
    copy = shutil.copytree(disk.folder, tmp_path / "copy")
    (copy / "grey").mkdir()
    assert f"{copy / 'grey'}: " in train_mistake("effnet_eca_test", data=copy)


def test_a_folder_of_one_class(train_mistake, disk, tmp_path):
    shutil.copytree(disk.folder / "dark", tmp_path / "copy" / "dark")
    assert "expected two class folders or more" in train_mistake("effnet_eca_test", data=tmp_path / "copy")


def test_a_manifest_of_one_class(train_mistake, disk, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("image,label\n" + "".join(f"{disk.folder}/dark/{number}.png,dark\n" for number in range(0, 32, 2)))
    assert "has one class (dark)" in train_mistake("effnet_eca_test", data=manifest)


def test_a_row_without_a_label(zoo, disk, tmp_path):
    manifest = tmp_path / "m.csv"
    lines = disk.manifest.read_text().replace("folder/", f"{disk.folder}/").splitlines()
    assert ",dark," in lines[5]
    lines[5] = lines[5].replace(",dark,", ",,")
    manifest.write_text("\n".join(lines))
    said = zoo("train", "effnet_eca_test", "--data", manifest, "--out", tmp_path / "run", *SMALL)
    assert said.code == 2 and "no label" in said.err.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_off(zoo, disk, tmp_path, workers):
    """Only its header is read before training starts; the line is the same from a worker process."""
    copy = shutil.copytree(disk.folder, tmp_path / "copy")
    for broken in copy.glob("*/*.png"):
        broken.write_bytes(broken.read_bytes()[:200])
    options = (*SMALL, "--workers", workers)
    said = zoo("train", "effnet_eca_test", "--data", copy, "--out", tmp_path / "run", *options)
    last = said.err.splitlines()[-1]
    assert said.code == 2 and last.startswith(f"zoo: {copy}/") and "Traceback" not in said.err


def test_labels_and_captions_that_are_not_there(train_mistake, disk, tmp_path):
    assert "there is no text to train a tower on" in train_mistake(*JOINT, data=disk.folder)
    manifest = tmp_path / "captions.csv"
    rows = "".join(f"{disk.folder}/dark/{number}.png,dark {number}\n" for number in range(0, 32, 2))
    manifest.write_text("image,caption\n" + rows)
    assert "no labels to classify" in train_mistake("effnet_eca_test", data=manifest)


def _sha256(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def test_out_that_holds_a_run(zoo, mistake, classifier, disk, tmp_path):
    run = shutil.copytree(classifier, tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    before = _sha256(run)
    same = ("train", "effnet_eca_test", "--data", disk.manifest, "--out", run, *SMALL)
    told = mistake(*same)
    assert "already holds a run" in told and "--resume" in told and "--overwrite" in told and _sha256(run) == before
    assert zoo(*same, "--resume").code == 0 and _sha256(run) == before
    assert zoo(*same, "--overwrite", "--seed", "5").code == 0 and _sha256(run) != before
    assert (run / "notes.txt").read_text() == "mine"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_is_not_ours_stays(zoo, mistake, disk, tmp_path):
    """A directory with somebody else's model is refused; beside a run, somebody else's files survive --overwrite."""
    same = ("train", "effnet_eca_test", "--data", disk.manifest, *SMALL)
    for file in ("tokenizer.text.json", "tower.jpg"):
        (tmp_path / file).mkdir()
        (tmp_path / file / file).touch()
        assert f"holds {file}, but no run" in mistake(*same, "--out", tmp_path / file)
    theirs = tmp_path / "model"
    theirs.mkdir()
    for file, content in (("config.json", '{"architecture": "resnet18"}'), ("model.safetensors", "weights")):
        (theirs / file).write_text(content)
    for option in ((), ("--overwrite",)):
        assert "holds config.json, model.safetensors, but no run" in mistake(*same, "--out", theirs, *option)
    assert (theirs / "model.safetensors").read_text() == "weights"

    project = tmp_path / "project"
    (project / "checkpoints").mkdir(parents=True)
    (project / "checkpoints" / "best.ckpt").write_text("a month of work")
    assert zoo(*same, "--out", project).code == 0
    assert zoo(*same, "--out", project, "--overwrite").code == 0
    assert (project / "checkpoints" / "best.ckpt").read_text() == "a month of work"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "state.json", "manifest.json"])
def test_resume_from_a_damaged_checkpoint(zoo, mistake, classifier, disk, tmp_path, file):
    """There is one only: it is named, and nothing is touched."""
    run = shutil.copytree(classifier, tmp_path / "run")
    (saved,) = (run / "checkpoints").glob("step-*")
    (saved / file).write_bytes((saved / file).read_bytes()[:40])
    same = ("train", "effnet_eca_test", "--data", disk.manifest, "--out", run, *SMALL, "--resume")
    assert f"no checkpoint in {run / 'checkpoints'} is whole: {saved.name}: {file} " in mistake(*same)
    (saved / file).unlink()
    assert f"{saved.name}: {file} is missing; --overwrite" in mistake(*same) and saved.exists()
    shutil.rmtree(saved)
    assert zoo(*same).code == 0 and _sha256(run) == _sha256(classifier)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files takes Unix")
def test_a_disk_that_refuses_ends_in_one_line(zoo, mistake, classifier, disk, tmp_path):
    import resource

    run = shutil.copytree(classifier, tmp_path / "run")
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        told = mistake("train", "effnet_eca_test", "--data", disk.manifest, "--out", run, *SMALL, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "model.safetensors cannot be written: File too large (" in told and "MB are needed" in told
    assert "step-00000003 is whole: make room, then go on from it with --resume" in told
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_with_other_settings(mistake, classifier, disk, tmp_path):
    run = shutil.copytree(classifier, tmp_path / "run")
    before = _sha256(run)
    same = ("train", "effnet_eca_test", "--data", disk.manifest, "--out", run, *SMALL, "--resume")
    assert "lr was 0.002 and is 0.5" in mistake(*same, "--lr", "0.5")
    told = mistake(*same, "--epochs", "3", "--seed", "4")
    assert "epochs was 1 and is 3" in told and "seed was 0 and is 4" in told
    assert "model was 'effnet_eca_test' and is 'effnet_se_test'" in mistake("train", "effnet_se_test", *same[2:])
    assert "rows was 24 and is" in mistake(*same, "--data", disk.folder)
    assert _sha256(run) == before


def test_out_that_cannot_be(mistake, disk, tmp_path):
    same = ("train", "effnet_eca_test", "--data", disk.manifest, *SMALL)
    assert "holds no run" in mistake(*same, "--out", tmp_path / "new", "--resume")
    assert "contradict each other" in mistake(*same, "--out", tmp_path / "new", "--resume", "--overwrite")
    assert "is a file" in mistake(*same, "--out", disk.manifest)
    assert str(disk.manifest) in mistake(*same, "--out", disk.manifest / "below")
    assert "out: expected a directory" in mistake(*same, "--out", "")
    assert disk.manifest.read_text().startswith("image,") and not (tmp_path / "new").exists()


def test_pictures_and_names_as_people_have_them(zoo, tmp_path):
    folder = tmp_path / "my pictures é 图"
    for number in range(12):
        label = ("größer [1]", "klein, sehr")[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture = Image.new(("RGB", "L", "RGBA", "P")[number % 4], (9 + number, 21), number * 9)
        picture.save(folder / label / f"photo {number} ü.jpg", format="PNG")  # the wrong extension
    out = tmp_path / "a run ö"
    said = zoo("train", "effnet_eca_test", "--data", folder, "--out", out, *SMALL)
    assert said.code == 0
    said = zoo("eval", out)
    assert said.code == 0 and "größer [1]" in said.out and "klein, sehr" in said.out


def test_ctrl_c_saves_and_resume_ends_with_the_same_weights(zoo, disk, tmp_path):
    command = ["train", "effnet_eca_test", "--data", str(disk.manifest), "--img-size", "32", "--batch-size", "2", "--epochs", "10"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    script = [sys.executable, "-c", "from zoo.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*script, *command, "--out", str(stopped)], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130, rest
    last = rest.splitlines()[-1]
    assert last.startswith("zoo: stopped by SIGINT: saved at step ") and "of 120" in last and "--resume" in last and str(stopped) in last
    assert "Traceback" not in rest and "epoch 10/" not in rest

    assert zoo(*command, "--out", whole).code == 0
    assert zoo(*command, "--out", stopped, "--resume").code == 0
    assert _sha256(stopped) == _sha256(whole)
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    "words, says",
    [
        (["effnet_se_test", "--loss", "siglip"], "effnet_se_test is a classifier; it has no --loss"),
        (["image=effnet_se_test", "text=bag", "--mixup", "0.2"], "is a joint embedding; it has no --mixup"),
    ],
)
def test_an_option_of_the_other_kind_is_refused(train_mistake, words, says):
    assert says in train_mistake(*words)


def test_transfer_options_arrive(zoo, classifier, disk, tmp_path):
    words = ("--init", classifier, "--freeze", "stem,blocks.0-1", "--unfreeze-at", "2", "--layer-decay", "0.75", "--sample", "balanced")
    words += ("--mean", "0.5", "--std", "0.4,0.5,0.6", "--teacher", classifier, "--distill-alpha", "0.3", "--distill-temperature", "4")
    words += ("--patience", "5", "--img-size", "32", "--batch-size", "12", "--epochs", "2")
    said = zoo("train", "effnet_cbam_test", "--data", disk.manifest, "--out", tmp_path / "run", *words)
    assert said.code == 0, said.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    written, mean, std = config["zoo"], config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]
    expected = {"init": str(classifier), "freeze": ["stem", "blocks.0-1"], "unfreeze_at": 2, "layer_decay": 0.75, "sample": "balanced"}
    expected |= {"teacher": str(classifier), "distill_alpha": 0.3, "distill_temperature": 4.0, "patience": 5}
    assert {key: written[key] for key in expected} == expected and mean == [0.5] * 3 and std == [0.4, 0.5, 0.6]
    assert zoo("eval", tmp_path / "run" / "best", "--json").json["rows"] == 8


def test_find_lr_trains_nothing(zoo, disk, tmp_path, classifier):
    said = zoo("train", "effnet_eca_test", "--data", disk.manifest, "--img-size", "32", "--batch-size", "8", "--find-lr")
    assert said.code == 0 and "suggested: " in said.err and "loss" in said.out + said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, told",
    [
        (("--freeze", "trnk"), "trunk"),
        (("--unfreeze-at", "1"), "between 2 and"),
        (("--mean", "a"), "one number or three"),
        (("--std", "0"), "one number or three"),
        (("--init", "nothing.safetensors"), "no such file"),
        (("--distill-alpha", "0.3"), "give --teacher as well"),
        (("--layer-decay", "2"), "a factor in"),
        (("--sample", "odd"), "expected one of all, balanced"),
    ],
)
def test_transfer_mistakes(train_mistake, words, told):
    assert told in train_mistake("effnet_cbam_test", *words)
