"""A sound as a picture: its log-mel spectrogram, seen by any timm network with one input channel.

    S = |STFT(x)|²,  M = log(A S + 1e-6),  z = (M - mean) / deviation;      mel(f) = 2595 log10(1 + f / 700)

A is the filterbank: triangles, evenly spaced on the mel scale from 0 Hz to half the sampling rate, each from its left neighbour's peak to
its right one's. Windows are 25 ms long, 10 ms apart. Mean and deviation are those of all M in training, two numbers. The mel scale is
HTK's (Young et al., "The HTK Book").

Hershey et al., "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017, arXiv 1609.09430.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from registry import TOWERS, nearest

from .sound import Sound, read_sound

_MOST = 1000  # sounds that the statistics are learned from


def _triangles(sample_rate: int, mels: int, n_fft: int) -> np.ndarray:
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    left, peak, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    return np.maximum(0, np.minimum((f - left) / (peak - left), (right - f) / (right - peak)))


@functools.cache
def mel_filters(sample_rate: int, mels: int, window: int) -> np.ndarray:
    """`[mels, n_fft / 2 + 1]`: n_fft is the least power of two that holds a window and gives every triangle a frequency to see."""
    n_fft = 2 ** math.ceil(math.log2(window))
    while not (filters := _triangles(sample_rate, mels, n_fft)).any(axis=1).all():
        n_fft *= 2
    return filters


class LogMel:
    """Sounds to float32 `[B, 1, mels, frames]`. A longer sound gives its middle, a shorter one is followed by silence.

    Args:
        sample_rate: that every sound is brought to, in Hz.
        seconds: of a sound that are seen; 100 frames each.
        mels: filters, the height of the picture.
        mean, std: of the logarithms.

    Raises:
        ValueError: there would be no frame or no filter.
    """

    def __init__(self, sample_rate: int, seconds: float, mels: int, mean: float = 0.0, std: float = 1.0):
        if sample_rate < 1000 or seconds < 0.01 or mels < 1:
            raise ValueError(
                f"sample_rate={sample_rate}, seconds={seconds}, mels={mels}; expected at least 1000 Hz, 0.01 seconds and one filter"
            )
        self.sample_rate, self.seconds, self.mels, self.mean, self.std = sample_rate, seconds, mels, mean, std
        self.window, self.hop = sample_rate // 40, sample_rate // 100
        self.frames = round(seconds * sample_rate) // self.hop

    def __call__(self, sounds: Sequence[Sound]) -> Tensor:
        waves = torch.zeros(len(sounds), self.frames * self.hop)
        for wave, sound in zip(waves, sounds, strict=True):
            samples = torch.from_numpy(read_sound(sound, self.sample_rate, self.seconds))[: len(wave)]
            wave[: len(samples)] = samples
        filters = torch.from_numpy(mel_filters(self.sample_rate, self.mels, self.window)).float()
        spectrum = torch.stft(
            waves,
            n_fft=2 * (filters.shape[1] - 1),
            hop_length=self.hop,
            win_length=self.window,
            window=torch.hann_window(self.window),
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum[:, :, : self.frames].abs().square()
        # 1e-6 is near the noise of 16-bit sound: silence in a file and silence after its end look alike
        return (((filters @ power + 1e-6).log() - self.mean) / self.std).unsqueeze(1)


@TOWERS.register("spectrogram")
class Spectrogram(nn.Module):
    """What `prepare` makes of sounds, `[B, 1, mels, frames]` -> features `[B, num_features]`. `fit` learns the statistics.

    Args:
        model: any timm name. A network for pictures of one size, such as a ViT, is made for spectrograms of this size.
        sample_rate, seconds, mels: what is seen of a sound: its rate in Hz, its length, and the number of mel filters.
        mean, std: of the log-mel values in training.
        drop_path: stochastic depth of the network.
        pretrained: start from timm's weights for pictures, the first layer summed over the colours.

    Raises:
        ValueError: timm does not know the model; no frame or no filter; in `prepare`, a file that is missing or no sound.
        ImportError: in `prepare`, a file that needs the extra `audio`.
    """

    reads = "audio"

    def __init__(
        self,
        model: str = "effnet_cbam_b0",
        *,
        sample_rate: int = 16000,
        seconds: float = 4.0,
        mels: int = 64,
        mean: float = 0.0,
        std: float = 1.0,
        drop_path: float = 0.0,
        pretrained: bool = False,
    ):
        super().__init__()
        bare = model.partition(".")[0]
        if not timm.is_model(bare):
            raise ValueError(f"unknown model {bare!r}; {nearest(bare, timm.list_models())}")
        self.prepare = LogMel(sample_rate, seconds, mels, mean, std)
        # pretrained is left out: a tower that is built again gets its own weights
        self.config: dict[str, Any] = dict(
            model=model, sample_rate=sample_rate, seconds=seconds, mels=mels, mean=mean, std=std, drop_path=drop_path
        )
        pretrained_cfg = timm.get_pretrained_cfg(model)
        fixed = pretrained_cfg is not None and pretrained_cfg.fixed_input_size
        self.network = timm.create_model(
            model,
            pretrained=pretrained,
            in_chans=1,
            num_classes=0,
            drop_path_rate=drop_path or None,  # None is not handed on: not every network has stochastic depth
            img_size=(mels, self.prepare.frames) if fixed else None,
        )
        self.num_features = self.network.head_hidden_size

    @classmethod
    def fit(
        cls,
        values: Iterable[Sound],
        model: str = "effnet_cbam_b0",
        *,
        sample_rate: int = 16000,
        seconds: float = 4.0,
        mels: int = 64,
        **options: Any,
    ) -> "Spectrogram":
        """A tower for these sounds, of which at most 1,000, evenly spaced, give the mean and the deviation.

        Args:
            values: sounds of the training split, and of no other.
            model, sample_rate, seconds, mels: as of the class.
            options: drop_path, pretrained.

        Raises:
            ValueError: there are no sounds, or as of the class.
        """
        sounds = list(values)
        if not sounds:
            raise ValueError("no sounds to learn the mean and the deviation from: the training split has none")
        plain = LogMel(sample_rate, seconds, mels)
        chosen = np.unique(np.linspace(0, len(sounds) - 1, _MOST).round().astype(int))
        parts = (plain([sounds[index]]).double() for index in chosen)
        mean, square = torch.tensor([(part.mean(), part.square().mean()) for part in parts]).mean(0).tolist()
        std = math.sqrt(max(square - mean**2, 0.0))
        frozen = dict(mean=round(mean, 4), std=round(std, 4) or 1.0)  # 1: nothing but silence
        return cls(model, sample_rate=sample_rate, seconds=seconds, mels=mels, **frozen, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)
