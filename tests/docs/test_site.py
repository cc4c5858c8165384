"""The site builds without a warning, asks nobody else for anything, and shows every public name."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import zoo
from registry import ATTENTION, HEADS, LOSSES, TOWERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs pip install 'effnet-zoo[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Asked(HTMLParser):
    """What a page loads by itself, as against what it links to."""

    def __init__(self):
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.urls.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(given["href"])


def asked(page: Path) -> list[str]:
    parser = Asked()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.urls


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 80
    assert {page.name: url for page in pages for url in asked(page) if re.match(r"(\w+:)?//", url)} == {}
    own = (site / "site" / "style.css").read_text()
    assert "url(" not in own and "@import" not in own


@pytest.mark.parametrize("shelf, entries", [("attention", ATTENTION), ("heads", HEADS), ("losses", LOSSES), ("towers", TOWERS)])
def test_every_entry_has_a_page_with_its_arguments(site, shelf, entries):
    index = (site / shelf / "index.html").read_text(encoding="utf-8")
    for name in entries:
        page = (site / shelf / f"{name}.html").read_text(encoding="utf-8")
        assert f'href="{name}.html"' in index and 'id="from-python"' in page, name
        if shelf == "attention":
            assert '<svg class="flow"' in page and 'id="numbers"' in page and "```flow" not in page, name


def test_generated_parts_are_in_place(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert '<svg class="house"' in home and '<svg class="flow"' in home and "<!-- picture" not in home


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: zoo\.(\w+)$", page, flags=re.MULTILINE))
    public = {name for name, thing in vars(zoo).items() if not name.startswith("_") and not inspect.ismodule(thing)}
    assert shown == public


def test_links_to_elsewhere_are_well_formed():
    """They are not followed: the tests have no network."""
    links = [
        link
        for page in (ROOT / "docs").rglob("*.md")
        for link in re.findall(r"\]\((\w+:[^)\s]*)\)", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    ]
    assert len(links) > 50
    assert [link for link in links if not re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/[\w.,/@~%#=?&+:-]*)?", link)] == []
