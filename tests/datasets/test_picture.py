"""Pictures as a person sees them, made by hand in every mode, and files that are none."""

import numpy as np
import pytest
from PIL import Image

from zoo.datasets import read_picture
from zoo.datasets.picture import check_picture

GREYS = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def _pixels(path) -> np.ndarray:
    picture = read_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize(
    "orientation, turn", [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)]
)
def test_exif_orientation(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREYS).save(tmp_path / "a.png", exif=exif)
    assert (_pixels(tmp_path / "a.png") == turn(GREYS)[..., None]).all()


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (0, 102, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    red, rest = [255, round(255 * 0.6 + 200 * 0.4), 200], [255, round(255 * 0.6), 0]
    assert np.abs(_pixels(tmp_path / "a.png")[0].astype(int) - np.stack([red, rest, rest], 1)).max() <= 1

    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "grey.png")
    assert np.abs(_pixels(tmp_path / "grey.png")[0].astype(int) - np.stack([red] * 3, 1)).max() <= 1


def test_palette_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    picture.save(tmp_path / "clear.gif", transparency=1)
    assert _pixels(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert _pixels(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert _pixels(tmp_path / "clear.gif").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 257, 511, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert _pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 2, 128, 255]
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[0, :, 0].tolist() != [
        0,
        1,
        2,
        128,
        255,
    ]  # what Pillow alone makes of it

    Image.fromarray(GREYS.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match=r"float\.tiff: pixels of mode F have no known white; expected 8 or 16 bits"):
        read_picture(tmp_path / "float.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes(tmp_path, mode):
    Image.new("RGB", (3, 2), "white").convert(mode).save(tmp_path / "a.tiff")
    assert (_pixels(tmp_path / "a.tiff") == 255).all()


def test_what_is_no_picture_is_told_with_its_name(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "folder.jpg").mkdir()
    for read in (read_picture, check_picture):
        for name, why in {
            "gone.jpg": "no such file",
            "empty.jpg": "an empty file",
            "text.jpg": "not a picture in a format that Pillow knows",
            "folder.jpg": "a folder, not a picture",
        }.items():
            with pytest.raises(ValueError) as caught:
                read(tmp_path / name)
            assert str(caught.value) == f"{tmp_path / name}: {why}"


def test_a_cut_off_file_passes_the_header_and_fails_to_decode(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    check_picture(tmp_path / "cut.jpg")
    with pytest.raises(ValueError, match=r"cut\.jpg: .*truncated"):
        read_picture(tmp_path / "cut.jpg")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_an_animation_the_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(tmp_path / name) as opened:
        assert opened.n_frames == 3
    assert (_pixels(tmp_path / name) == (255, 0, 0)).all()


def test_cmyk_as_printers_write_it(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(_pixels(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() <= 3
