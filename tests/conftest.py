"""What every test starts from: a fixed seed; a way to try out a name without leaving it behind; and a browser to look at pages with."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # small networks are no faster with two, and beside another process much slower


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def forget_attention():
    """An attention that is registered during the test is afterwards known neither to our registry nor to timm's."""
    from timm.models import _registry as timms

    from registry import ATTENTION
    from zoo.backbones import VARIANTS, effnet

    known = set(ATTENTION._things)
    yield
    for name in set(ATTENTION._things) - known:
        ATTENTION._things.pop(name)
        for model in (f"effnet_{name}_{variant}" for variant in VARIANTS):
            timms._model_entrypoints.pop(model, None)
            timms._clear_model_entries(model)
            effnet.default_cfgs.pop(model, None)
            vars(effnet).pop(model, None)
            if model in effnet.__all__:
                effnet.__all__.remove(model)


@dataclass
class Shown:
    """A page that is open in a browser.

    Args:
        page: playwright's.
        errors: what stood in its console, and what was thrown.
        asked: the addresses of everything that it asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def faults(self, question: str, *arguments: Any) -> list[str]:
        """Elements that fail: "overflowing", "faint" (least contrast), "unnamed", "headings" or "ids", of browser.js."""
        asks = Path(__file__).with_name("browser.js").read_text().partition("\n")[2].strip()
        answer = f"([question, given]) => {{ const asks = {asks}; return asks[question](...given); }}"
        return self.page.evaluate(answer, [question, arguments])


@pytest.fixture(scope="session")
def chromium():
    """The Chromium of the system, headless; never one that playwright would download."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    where = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if where is None:
        pytest.skip("there is no chromium on this machine: apt install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium):
    """show(url, width=390, theme="dark"): the page, open; it is closed when the test ends."""
    contexts = []

    def open_page(url: str, *, width: int = 1440, theme: str = "light", **context: Any) -> Shown:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **context))
        shown = Shown(contexts[-1].new_page())
        shown.page.on("console", lambda message: shown.errors.append(message.text) if message.type in ("error", "warning") else None)
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on("request", lambda request: shown.asked.append(request.url))
        shown.page.goto(url)
        return shown

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def try_attention(forget_attention):
    """register(name, cls): an attention for the length of one test."""
    from registry import ATTENTION

    return lambda name, thing: ATTENTION.register(name)(thing)
