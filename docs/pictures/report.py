"""The pictures of docs/report.md: the report of the demo's runs in headless Chromium, as PNGs beside this file.

zoo demo && python docs/pictures/report.py [RUNS]        RUNS: where the demo's runs are, runs/demo by default
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import zoo

HERE = Path(__file__).parent
MOST = 300_000  # bytes of a picture
RUNS = ("digits-cbam", "digits-se", "glyphs")


def save(page: Any, name: str, top: float, height: int) -> None:
    """What stands in the page from `top` on, in at most 256 colours."""
    from PIL import Image

    width = page.viewport_size["width"]
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": width, "height": height})))
    path = HERE / f"report-{name}.png"
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {picture.width} x {picture.height}, {size:,} bytes")
    if size > MOST:
        raise SystemExit(f"{path} is too large for the repository: expected at most {MOST:,} bytes")


def main(runs: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no chromium on this machine: apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        several = zoo.write_report([runs / name for name in RUNS], Path(folder) / "several.html").as_uri()
        one = zoo.write_report([runs / RUNS[0]], Path(folder) / "one.html").as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def shown(url: str, width: int, theme: Any, scale: float = 1) -> Any:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme, device_scale_factor=scale)
            page.goto(url)
            return page

        save(shown(several, 1280, "light"), "light", 0, 1500)
        dark = shown(one, 1280, "dark")
        save(dark, "dark", dark.locator("#run-1-confusion").bounding_box()["y"] - 44, 1230)
        phone = shown(several, 390, "light", 2)
        save(phone, "phone", phone.locator("#run-3-retrieval").bounding_box()["y"] - 24, 1500)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo"))
