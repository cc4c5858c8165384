"""The page as text: what it holds, that it needs nothing else, and that no name gets out of its place."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zoo.deploy.network_speed import Cell
from zoo.deploy.rounds import Spread
from zoo.report import Examined, Journal, Subject, page
from zoo.report.confusion import confusion
from zoo.report.mistakes import Guess
from zoo.report.retrieved import Example, Item, Retrieved

EVIL = "<script>window.broken = 1</script>\"'><img src=x onerror=window.broken=2>{{ 7 * 7 }}"
DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="


def subject(
    name="a run", *, epochs=({"epoch": 1.0, "loss": 1.0, "top1": 50.0, "lr": 0.1, "seconds": 2.0},), classes=("a", "b"), **settings
):
    config = {"zoo": {"task": "classify", "model": "m", "data": "d", "img_size": 32, "augment": "none", "epochs": 1, "seed": 0, **settings}}
    return Subject(name, Journal(Path("runs") / name, {**config, "label_names": list(classes)}, epochs, None, {}, False, {}, ()))


def cell(network, milliseconds):
    spread = Spread(milliseconds, milliseconds, milliseconds)
    numbers = dict.fromkeys(("p50", "p95", "p99"), milliseconds)
    times = {"latency": spread, "processor": spread, "images_per_second": spread, "rounds": (), "rounds_processor": ()}
    about = {"pixels": 32, "bytes": 1, "parameters": 2, "macs": 3, "worth": None, "calls": 4, "faster": None, "faster_processor": None}
    return Cell(network, "eager", 1, **about, **numbers, **times)


class Elements(HTMLParser):
    """Every element: (tag, attributes)."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_a_run_in_one_file():
    html = page([subject()], [Examined()], {"a run": cell("a run", 12.5)})
    elements = Elements(html)
    assert "zoo train m --data d" in html and "50.0" in html and "12.5" in html and "<h1><bdi>a run</bdi></h1>" in html
    assert html.startswith("<!doctype html>") and "\ufffd" not in html
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert len(elements.of("script")) == 1 and "http" not in re.sub(r"http-equiv", "", html)
    assert not elements.of("table") or all("scope" in each for each in elements.of("th"))
    assert html.count("<table") == html.count("<caption")


def test_names_do_not_get_out_of_their_places():
    examined = Examined(
        metrics={"top1": 1.0},
        confusion=confusion([[0, 3], [1, 0]], [EVIL, "b"]),
        wrong=1,
        mistakes=(Guess(0, EVIL, EVIL, 0.5, DOT, EVIL),),
        retrieved=(Retrieved(EVIL, "b", 1, 1, (Example(Item("", EVIL), (Item("", EVIL),), 1, 1),), ()),),
        notes=(EVIL,),
        look_notes=(EVIL,),
    )
    runs = [subject(EVIL, classes=(EVIL, "b"), model=EVIL, opt=EVIL, data=EVIL), subject("other")]
    html = page(runs, [examined, Examined()], {EVIL: cell(EVIL, 1.0)}, speed_notes=[EVIL])
    elements = Elements(html)
    assert "<script>window.broken" not in html and "<img src=x" not in html and "{{ 7 * 7 }}" in html and "49" not in html
    assert len(elements.of("script")) == 1 and len(elements.of("img")) == 1 and html.count("&lt;script&gt;window.broken") > 10
    assert not any("onerror" in attributes for _, attributes in elements.found)


def test_surrogates_and_control_characters_can_be_written():
    html = page([subject("a\udcffb\x00c")], [Examined()], {})
    assert b"a?b" in html.encode("utf-8", "replace")


def test_nothing_but_a_config():
    html = page([subject(epochs=(), data=None)], [Examined(notes=("Its data are not at hand.",))], {})
    assert "Its data are not at hand." in html and "not written down" in html and "No epoch has ended yet" in html and "<svg" not in html
    assert "0 of 1 epochs are there: it was stopped" in html


def test_numbers_that_are_none():
    nan = {"epoch": 1.0, "loss": math.nan, "top1": math.nan, "lr": math.nan}
    html = page(
        [subject(epochs=(nan,)), subject("b", epochs=(nan,))], [Examined(), Examined(metrics={"top1": math.nan, "loss": math.nan})], {}
    )
    assert "nan" not in re.sub(r"<script>.*</script>", "", html, flags=re.S).lower().replace("finance", "")
    half = ({"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": math.inf}, {"epoch": 3.0, "loss": 1.0})
    assert "No number in epoch 2." in page([subject(epochs=half)], [Examined()], {})


def test_a_thousand_classes():
    counts = [[5 * (row == column) for column in range(1000)] for row in range(1000)]
    counts[3][7] = 2
    classes = [f"class {number}" for number in range(1000)]
    examined = Examined(metrics={"top1": 99.0}, confusion=confusion(counts, classes))
    html = page([subject(classes=classes)], [examined], {})
    assert "1,000 classes are too many for a matrix." in html and "class 3" in html and "2 of 7" in html and len(html) < 100_000


def test_a_card_and_several_runs():
    pruned = subject("half")
    card = {"made": {"verb": "prune"}, "before": {"top1": 98.0, "macs": 9e6}, "after": {"top1": 97.5, "macs": 4.5e6}}
    pruned = Subject("half", Journal(**{**vars(pruned.journal), "card": card}))
    html = page([subject(), pruned], [Examined(), Examined()], {"a run": cell("a run", 3.0), "half": cell("half", 1.0)})
    assert "-0.5 points" in html and "× 0.50" in html and "9.00 M" in html and "2 runs side by side" in html
    elements = Elements(html)
    sorts = [each for each in elements.of("th") if "aria-sort" in each]
    assert len(sorts) >= 5 and all(each["scope"] == "col" for each in sorts)
    keys = [each["data-key"] for each in elements.of("td") if each.get("data-label") == "Latency, ms"]
    assert keys == ["3.0", "1.0"]


@pytest.mark.parametrize("others", [0, 1])
def test_headings_come_in_order(others):
    html = page([subject(f"run {number}") for number in range(others + 1)], [Examined()] * (others + 1), {})
    levels = [int(tag[1]) for tag, _ in Elements(html).found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
