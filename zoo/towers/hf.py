"""Any text encoder of Hugging Face transformers: BERT, RoBERTa, MPNet, T5's encoder, GPT-2 and their like, pretrained or not.

    feature = pool(encoder(token ids))      pool: the mean over the tokens, the first token, or the last one

A pretrained encoder knows what words mean before it sees the first caption. Where captions are few, that is worth more than anything else.
Nothing but weights and vocabularies is taken: code that comes with a model is never run, and pickles are never opened. What the tower needs
to be built again, without the hub, are two files and its weights.

Mean of the tokens: Reimers and Gurevych, "Sentence-BERT", arXiv 1908.10084; the last token: Neelakantan et al., arXiv 2201.10005.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from registry import TOWERS

from .tokenizer import _library, _texts

_NONE = -1  # where there is no token: the model's own padding may be missing, or be its end token too (GPT-2)
_SETTINGS = ["*.json", "*.txt", "*.model"]
_WEIGHTS = ["model.safetensors", "model-*.safetensors"]
_PATIENCE = 5.0  # seconds for the hub to answer
_POOLING = ("mean", "cls", "last")


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("hf needs transformers: pip install 'effnet-zoo[hf]'") from error
    return transformers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of transformers inside, and all of them as they were afterwards."""
    logging = _transformers().utils.logging
    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)


def _find(name: str, weights: bool) -> Path:
    """The folder that a name stands for: itself, or what the hub has under it, which is in the cache afterwards."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils import httpx

    unreachable = False
    try:
        HfApi().model_info(name, timeout=_PATIENCE)  # snapshot_download has no timeout: it would wait for ever in a network that drops all
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"hf:{name}: no such folder, and no such model on the hub (or a private one: hf auth login)") from error
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"hf:{name}: no such folder, and no name on the hub (expected OWNER/MODEL)") from error
    except (OSError, httpx.HTTPError):  # told to be offline, no network, no answer in time
        unreachable = True
    wanted = [*_SETTINGS, *(_WEIGHTS if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns="*/*", local_files_only=unreachable))
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"hf:{name}: no such folder, not in the cache of the hub, and the hub cannot be reached; give a local folder (what "
            "save_pretrained of transformers wrote), or set HF_HOME to a cache that has it"
        ) from error


def _read_config(folder: Path, name: str) -> Any:
    transformers, file = _transformers(), folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"hf:{name}: no config.json in it; expected a folder that save_pretrained of transformers wrote")
    kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"hf:{name}: model_type {kind!r} is none that transformers {transformers.__version__} has, and code that comes with a model "
            "is never run; expected one such as bert, roberta, mpnet, t5 or gpt2"
        )
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.get_text_config() is not config or not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(f"hf:{name}: {kind!r} is not a text encoder; expected one such as bert, roberta, mpnet, t5 or gpt2")
    return config


def _read_tokenizer(folder: Path, name: str) -> str:
    """The tokenizer as the JSON of the package `tokenizers`, without the cutting and padding that somebody may have saved with it."""
    try:
        with _quiet():
            tokenizer = _transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # what it raises depends on which file is missing
        raise ValueError(f"hf:{name}: no tokenizer in it that transformers can read; expected a tokenizer.json") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"hf:{name}: {type(tokenizer).__name__} is not a tokenizer of the package tokenizers; expected a tokenizer.json")
    backend = _library().Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


def _read_model(folder: Path, name: str, config: Any) -> tuple[nn.Module, set[str]]:
    """The model with its weights, and the names of those that the files lack."""
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        raise ValueError(
            f"hf:{name}: no weights as safetensors ({', '.join(pickles) or 'nor any others'}), and pickles are not opened, since they may "
            "run code; if you trust the source, convert it once: AutoModel.from_pretrained(OLD).save_pretrained(NEW), and the same with "
            "AutoTokenizer"
        )
    with _quiet():
        model, report = _transformers().AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    return model, set(report["missing_keys"])


def _encoder(model: Any) -> nn.Module:
    """What makes features of texts: without a decoder, and without a pooler, which would be trained by nothing."""
    parts = dict(model.named_children())
    if "decoder" in parts:
        return model.get_encoder()
    if "pooler" in parts:
        model.pooler = nn.Identity()
    return model


class HFTokenizer:
    """`tokenizer(texts, max_length)` -> `[B, L]` int64, padded at the end with -1 to the longest of the list.

    The ids are those of `AutoTokenizer(text, truncation=True)`, special tokens included; a text without any token gets `empty`.

    Args:
        text: the JSON of the package `tokenizers`.
        empty: the token of a text that has none, so that there is something to pool.
    """

    def __init__(self, text: str, empty: int = 0):
        self._text, self.empty = text, empty
        self._tokenizer = _library().Tokenizer.from_str(text)
        self.specials: int = self._tokenizer.num_special_tokens_to_add(False)
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=False)

    def to_json(self) -> str:
        return self._text

    @property
    def digest(self) -> str:
        """sha256 of the JSON, in hex: equal digests, equal ids."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __call__(self, texts: Sequence[str], max_length: int) -> Tensor:
        """Token ids of texts; a longer text keeps its beginning and its special tokens.

        Raises:
            ValueError: `texts` is not a list of texts or is empty, or `max_length` leaves no room beside the special tokens.
        """
        if max_length <= self.specials:
            raise ValueError(f"max_length={max_length}: expected more than the {self.specials} special tokens that every text gets")
        self._tokenizer.enable_truncation(max_length)
        # one by one: encode_batch starts threads, which do not survive a data loader's fork
        rows = [torch.tensor(self._tokenizer.encode(text).ids or [self.empty]) for text in _texts(texts)]
        if not rows:
            raise ValueError("no texts to tokenize: the list is empty")
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_NONE)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._text, self.empty)

    def __repr__(self) -> str:
        return f"HFTokenizer(vocab_size={self.vocab_size}, digest={self.digest[:12]})"


