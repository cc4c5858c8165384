"""glyphs: counted with fontTools, drawn with matplotlib's own rasteriser, and carried to a fresh process."""

import pickle
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from registry import DATASETS
from zoo.datasets import glyphs as module
from zoo.datasets.glyphs import EVAL_FACES, REGULAR_FACES, SIZE, TRAIN_FACES, draw, glyphs, lookalikes

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def data():
    return DATASETS["glyphs"]()


def _ids_by_name(data) -> dict[str, int]:
    return {data.eval[index]["text"]: int(data.eval.ids[index]) for index in range(len(data.eval))}


def test_the_characters_that_the_four_fonts_share(data):
    ttlib = pytest.importorskip("fontTools.ttLib")
    maps = [set(ttlib.TTFont(FONTS / face).getBestCmap()) for face in REGULAR_FACES]
    shared = [chr(code) for code in set.intersection(*maps) if unicodedata.category(chr(code))[0] in ("L", "N", "S", "P")]
    assert len(shared) == len(data.eval) == 1149
    assert sorted(row["text"] for row in data.eval) == sorted(unicodedata.name(each).lower() for each in shared)

    per_face = Counter(data.train.read.rows[:, 0].tolist())
    for index, face in enumerate(TRAIN_FACES):
        assert per_face[index] == len(set(shared) & {chr(code) for code in ttlib.TTFont(FONTS / face).getBestCmap()})
    assert len(data.train) == sum(per_face.values()) > 12 * 1140


def test_train_is_dejavu_and_eval_is_stix(data):
    assert len(TRAIN_FACES) == 12 and all(face.startswith("DejaVu") for face in TRAIN_FACES)
    assert EVAL_FACES == ("STIXGeneral.ttf",)
    assert {Path(face).name for face in data.train.read.faces} == set(TRAIN_FACES)
    assert {Path(face).name for face in data.eval.read.faces} == set(EVAL_FACES)
    assert data.name == "glyphs"
    assert (data.classes, data.img_size, data.augment, data.columns) == (None, 32, "shift", ("image", "text"))
    row = data.eval[0]
    assert (row["image"].mode, row["image"].size) == ("RGB", (SIZE, SIZE))


def test_lookalikes_share_an_id_and_others_do_not(data):
    ids = _ids_by_name(data)
    for same in (
        ("latin capital letter a", "greek capital letter alpha", "cyrillic capital letter a"),
        ("latin small letter o", "greek small letter omicron", "cyrillic small letter o"),
        ("greek capital letter omega", "ohm sign"),
        ("hyphen-minus", "hyphen"),
        ("latin small letter e with diaeresis", "cyrillic small letter io"),
    ):
        assert len({ids[name] for name in same}) == 1, same
    for other in (
        ("latin capital letter a", "latin small letter a", "greek small letter alpha"),
        ("digit zero", "latin capital letter o"),
        ("digit one", "latin small letter l"),
        ("comma", "apostrophe", "right single quotation mark"),
        ("left half block", "right half block", "full block"),
        ("full stop", "middle dot"),
        ("latin capital letter e with breve", "latin capital letter e with caron"),
    ):
        assert len({ids[name] for name in other}) == len(other), other
    assert max(Counter(ids.values()).values()) <= 4
    assert 1050 < len(set(ids.values())) < 1080


def test_an_id_is_the_same_character_in_both_splits(data):
    ids = _ids_by_name(data)
    for index in range(0, len(data.train), 97):
        assert data.train.ids[index] == ids[data.train[index]["text"]]
    assert set(data.train.ids.tolist()) == set(data.eval.ids.tolist())
    assert len(set(data.train.pictures.tolist())) == len(data.train)


def test_no_picture_is_blank_cut_off_or_the_box_for_a_missing_glyph(data):
    for split in (data.train, data.eval):
        missing = [np.asarray(draw(face, "\U0010ffff")) for face in split.read.faces]
        assert split is data.eval or all((box < 128).any() for box in missing)  # STIX leaves it blank
        for face, character in split.read.rows[:: 5 if split is data.train else 1]:
            pixels = np.asarray(draw(split.read.faces[face], split.read.characters[character]))
            border = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
            what = split.read.faces[face], split.read.characters[character]
            assert (border == 255).all(), what
            assert (255.0 - pixels).sum() > 5 * 255, what
            assert (pixels != missing[face]).any(), what


@pytest.mark.parametrize("face", REGULAR_FACES)
def test_drawn_as_matplotlib_draws_it(face):
    """The ink of each character, cut out, is what the rasteriser of another library makes of it."""
    from matplotlib.ft2font import FT2Font, LoadFlags

    font = FT2Font(str(FONTS / face))
    font.set_size(48, 72)

    def cut(ink: np.ndarray) -> np.ndarray:
        rows, columns = np.nonzero(ink)
        return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(int)

    for character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzαβγδεζθλξπσφψωЖЯю.,;!?":
        font.set_text(character, flags=LoadFlags.DEFAULT)
        font.draw_glyphs_to_bitmap()
        ours, theirs = cut(255 - np.asarray(draw(str(FONTS / face), character))), cut(np.asarray(font.get_image(), dtype=np.uint8))
        assert ours.shape == theirs.shape, character
        assert np.abs(ours - theirs).mean() < 2, character  # of 255: the two libraries bring a FreeType each


def test_lookalikes_of_pictures_made_by_hand():
    rng = np.random.default_rng(0)
    pictures = np.where(rng.random((2, 6, SIZE, SIZE)) < 0.1, 0, 255).astype(np.uint8)
    pictures[0, 4] = pictures[0, 1]
    pictures[1, 5] = pictures[1, 4]  # in the other face, and through 4
    pictures[0, 3] = pictures[0, 2]
    pictures[0, 3, :8] = 255  # an eighth of the ink is missing
    assert lookalikes(pictures).tolist() == [0, 1, 2, 3, 1, 1]
    blank = np.full((1, 3, SIZE, SIZE), 255, dtype=np.uint8)
    assert lookalikes(blank).tolist() == [0, 1, 2]


def test_a_subset_starts_with_what_is_common():
    few = glyphs(characters=150)
    texts = [row["text"] for row in few.eval]
    assert few.name == "glyphs:characters=150"
    assert len(texts) == len(set(texts)) == 150 and len(few.train) == 12 * 150
    assert "greek small letter omega" in texts and "exclamation mark" not in texts
    assert [row["text"] for row in glyphs(characters=10).eval] == texts[:10]
    assert set(texts[:3]) == {"greek small letter alpha", "latin capital letter a", "digit seven"}
    for count in (1, 0, 1150):
        with pytest.raises(ValueError, match=f"glyphs: characters={count}; expected 2 to 1149"):
            glyphs(characters=count)


def test_rows_are_the_same_in_a_fresh_process(tmp_path):
    split = glyphs(characters=30).train
    split[0]  # a font is open here
    (tmp_path / "split").write_bytes(pickle.dumps(split.take([100, 3])))
    code = "import pickle, sys; s = pickle.load(open(sys.argv[1], 'rb')); print(s[0]['image'].tobytes().hex(), s[1]['text'], end='')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "split")], cwd=root, capture_output=True, check=True, text=True)
    assert done.stdout == f"{split[100]['image'].tobytes().hex()} {split[3]['text']}"


def test_a_matplotlib_without_fonts(tmp_path, monkeypatch):
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DejaVuSans\.ttf: no such file; glyphs are drawn from fonts that matplotlib ships"):
        module.glyphs()
