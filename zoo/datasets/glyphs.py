"""glyphs: 1,149 characters drawn from the fonts that matplotlib ships, each with its Unicode name, "greek small letter alpha".

Real drawings by type designers, real names, no download: a small honest picture-text set. The characters are the letters, numbers,
symbols and punctuation marks that DejaVu Sans, Sans Mono and Serif and STIX General all have. The twelve DejaVu faces are for training,
STIX General is held out: eval asks for a design that was never seen. (Never the LastResort font: it draws one box for a whole Unicode
block.)

Latin A, Greek Alpha and Cyrillic A are one drawing, so no picture can tell their names apart. Characters whose pictures agree in any one
of the four regular faces share an `id`, in both splits. One face is enough: a picture was seen to which each name is a right answer. The
held-out face counts too: a question that only eval makes unanswerable would be as unfair.
"""

import functools
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from registry import DATASETS

from .components import components
from .data import Data, Row, Split

TRAIN_FACES = tuple(
    f"{family}{style}.ttf"
    for family, styles in {
        "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)
EVAL_FACES = ("STIXGeneral.ttf",)
REGULAR_FACES = ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "STIXGeneral.ttf")

SIZE = 64  # pixels a side: halved, it is the 32 that networks are trained at
EM = 48  # font size: from the accents on capitals to the descenders it is about 60 pixels, which leaves the margin
BASELINE = 49
MARGIN = 2
ALIKE = 0.005  # of the ink: the nearest pair above is at 0.0083 (Greek pi, Cyrillic pe), the farthest pair below at 0.0015

_COMMON = (
    "Aα70123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩαβγδεζηθικλμνξοπρσςτυφχψω"
    "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя"
)


def draw(face: str, character: str) -> Image.Image:
    """The character in black on white, mode L, SIZE x SIZE.

    The middle of the advance width is the middle of the picture and the baseline is a fixed row, so that size and place are as in a line of
    text (comma and apostrophe differ by nothing else). What would leave the picture is moved in, what is too large is scaled down.

    Args:
        face: path of the font file.
        character: one character that the font has.
    """
    mask, (left, top) = _font(face).getmask2(character, mode="L", anchor="ms")
    ink = Image.frombytes("L", mask.size, bytes(mask))
    picture = Image.new("L", (SIZE, SIZE), 255)
    box = ink.getbbox()
    if box is None:
        return picture
    ink = ink.crop(box)
    centre_x, centre_y = SIZE / 2 + left + (box[0] + box[2]) / 2, BASELINE + top + (box[1] + box[3]) / 2
    scale = (SIZE - 2 * MARGIN) / max(ink.size)
    if scale < 1:
        ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX)
    x = min(max(round(centre_x - ink.width / 2), MARGIN), SIZE - MARGIN - ink.width)
    y = min(max(round(centre_y - ink.height / 2), MARGIN), SIZE - MARGIN - ink.height)
    picture.paste(0, (x, y), ink)
    return picture


def shared_characters(faces: list[str]) -> str:
    """The letters, numbers, symbols and punctuation marks that every one of these font files has, in the order of their code points."""
    shared = frozenset.intersection(*(_characters(face) for face in faces))
    return "".join(sorted(each for each in shared if unicodedata.category(each)[0] in "LNSP" and unicodedata.name(each, "") != ""))


def lookalikes(pictures: np.ndarray) -> np.ndarray:
    """`[characters]`: for every character the first one that it cannot be told from.

    Two look alike if in some face the squared difference of their pictures, at the halved size that networks see, is below ALIKE of the ink
    of the fainter one. (Equal bitmaps would miss pairs that the rasteriser's rounding sets apart by a shade of grey.)

    Args:
        pictures: `[faces, characters, SIZE, SIZE]` uint8, black on white.
    """
    faces, count = pictures.shape[:2]
    pairs: list[tuple[int, int]] = []
    for face in pictures:
        dark = (255 - face).reshape(count, SIZE // 2, 2, SIZE // 2, 2).mean((2, 4), dtype=np.float32).reshape(count, -1) / 255
        ink, square = dark.sum(1), (dark * dark).sum(1)
        difference = square[:, None] + square[None, :] - 2 * dark @ dark.T
        a, b = np.nonzero(difference < ALIKE * np.minimum.outer(ink, ink))
        pairs += [(int(i), int(j)) for i, j in zip(a, b, strict=True) if i < j]
    return components(count, pairs)


@dataclass(frozen=True)
class _Glyphs:
    faces: tuple[str, ...]
    characters: str
    rows: np.ndarray  # [rows, 2]: which face, which character

    def __call__(self, index: int) -> Row:
        face, character = self.rows[index]
        return {"image": draw(self.faces[face], self.characters[character]).convert("RGB"), **self.cells(index)}

    def cells(self, index: int) -> Row:
        return {"text": unicodedata.name(self.characters[self.rows[index, 1]]).lower()}


@DATASETS.register("glyphs")
def glyphs(characters: int | None = None) -> Data:
    """Rows `image` (64x64, black on white) and `text` (the Unicode name in lower case).

    Args:
        characters: how many; all by default. The common ones come first: Latin capital A, Greek small alpha and seven, then digits, the
            Latin, Greek and Cyrillic alphabets, then the rest by code point.

    Raises:
        ValueError: more characters than there are, or fewer than two.
        FileNotFoundError: matplotlib is installed without its fonts.
    """
    folder = _font_folder()
    train_faces, eval_faces, regular = ([str(folder / face) for face in faces] for faces in (TRAIN_FACES, EVAL_FACES, REGULAR_FACES))
    everything = shared_characters(regular)
    count = len(everything) if characters is None else characters
    if not 2 <= count <= len(everything):
        raise ValueError(f"glyphs: characters={characters}; expected 2 to {len(everything)}")
    chosen = "".join(dict.fromkeys([c for c in _COMMON if c in everything] + list(everything)))[:count]
    ids = lookalikes(np.stack([[np.asarray(draw(face, character)) for character in chosen] for face in regular]))

    def split(faces: list[str]) -> Split:
        held = [_characters(face) for face in faces]
        rows = np.array([(f, c) for f in range(len(faces)) for c in range(count) if chosen[c] in held[f]])
        reader = _Glyphs(tuple(faces), chosen, rows)
        return Split(len(rows), reader, ("image", "text"), ids=ids[rows[:, 1]], cells=reader.cells)

    return Data(
        name="glyphs" if characters is None else f"glyphs:characters={characters}",
        train=split(train_faces),
        eval=split(eval_faces),
        img_size=32,
        augment="shift",
        about=f"{count:,} characters and their Unicode names; twelve DejaVu faces to train on, STIX General held out",
    )


@functools.cache  # a font is opened once in every process: it does not travel to the workers of a DataLoader
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face, EM, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _characters(face: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(chr(code) for code, glyph in FT2Font(face).get_charmap().items() if glyph != 0)  # glyph 0 is the box for "missing"


def _font_folder() -> Path:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for face in (*TRAIN_FACES, *EVAL_FACES):
        if not (folder / face).is_file():
            raise FileNotFoundError(f"{folder / face}: no such file; glyphs are drawn from fonts that matplotlib ships")
    return folder
