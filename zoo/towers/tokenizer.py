"""Text to token ids: byte-level BPE learned from the user's own captions, or the raw UTF-8 bytes.

Byte-level, so that any text in any script has ids and none is "unknown". Text is NFC, lower-cased, and its white space is single blanks, so
that a query finds a caption however it was typed. Every text ends with an end token: also the empty one has something to pool.

The captions to train on are those of the training split alone. VSE++ built its vocabulary from the test captions too
(fartashf/vsepp, issue 29), and its numbers know something of the test set.

BPE: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909; byte-level: GPT-2.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_PAD, _END = 0, 1
_BYTES = json.dumps({"type": "bytes"})
_BYTES_END = 257  # 0 is padding, 1 + byte is a byte


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("BPE needs the package tokenizers: pip install tokenizers, or use Tokenizer.bytes()") from error
    return tokenizers


def _learn(captions: Iterable[str], vocab_size: int) -> str:
    library = _library()
    normalizers, pre_tokenizers = library.normalizers, library.pre_tokenizers
    bpe = library.Tokenizer(library.models.BPE())
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(library.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # the first word is the same token as that word further on
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a piece seen once would be a token trained once
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    bpe.post_processor = library.processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", _END)])
    return bpe.to_str()


def _load(text: str) -> Any:
    library = _library()
    try:
        bpe = library.Tokenizer.from_str(text)
    except Exception as error:  # what the package raises is a bare Exception
        raise ValueError(f"not a tokenizer's JSON: {error}") from error
    if bpe.token_to_id("<pad>") != _PAD or bpe.token_to_id("<eos>") != _END:
        raise ValueError("not a tokenizer of this package: expected <pad> to be token 0 and <eos> token 1")
    bpe.encode_special_tokens = True  # "<pad>" inside a caption is five characters, not padding
    return bpe


class Tokenizer:
    """`tokenizer(texts, max_length)` -> `[B, L]` int64, padded at the end with 0 to the longest of the list.

    Make one with `Tokenizer.train(captions)`, `Tokenizer.bytes()` or `Tokenizer.from_json(text)`. The JSON is kept as it was given, so that
    `digest` names the vocabulary for good, whatever the version of the library that reads it.

    Args:
        text: what `to_json` gave.

    Raises:
        ValueError: the text is no tokenizer of this package.
    """

    def __init__(self, text: str):
        self._text = text
        self._bpe = None if text == _BYTES else _load(text)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 8192) -> "Tokenizer":
        """Learn a byte-level BPE. The same captions give the same tokenizer, in any order.

        Args:
            captions: texts of the training split, and of no other.
            vocab_size: at most so many tokens; 258 of them are the bytes, padding and end.

        Raises:
            ValueError: there is no text to learn from, or the vocabulary cannot hold the bytes.
        """
        if vocab_size < _BYTES_END + 1:
            raise ValueError(f"vocab_size={vocab_size}: expected at least {_BYTES_END + 1}, the 256 bytes, padding and end")
        texts = _texts(captions)
        if not any(text.strip() for text in texts):
            raise ValueError(f"no captions to train a tokenizer on: got {len(texts)} texts, none of them with a character")
        return cls(_learn(texts, vocab_size))

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """The raw UTF-8 bytes as tokens: nothing to train and nothing to install, and sequences about four times as long."""
        return cls(_BYTES)

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        return cls(text)

    def to_json(self) -> str:
        return self._text

    @property
    def digest(self) -> str:
        """sha256 of the JSON, in hex: equal digests, equal ids."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def is_bytes(self) -> bool:
        """Whether it reads raw bytes, without a vocabulary that was learned."""
        return self._bpe is None

    @property
    def end(self) -> int:
        """The id of the token that ends every text."""
        return _BYTES_END if self._bpe is None else _END

    @property
    def vocab_size(self) -> int:
        return _BYTES_END + 1 if self._bpe is None else self._bpe.get_vocab_size()

    def __call__(self, texts: Sequence[str], max_length: int) -> Tensor:
        """Token ids of texts; a text longer than `max_length` keeps its beginning and its end token.

        Raises:
            ValueError: `texts` is not a list of texts or is empty, or `max_length` is less than one.
        """
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: expected at least 1")
        rows = [self._ids(text) for text in _texts(texts)]
        if not rows:
            raise ValueError("no texts to tokenize: the list is empty")
        rows = [row if len(row) <= max_length else [*row[: max_length - 1], row[-1]] for row in rows]
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [_PAD] * (longest - len(row)) for row in rows])

    def _ids(self, text: str) -> list[int]:
        if self._bpe is None:
            plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
            return [*(1 + byte for byte in plain.encode()), _BYTES_END]
        return self._bpe.encode(text).ids  # one by one: encode_batch starts threads, which do not survive a data loader's fork

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._text,)

    def __repr__(self) -> str:
        return f"Tokenizer({'bytes' if self._bpe is None else 'bpe'}, vocab_size={self.vocab_size}, digest={self.digest[:12]})"


def _texts(values: Iterable[str]) -> list[str]:
    if isinstance(values, str):
        raise ValueError(f"expected a list of texts, got one text: {values!r}")
    texts = list(values)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {position} of {len(texts)} is a {type(text).__name__}, not a text: {text!r}")
    return texts
