"""The page in a browser: it asks for nothing, nothing overflows, all can be read, and what can be clicked can be typed."""

import json
import shutil

import pytest

import zoo

WIDTHS, THEMES = (390, 1440), ("light", "dark")


@pytest.fixture(scope="module")
def url(classifier, joint, tmp_path_factory):
    """Of a classifier, a joint embedding, and a run that is not whole, side by side."""
    folder = tmp_path_factory.mktemp("report")
    broken = shutil.copytree(classifier, folder / "a-run-of-a-very-long-name-that-has-no-place-to-be-broken-anywhere-in-it-at-all")
    config = json.loads((broken / "config.json").read_text())
    config["zoo"] |= {"data": "/moved/away.csv", "epochs": 9}
    (broken / "config.json").write_text(json.dumps(config))
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "loss": NaN, "top1": 12.5}\n{"epoch": 4, "loss": 1.5, "top1": 13}\n')
    (broken / "card.json").write_text(json.dumps({"made": {}, "before": {"top1": 50.0, "macs": 1e7}, "after": {"top1": 40.0, "macs": 5e6}}))
    return zoo.write_report([classifier, joint, broken], folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def alone(joint, tmp_path_factory):
    return zoo.write_report([joint], tmp_path_factory.mktemp("report") / "joint.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_everything_can_be_seen_and_read(show, url, alone, width, theme):
    for address in (url, alone):
        shown = show(address, width=width, theme=theme)
        shown.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert shown.faults("overflowing") == []
        assert shown.faults("faint", 4.5) == []
        assert shown.faults("unnamed") == [] and shown.faults("headings") == [] and shown.faults("ids") == []
        assert shown.errors == [] and shown.page.evaluate("window.broken") is None
        assert [each for each in shown.asked if not each.startswith("data:")] == [address], "it is one file"


def test_the_questions_find_what_is_wrong(show):
    page = "<h2>low</h2><img src='data:,'><button></button><p style='color:%23999'>faint</p><p style='width:900px'>wide</p>"
    shown = show(f"data:text/html,<body>{page}<i id=a></i><i id=a></i></body>", width=390)
    for question, given in (("overflowing", ()), ("faint", (4.5,)), ("unnamed", ()), ("headings", ()), ("ids", ())):
        assert shown.faults(question, *given), question


def names(shown):
    return shown.page.eval_on_selector_all(".sortable tbody th", "(all) => all.map((each) => each.textContent.trim())")


def head(shown, name):
    return shown.page.locator("th[aria-sort]", has=shown.page.get_by_role("button", name=name, exact=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_sorts_by_click_and_by_key(show, url, width):
    shown = show(url, width=width)
    keys = "(all) => all.map((each) => each.dataset.key === undefined ? null : Number(each.dataset.key))"
    column = ".sortable td[data-label='Training, s']"
    button = head(shown, "Training, s").get_by_role("button")
    button.click()
    rising = shown.page.eval_on_selector_all(column, keys)
    assert rising == sorted(rising) and len(set(rising)) > 1 and head(shown, "Training, s").get_attribute("aria-sort") == "ascending"
    button.focus()
    shown.page.keyboard.press("Enter")
    assert shown.page.eval_on_selector_all(column, keys) == rising[::-1]
    assert head(shown, "Training, s").get_attribute("aria-sort") == "descending"
    shown.page.keyboard.press("Space")
    assert shown.page.eval_on_selector_all(column, keys) == rising
    head(shown, "Run").get_by_role("button").click()
    assert names(shown) == sorted(names(shown)) and head(shown, "Training, s").get_attribute("aria-sort") == "none"
    assert "Sorted by Run, ascending" in shown.page.locator(".sortable caption").text_content()


def test_what_has_no_number_comes_last_either_way(show, url):
    shown = show(url)
    recall = "(all) => all.map((each) => each.dataset.key === undefined)"
    for _ in range(2):
        head(shown, "Recall at 1, %").get_by_role("button").click()
        assert shown.page.eval_on_selector_all(".sortable td[data-label='Recall at 1, %']", recall) == [False, True, True]


def test_the_theme_switches(show, url):
    shown = show(url, theme="light")
    button, colour = shown.page.get_by_role("button", name="Dark theme"), "getComputedStyle(document.body).backgroundColor"
    light = shown.page.evaluate(colour)
    assert button.get_attribute("aria-pressed") == "false"
    button.focus()
    shown.page.keyboard.press("Enter")
    dark = shown.page.evaluate(colour)
    assert dark != light and button.get_attribute("aria-pressed") == "true" and shown.faults("faint", 4.5) == []
    button.click()
    assert shown.page.evaluate(colour) == light
    assert show(url, theme="dark").page.evaluate(colour) == dark


def test_the_keyboard_comes_everywhere_and_is_seen(show, alone):
    shown = show(alone)
    reached = []
    for _ in range(12):
        shown.page.keyboard.press("Tab")
        reached.append(shown.page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert shown.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none" or reached[-1] == "BODY", reached
    assert reached[0] == "skip" and {"theme", "SUMMARY"} <= set(reached)


def test_a_curve_tells_the_epoch_under_the_pointer(show, alone):
    shown = show(alone)
    chart = shown.page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg[role=img]").bounding_box()
    told = [chart.locator("output").first.text_content()]
    for across in (0.13, 0.9):
        shown.page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        told.append(chart.locator("output").first.text_content())
    assert told[1] != told[0] == told[2]
    assert "from {} to {}".format(*told[1:]) in chart.locator("svg[role=img]").get_attribute("aria-label")


def test_it_prints(show, url):
    shown = show(url, theme="dark")
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not shown.page.get_by_role("button", name="Dark theme").is_visible() and shown.faults("faint", 4.5) == []
    assert shown.page.pdf().startswith(b"%PDF")


def test_without_javascript_all_is_there(show, url):
    shown = show(url, java_script_enabled=False)
    assert shown.page.get_by_role("heading", level=1).text_content() == "3 runs side by side"
    assert shown.page.locator("article").count() == 3 and not shown.page.locator(".theme").is_visible()
