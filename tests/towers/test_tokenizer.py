"""Ids are reproducible, reversible and never padding; what is stored is what is loaded."""

import copy
import hashlib
import pickle
import sys

import pytest
import torch

from zoo.towers import Tokenizer

CAPTIONS = [f"GREEK SMALL LETTER {name}" for name in ("ALPHA", "BETA")]
CAPTIONS += ["LATIN SMALL LETTER A", "LATIN CAPITAL LETTER A", "Café au lait", "猫 と 犬"]


@pytest.fixture(scope="module", params=["bpe", "bytes"])
def tokenizer(request):
    return Tokenizer.train(CAPTIONS) if request.param == "bpe" else Tokenizer.bytes()


def test_training_twice_gives_the_same_in_any_order():
    one, two = Tokenizer.train(CAPTIONS), Tokenizer.train(reversed(CAPTIONS))
    assert one.to_json() == two.to_json() and one.digest == two.digest
    assert one.digest != Tokenizer.train(CAPTIONS[:2] * 2).digest


def test_learns_words_that_repeat():
    learned = Tokenizer.train(CAPTIONS)
    assert learned.vocab_size > 258
    assert learned(["small letter"], 9).shape == (1, 3)  # two words and the end
    assert Tokenizer.bytes()(["small letter"], 64).shape == (1, 13)


def test_vocab_size_is_a_limit():
    assert Tokenizer.train(CAPTIONS, vocab_size=262).vocab_size == 262
    with pytest.raises(ValueError, match="258"):
        Tokenizer.train(CAPTIONS, vocab_size=100)


def test_comes_back_from_json_pickle_and_copy(tokenizer):
    expected = tokenizer(CAPTIONS, 16)
    for again in (Tokenizer.from_json(tokenizer.to_json()), pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert torch.equal(again(CAPTIONS, 16), expected)
        assert again.to_json() == tokenizer.to_json() and again.vocab_size == tokenizer.vocab_size
    assert tokenizer.digest == hashlib.sha256(tokenizer.to_json().encode()).hexdigest()


def test_pads_to_the_longest_and_cuts_at_the_limit(tokenizer):
    ids = tokenizer(["a", "a b c d e f"], 64)
    assert ids.dtype == torch.int64 and ids.min() == 0 and ids.max() < tokenizer.vocab_size
    assert (ids[0] != 0).sum() < ids.shape[1] and (ids[1] != 0).all()
    end = ids[1, -1]
    cut = tokenizer(["a b c d e f"], 4)
    assert torch.equal(cut[0, :3], ids[1, :3]) and cut[0, 3] == end
    assert tokenizer(["a b"], 1).tolist() == [[end]]


def test_every_text_has_a_token(tokenizer):
    ids = tokenizer(["", "   \n", "letter"], 8)
    assert (ids != 0).any(1).all()
    assert (ids[:2] != 0).sum(1).tolist() == [1, 1]


def test_case_composition_and_white_space_do_not_matter(tokenizer):
    ids = tokenizer(["CAFÉ  AU\nLAIT ", "cafe\u0301 au lait"], 32)
    assert torch.equal(ids[0], ids[1])


def test_text_never_seen_and_text_that_looks_like_a_special_token(tokenizer):
    ids = tokenizer(["🦉 ҈ \x00", "a <pad> b <eos> c"], 64)
    texts = [row[row != 0] for row in ids]
    end = ids[1][ids[1] != 0][-1]
    assert len(texts[1]) > 8, "the special tokens' names were read as special tokens"
    assert all((row == end).sum() == 1 for row in texts)


def test_bytes_are_bytes():
    assert Tokenizer.bytes()(["aé"], 8).tolist() == [[1 + 0x61, 1 + 0xC3, 1 + 0xA9, 257]]


def test_bytes_need_no_library(monkeypatch):
    learned = Tokenizer.train(CAPTIONS).to_json()
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # an import of it fails from here on
    assert Tokenizer.from_json(Tokenizer.bytes().to_json())(["x"], 4).shape == (1, 2)
    for needs_it in (lambda: Tokenizer.train(CAPTIONS), lambda: Tokenizer.from_json(learned)):
        with pytest.raises(ImportError, match="pip install tokenizers"):
            needs_it()


@pytest.mark.parametrize("captions", [[], ["", "  "]])
def test_no_captions(captions):
    with pytest.raises(ValueError, match="no captions"):
        Tokenizer.train(captions)


def test_what_is_not_a_list_of_texts(tokenizer):
    for texts, message in [("one text", "one text"), (["a", None], "text 1 of 2 is a NoneType"), ([], "empty")]:
        with pytest.raises(ValueError, match=message):
            tokenizer(texts, 8)
    with pytest.raises(ValueError, match="max_length"):
        tokenizer(["a"], 0)


@pytest.mark.parametrize("text", ["", "{}", '{"type": "words"}'])
def test_what_is_not_a_tokenizer(text):
    with pytest.raises(ValueError, match="tokenizer"):
        Tokenizer.from_json(text)
