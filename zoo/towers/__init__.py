"""Encoders of everything that is not a picture: raw values to `[B, num_features]`. A file a tower, named as registered."""

from .bag import Bag as Bag
from .clip_text import ClipText as ClipText
from .hf import HF as HF
from .mlp import MLP as MLP
from .sound import read_sound as read_sound
from .spectrogram import Spectrogram as Spectrogram
from .tokenizer import Tokenizer as Tokenizer
from .transformer import Transformer as Transformer
from .vector import Vector as Vector
