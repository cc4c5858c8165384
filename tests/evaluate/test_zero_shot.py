"""Zero-shot classification against loops and against the package clip-benchmark."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.evaluate import class_embeddings, zero_shot
from zoo.evaluate.zero_shot import TEMPLATES, read_templates

NAMES = ["cat", "dog", "sea horse", "barn_owl", "eel", "gnu", "yak"]


def unit(rows, width=8, seed=0):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def embed_text(texts):
    """A text tower of a kind: letters and their places, mixed; not of unit length."""
    letters = torch.zeros(len(texts), 64)
    for row, text in enumerate(texts):
        for place, letter in enumerate(text):
            letters[row, ord(letter) % 32 + 32 * (place % 2)] += 1 + place / 10
    return letters @ torch.randn(64, 8, generator=torch.Generator().manual_seed(9))


def task(rows=150):
    labels = torch.arange(rows) ** 2 % len(NAMES)  # some classes more often than others, some never
    classes = class_embeddings(NAMES, embed_text)
    images = F.normalize(classes.float()[labels] + 1.2 * unit(rows, seed=1), dim=-1)
    return images, labels, classes


def test_class_embeddings_against_loops():
    rows = []
    for name in NAMES:
        texts = [template.replace("{}", name.replace("_", " ")) for template in ("a {}", "{} and {}")]
        points = [embed_text([text])[0].double().numpy() for text in texts]
        mean = np.mean([point / math.sqrt((point**2).sum()) for point in points], axis=0)
        rows.append(mean / math.sqrt((mean**2).sum()))
    for batch_size in (3, 256):
        found = class_embeddings(NAMES, embed_text, templates=("a {}", "{} and {}"), batch_size=batch_size)
        assert found.numpy() == pytest.approx(np.array(rows), abs=1e-6)
    one = class_embeddings(NAMES, embed_text, templates=("a {}",))
    assert not torch.allclose(one, found, atol=1e-2), "the second template counts"


def test_a_long_text_weighs_no_more_than_a_short_one():
    """Each text is brought to unit length before the mean."""
    loud = class_embeddings(["x"], lambda texts: torch.tensor([[1.0, 0.0], [0.0, 100.0]]), templates=("{}", "{}!"))
    assert loud[0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)


def test_braces_in_names_and_templates_are_only_text():
    seen = []
    class_embeddings(["{0}", "a{}b"], lambda texts: seen.extend(texts) or torch.ones(len(texts), 2), templates=("{x} {}",))
    assert seen == ["{x} {0}", "{x} a{}b"]


@pytest.mark.parametrize("chunk", [7, 4096])
def test_against_loops(chunk):
    images, labels, classes = task()
    found = zero_shot(images, labels, classes, chunk=chunk)
    ranks = []
    for image, label in zip(images.double().numpy(), labels.tolist(), strict=True):
        scores = [np.float32(image @ each) for each in classes.numpy()]
        ranks.append(1 + sum(score >= scores[label] for other, score in enumerate(scores) if other != label))
    ranks = np.array(ranks)
    recalls = [np.mean(ranks[labels.numpy() == label] == 1) for label in set(labels.tolist())]
    assert found["top1"] == pytest.approx(100 * np.mean(ranks <= 1)) and found["top5"] == pytest.approx(100 * np.mean(ranks <= 5))
    assert found["mean_class_recall"] == pytest.approx(100 * np.mean(recalls))
    assert 30 < found["top1"] < found["top5"] < 100 and len(recalls) < len(NAMES) and found["mean_class_recall"] != found["top1"]
    assert found["chance"] == pytest.approx({"top1": 100 / 7, "top5": 500 / 7, "mean_class_recall": 100 / 7})


def test_against_clip_benchmark():
    """Its templates have {c} where ours have {}; underscores are ours alone. Its `accuracy` does not run with NumPy 2.4, which refuses
    float() of an array of one element: scikit-learn counts its predictions."""
    from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
    from sklearn.metrics import recall_score, top_k_accuracy_score

    images, labels, classes = task()

    class Given:
        encode_image = encode_text = staticmethod(lambda rows: rows)

    names = [name.replace("_", " ") for name in NAMES]
    templates = [template.replace("{}", "{c}") for template in TEMPLATES]
    weights = zero_shot_classifier(Given(), embed_text, names, templates, "cpu", amp=False)
    assert torch.allclose(weights.T.double(), classes, atol=1e-6)
    batches = list(zip(images.split(32), labels.split(32), strict=True))
    logits, truth = (each.numpy() for each in run_classification(Given(), weights, batches, "cpu", amp=False))
    ours = zero_shot(images, labels, classes)
    for k in (1, 5):
        theirs = top_k_accuracy_score(truth, logits, k=k, labels=range(len(NAMES)))
        assert ours[f"top{k}"] == pytest.approx(100 * theirs)
    recall = recall_score(truth, logits.argmax(1), labels=np.unique(truth), average="macro")
    assert ours["mean_class_recall"] == pytest.approx(100 * recall)


def test_a_tie_counts_against_the_model():
    same = torch.ones(4, 1)
    assert zero_shot(torch.ones(8, 1), torch.arange(8) % 4, same)["top1"] == 0


def test_no_top5_where_it_says_nothing():
    assert "top5" not in zero_shot(torch.eye(5), torch.arange(5), torch.eye(5))
    assert zero_shot(torch.eye(6), torch.arange(6), torch.eye(6))["top5"] == 100


def test_templates_of_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("a {}.\n\n  une photo d'un {} à la plage \n", encoding="utf-8")
    assert read_templates(file) == ("a {}.", "une photo d'un {} à la plage")
    file.write_text("a {}.\na photo\n")
    with pytest.raises(ValueError, match="templates.txt, line 2: 'a photo' has no {} for the class name"):
        read_templates(file)
    file.write_text("\n\n")
    with pytest.raises(ValueError, match="no templates; expected lines such as 'a photo of a {}.'"):
        read_templates(file)
    with pytest.raises(FileNotFoundError):
        read_templates(tmp_path / "gone.txt")


def test_bad_input():
    images, labels, classes = task()
    broken = images.clone()
    broken[3, 0] = float("inf")
    for arguments, message in [
        ((broken, labels, classes), "1 of 150 images have embeddings that are not finite"),
        ((images, labels[:3], classes), r"labels \[N\], got \[150, 8\] and \[3\]"),
        ((images, labels, classes[:, :5]), r"expected classes \[C, 8\]"),
        ((images, labels + 7, classes), "is none of 7 classes"),
        ((images, labels - 1, classes), "label -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            zero_shot(*arguments)
    for names, embed, templates, message in [
        ([], embed_text, TEMPLATES, "got 0 and 7"),
        (NAMES, embed_text, (), "got 7 and 0"),
        (NAMES, embed_text, ("a photo",), "template 'a photo' has no {}"),
        (NAMES, lambda texts: torch.zeros(len(texts), 3), TEMPLATES, "class 'cat': its texts cancel out or are not finite"),
        (NAMES, lambda texts: torch.full((len(texts), 3), torch.nan), TEMPLATES, "class 'cat'"),
    ]:
        with pytest.raises(ValueError, match=message):
            class_embeddings(names, embed, templates=templates)
