"""The page of `zoo serve`, as a browser shows it: docs/pictures/serve-search.png and docs/pictures/serve-classify.png.

    python docs/pictures/serve.py                                              trains two small runs first: minutes
    python docs/pictures/serve.py --joint runs/glyphs --classifier runs/digits

Needs the extras `serve` and `test`, and a Chromium on the PATH.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
QUERY = "greek capital letter omega"


def train(*arguments: str, out: Path) -> Path:
    subprocess.run([sys.executable, "-m", "zoo", "train", *arguments, "--out", str(out)], check=True)
    return out


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of the page of a run."""
    process = subprocess.Popen([sys.executable, "-m", "zoo", "serve", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                return
        raise SystemExit(f"zoo serve {run} did not begin")
    finally:
        process.terminate()
        process.wait()


def search(page: Page, out: Path) -> None:
    page.get_by_label("What to look for").fill(QUERY)
    page.keyboard.press("Enter")
    page.locator("#picture-results img").nth(11).wait_for()
    shoot(page, out / "serve-search.png")


def classify(page: Page, out: Path, folder: Path) -> None:
    import zoo

    upload(page, zoo.open_data("digits").eval[2]["image"], folder / "a digit.png")
    page.locator("#classes li").first.wait_for()
    if page.locator("#maps button").count():
        page.locator("#maps button").nth(1).click()
    shoot(page, out / "serve-classify.png")


def upload(page: Page, picture: Image.Image, file: Path) -> None:
    picture.save(file)
    page.locator("#file").set_input_files(file)


def shoot(page: Page, file: Path) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)  # bars grow
    page.screenshot(path=file, full_page=True)
    with Image.open(file) as picture:
        whole = picture.convert("RGB")
    whole.save(file, optimize=True)
    if file.stat().st_size > 250_000:
        whole.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--joint", type=Path, help="a joint run on glyphs")
    parser.add_argument("--classifier", type=Path, help="a classifier of digits")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--width", type=int, default=1080)
    parser.add_argument("--schemes", nargs=2, default=("light", "dark"), help="of the two pictures: light or dark")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium on the PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        here = Path(folder)
        joint = given.joint or train("image=effnet_cbam_test", "text=bag", "--data", "glyphs", "--epochs", "3", out=here / "glyphs")
        classifier = given.classifier or train("effnet_cbam_test", "--data", "digits", "--epochs", "8", out=here / "digits")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for run, scheme, draw in zip((joint, classifier), given.schemes, (search, classify), strict=True):
            with served(run) as address:
                page = browser.new_page(viewport={"width": given.width, "height": 640}, color_scheme=scheme)
                page.goto(address)
                draw(page, given.out, *((here,) if draw is classify else ()))
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
