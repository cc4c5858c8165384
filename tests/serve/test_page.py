"""The page in a real browser: what a person types, drops and sees; on a phone and on a desk; in the light and in the dark."""

import os

import pytest
from PIL import Image

from .conftest import running

WIDTHS = (390, 1440)


@pytest.fixture
def open_page(chromium):
    """open_page(url, width=390): a page; at the end nothing may have been written to its console, nor asked of another server."""
    opened = []

    def open_page(url, width=1440, scheme="light"):
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        wrong: list[str] = []
        own = (url.removesuffix("/docs") + "/", "blob:", "data:")
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(own) else None)
        opened.append((page, wrong))
        page.goto(url, wait_until="networkidle")
        return page

    yield open_page
    for page, wrong in opened:
        assert wrong == []
        page.close()


def fits(page) -> bool:
    """Nothing is wider than the window, and no element sticks out of it."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll("body *")].every(each => {
            const box = each.getBoundingClientRect();
            const unseen = !box.width || getComputedStyle(each).clipPath !== "none" || each.closest("pre");
            return unseen || (box.left >= 0 && box.right <= innerWidth + .5);
        })"""
    )


def wait_for_pictures(page, images) -> None:
    """Until all are there; it fails where one does not come."""
    script = "selector => [...document.querySelectorAll(selector)].every(each => each.complete && each.naturalWidth > 0)"
    page.wait_for_function(script, arg=images, timeout=20_000)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_text_finds_pictures(searching, open_page, width):
    page = open_page(searching.url, width)
    assert page.title().startswith("joint") and fits(page)
    page.keyboard.press("Tab")  # the link to the API
    page.keyboard.press("Tab")
    page.keyboard.type("dark picture 26")  # the keyboard alone is enough
    page.keyboard.press("Enter")
    results = page.locator("#picture-results li")
    results.first.wait_for()
    wait_for_pictures(page, "#picture-results img")
    assert results.count() == 8 and fits(page)
    assert all(page.locator("#picture-results img").evaluate_all("images => images.map(each => each.alt)"))
    assert "dark picture 26" in page.get_by_role("status").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_finds_pictures_and_texts(searching, open_page, manifest, width):
    page = open_page(searching.url, width, "dark")
    page.locator("#file").set_input_files(manifest.parent / "26.png")
    page.locator("#text-results li").first.wait_for()
    assert page.locator("#picture-results .words").first.inner_text() == "dark picture 26"
    assert page.locator("#text-results li").count() == 5 and fits(page)


def test_an_example_a_paste_and_a_drop(searching, open_page, manifest):
    page = open_page(searching.url)
    chip = page.locator("#examples button").first
    chip.click()
    page.locator("#picture-results li").first.wait_for()
    assert page.locator("#text").input_value() == chip.inner_text()
    for kind in ("paste", "drop"):
        page.evaluate("document.getElementById('text-results').replaceChildren()")
        page.evaluate(
            """async ([kind, numbers]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(numbers)], "it.png", {type: "image/png"}));
                const options = {bubbles: true, cancelable: true};
                document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, {...options, clipboardData: data})
                                                             : new DragEvent(kind, {...options, dataTransfer: data}));
            }""",
            [kind, list((manifest.parent / "25.png").read_bytes())],
        )
        page.locator("#text-results li").first.wait_for()
        assert page.locator("#picture-results .words").first.inner_text() == "bright picture 25"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_is_classified(classifying, open_page, manifest, width):
    page = open_page(classifying.url, width)
    assert not page.locator("#words").is_visible() and fits(page)
    page.locator("#file").set_input_files(manifest.parent / "25.png")
    page.locator("#classes li").first.wait_for()
    assert page.locator("#classes li").count() == 2 and page.locator("#classes .number").first.inner_text().endswith("%")
    maps = page.locator("#maps button")
    wait_for_pictures(page, "#maps img")
    assert maps.count() >= 2 and fits(page)
    before = page.locator("#seen").get_attribute("src")
    maps.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#seen").get_attribute("src") != before and maps.nth(1).get_attribute("aria-pressed") == "true"


def test_what_cannot_be_read_is_told(classifying, chromium, tmp_path):
    page = chromium.new_page()  # the refusals stand in its console
    page.goto(classifying.url)
    (tmp_path / "a.png").write_bytes(b"no picture")
    page.locator("#file").set_input_files(tmp_path / "a.png")
    page.get_by_role("alert").wait_for()
    assert "no picture" in page.get_by_role("alert").inner_text()
    (tmp_path / "large.bmp").write_bytes(os.urandom(400_000))
    page.locator("#file").set_input_files(tmp_path / "large.bmp")
    page.get_by_text("at most 0.3 MB").wait_for()
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png")
    page.locator("#file").set_input_files(tmp_path / "b.png")
    page.locator("#classes li").first.wait_for()
    assert not page.get_by_role("alert").is_visible()
    page.close()


def test_words_of_rows_are_only_words(joint, open_page, monkeypatch):
    """A caption that is a program is shown, and not run."""
    from dataclasses import replace

    evil = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"
    search = joint.search
    monkeypatch.setattr(joint, "search", lambda *given: [replace(each, words=evil) for each in search(*given)])
    with running(joint) as server:
        page = open_page(server.url)
        page.locator("#text").fill("dark")
        page.keyboard.press("Enter")
        page.locator("#picture-results li").first.wait_for()
        assert page.locator("#picture-results .words").first.inner_text() == evil and page.title() != "run"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_can_be_asked(searching, open_page, width):
    page = open_page(f"{searching.url}/docs", width)
    page.get_by_text("/v1/search", exact=True).wait_for()
    assert page.locator("article").count() == 7 and fits(page)


def test_a_token_leaves_the_address(joint, chromium):
    token = "sixteen-letters-or-more"
    with running(joint, token=token, hosts=None) as server:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.locator("#examples button").first.click()
        page.locator("#picture-results img").first.wait_for()
        page.wait_for_load_state("networkidle")
        wait_for_pictures(page, "#picture-results img")
        assert token not in page.url
        page.goto(f"{server.url}/docs")
        page.get_by_text("/v1/search", exact=True).wait_for()
        context.close()


def test_bars_and_words_can_be_told_from_the_ground(searching, open_page):
    """WCAG AA: text at 4.5 to 1, in both schemes."""

    def light(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        page = open_page(searching.url, scheme=scheme)
        ground = light(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        for what in ("h1", "#about", "nav a", ".chips .quiet", ".drop b", ".drop .quiet"):
            ink = light(page.locator(what).first.evaluate("each => getComputedStyle(each).color"))
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, (scheme, what)