@TOWERS.register("hf")
class HF(nn.Module):
    """Token ids `[B, L]`, any L up to `max_length` and -1 where there is no token -> features `[B, hidden size]`.

    Args:
        name: a folder that `save_pretrained` wrote, or a model on the hub, such as "google-bert/bert-base-uncased".
        max_length: tokens of a text that `prepare` reads; the rest is cut off.
        pooling: "mean" of the tokens, the first token ("cls"), or the "last" one, for models that read from left to right.
        pretrained: with the weights; False takes the shape and the vocabulary alone.
        folder: what `files` gave, in place of what the name stands for; the weights are random then.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the name is no folder and cannot be had from the hub.
        ValueError: it is not a text encoder, has no safetensors or no tokenizer, or does not go with `max_length` or `pooling`.
    """

    reads = "text"

    def __init__(
        self, name: str, *, max_length: int = 64, pooling: str = "mean", pretrained: bool = True, folder: str | Path | None = None
    ):
        super().__init__()
        if pooling not in _POOLING:
            raise ValueError(f"pooling={pooling!r}: expected {', '.join(_POOLING)}")
        transformers = _transformers()
        place = _find(name, pretrained) if folder is None else Path(folder)
        config = _read_config(place, name)
        text = _read_tokenizer(place, name) if folder is None else (place / "tokenizer.json").read_text(encoding="utf-8")
        self._config_json = config.to_json_string()
        config.use_cache = False  # of keys and values, to write a text on: nobody does
        if pretrained and folder is None:
            whole, missing = _read_model(place, name, config)
        else:
            whole, missing = transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False), set()
        if whole.main_input_name != "input_ids":
            raise ValueError(f"hf:{name}: {config.model_type!r} is not a text encoder: it reads {whole.main_input_name}")
        names = {id(parameter): each for each, parameter in whole.named_parameters(remove_duplicate=False)}
        self.model = _encoder(whole).train()
        if lost := missing & {names[id(parameter)] for parameter in self.model.parameters()}:
            raise ValueError(f"hf:{name}: {len(lost)} weights are not in its files, such as {min(lost)}")
        self.config: dict[str, Any] = dict(name=name, max_length=max_length, pooling=pooling, pretrained=pretrained)
        self.num_features: int = config.hidden_size
        self.max_length, self.pooling = max_length, pooling
        starts = (getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id"))
        self.tokenizer = HFTokenizer(text, next((start for start in starts if isinstance(start, int)), 0))
        pad = getattr(config, "pad_token_id", None)
        self._filler: int = pad if isinstance(pad, int) and pad >= 0 else 0
        self._check(name, config)

    def _check(self, name: str, config: Any) -> None:
        if self.tokenizer.vocab_size > config.vocab_size:
            raise ValueError(f"hf:{name}: its tokenizer has {self.tokenizer.vocab_size} tokens, its model only {config.vocab_size}")
        positions = getattr(config, "max_position_embeddings", None) or 0
        for key, table in self.model.named_modules():
            if key.endswith("position_embeddings") and isinstance(table, nn.Embedding) and table.padding_idx is not None:
                positions -= table.padding_idx + 1  # RoBERTa and MPNet count from behind their padding token
        if not self.tokenizer.specials < self.max_length <= (positions if positions > 0 else self.max_length):
            raise ValueError(
                f"max_length={self.max_length}: expected more than {self.tokenizer.specials}, the special tokens of hf:{name}"
                + (f", and at most {positions}, its positions" if positions > 0 else "")
            )
        if self.pooling == "cls" and self._reads_left_to_right():
            raise ValueError(
                f"pooling='cls': {config.model_type} reads from left to right, and its first token knows no other; expected mean or last"
            )

    @torch.no_grad()
    def _reads_left_to_right(self) -> bool:
        """Whether the first token stays the same whatever comes second."""
        one, other = self.model.eval()(input_ids=torch.tensor([[0, 1], [0, 2]])).last_hidden_state[:, 0]
        self.model.train()
        return torch.allclose(one, other, rtol=0, atol=1e-6)

    @classmethod
    def from_files(cls, folder: str | Path, **config: Any) -> "HF":
        """The tower of that `.config` with random weights, from a folder that holds what `files` gave; no hub is asked."""
        return cls(folder=folder, **config)

    def files(self) -> dict[str, bytes]:
        """What it takes to build the tower again, beside its `.config` and its weights: file name to content."""
        return {"config.json": self._config_json.encode(), "tokenizer.json": self.tokenizer.to_json().encode()}

    def no_weight_decay(self) -> set[str]:
        return {f"{name}.weight" for name, part in self.named_modules() if isinstance(part, nn.Embedding)}

    def prepare(self, texts: list[str]) -> Tensor:
        """Texts to token ids `[B, L]`."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > self.max_length:
            raise ValueError(f"{ids.shape[1]} tokens: this tower reads at most max_length={self.max_length}")
        valid = ids != _NONE
        filled = torch.where(valid, ids, self._filler)
        x = self.model(input_ids=filled, attention_mask=valid.to(ids.dtype)).last_hidden_state
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "last":
            return x[torch.arange(len(x), device=x.device), valid.sum(1) - 1]
        weight = valid.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
