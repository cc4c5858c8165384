"""Pictures and their names: trained on two vendors' emoji, searched in a third's, which was never seen. Writes emoji.md and emoji.json.

    python docs/results/emoji.py manifest EMOJI_FOLDER emoji.csv           one line a picture: what `zoo train --data` reads
    python docs/results/emoji.py start LITE0_WEIGHTS start                 real weights with CBAM grafted in: what `image=start/` reads
    python docs/results/emoji.py run emoji.csv start [--seeds 3]           the table, an hour and a half for each seed

EMOJI_FOLDER holds emoji.csv and a folder of 72 x 72 pictures a vendor. A name is a row's caption; a picture that a vendor draws alike for
several emoji has one id, so that any of them counts as found.
"""

import csv
from pathlib import Path

import timm
from safetensors.torch import load_file

import zoo

HERE = Path(__file__).parent
TRAIN, EVAL = ("openmoji", "twemoji"), "noto"


def write_manifest(folder: Path, out: Path) -> None:
    with (folder / "emoji.csv").open(newline="") as file:
        emoji = list(csv.DictReader(file))
    with out.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "caption", "id", "split"])
        for vendor in (*TRAIN, EVAL):
            for row in emoji:
                if row[vendor] == "1":
                    same = row[f"dup_{vendor}"] or row["hexcode"]
                    known = f"{EVAL}-{same}" if vendor == EVAL else same
                    picture = (folder / vendor / f"{row['hexcode']}.png").resolve()
                    lines.writerow([picture, row["name"], known, "eval" if vendor == EVAL else "train"])


def write_start(weights: Path, out: Path) -> None:
    """The real network with a CBAM in each block that gives way to it during the training: at first it computes what it did."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    network.load_state_dict(load_file(weights))
    print(zoo.swap_attention(network, "cbam", keep="graft"))
    zoo.save_model(network, out)


def open_clip_loss(a: torch.Tensor, b: torch.Tensor, *, logit_scale: torch.Tensor, logit_bias: Any = None, ids: Any = None) -> torch.Tensor:
    """open_clip's own loss, as its trainer calls it in one process. It knows no ids: two pictures of one name push each other's texts away."""
    from open_clip.loss import ClipLoss

    return ClipLoss()(a, b, logit_scale[0])


open_clip_loss.init_logit_scale = math.log(1 / 0.07)  # type: ignore[attr-defined]  # open_clip's; clamped to ln 100 after each step, as ours
open_clip_loss.init_logit_bias = None  # type: ignore[attr-defined]


def trained(data: zoo.datasets.Data, image: str, loss: Any, config: zoo.TrainConfig) -> dict[str, float]:
    """One run: what `zoo train image=... text=transformer --data emoji.csv` does with the options of `RECIPE`."""
    seed_everything(config.seed)
    task = zoo.create_task({"image": image, "text": "transformer"}, data, loss=loss, **RECIPE)
    began = time.monotonic()
    metrics = zoo.fit(task, data.train, None, config)
    minutes = (time.monotonic() - began) / 60
    found = zoo.evaluate(task, data.eval)
    return {"minutes": minutes, "loss": metrics["loss"], **{way: found[way]["R@1"] for way in ("text->image", "image->text")}}
