"""Uploads to pictures: the allowed formats as `zoo predict` reads them, and nothing else."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo.datasets import read_picture
from zoo.serve import Limits
from zoo.serve.pictures import FORMATS, decode, encode
from zoo.serve.problem import Problem


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header says so, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_is_what_a_file_of_it_would_be(kind, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    file = tmp_path / "picture"
    noise.save(file, kind)
    assert np.array_equal(np.asarray(decode(file.read_bytes(), Limits())), np.asarray(read_picture(file)))


def test_a_camera_held_upright_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), Limits()).size == (20, 40)
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), Limits()).getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_is_its_first_frame():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue(), Limits()).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1001, 1000), (30_000, 30_000), (2**31 - 1, 2**31 - 1), (1, 2_000_000)])
def test_too_many_pixels_by_the_header_alone(size, monkeypatch):
    from zoo.serve import pictures

    decoded = []
    monkeypatch.setattr(pictures, "as_seen", decoded.append)
    with pytest.raises(Problem) as refused:
        decode(png_of(*size), Limits(pixels=1_000_000))
    assert refused.value.status == 413 and not decoded
    decode(png_of(1000, 1000), Limits(pixels=1_000_000))
    assert decoded  # the guard of this test: what is allowed is decoded


def test_text_that_unpacks_to_a_gigabyte():
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    bomb += chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000)))
    with pytest.raises(Problem) as refused:
        decode(bomb, Limits())
    assert refused.value.status == 422


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA", "PDF", "EPS", "PCX"])
def test_other_formats_are_not_tried(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    with pytest.raises(Problem, match="no picture") as refused:
        decode(buffer.getvalue(), Limits())
    assert refused.value.status == 422 and "JPEG" in refused.value.refusal.error.expected


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_off(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    content = buffer.getvalue()
    for length in (0, 1, 4, 20, len(content) // 2, len(content) * 3 // 4):
        with pytest.raises(Problem) as refused:
            decode(content[:length], Limits())
        assert refused.value.status == 422


def test_small_pictures_are_sent_exactly_and_large_ones_smaller():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    content, kind = encode(noise, 256)
    assert kind == "image/png" and np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(noise))
    content, kind = encode(noise.resize((900, 600)), 256)
    assert kind == "image/jpeg" and Image.open(io.BytesIO(content)).size == (256, 171)
