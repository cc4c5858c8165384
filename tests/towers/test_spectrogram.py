"""The log-mel spectrogram: sample by sample in plain NumPy, its filters one by one, and networks of timm on top."""

import math

import numpy as np
import pytest
import torch

from zoo.towers import Spectrogram
from zoo.towers.spectrogram import LogMel, mel_filters

RATE = 8000
NOISE = np.random.default_rng(0).standard_normal(RATE) / 20


def _hz(mel: float) -> float:
    return 700 * (10 ** (mel / 2595) - 1)


def test_filters_one_by_one():
    """HTK's scale puts 1000 Hz at 1000 mel; a filter is 1 at its peak and 0 at its neighbours' peaks."""
    assert 2595 * math.log10(1 + 1000 / 700) == pytest.approx(1000, abs=0.02)
    filters = mel_filters(RATE, 20, 200)
    assert filters.shape == (20, 129)
    step = 2595 * math.log10(1 + 4000 / 700) / 21
    for m in range(20):
        low, peak, high = (_hz(step * (m + k)) for k in range(3))
        for bin in range(129):
            f = bin * RATE / 256
            expected = (f - low) / (peak - low) if low < f <= peak else (high - f) / (high - peak) if peak < f < high else 0.0
            assert filters[m, bin] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rate, mels", [(16000, 64), (16000, 128), (8000, 80), (44100, 128), (22050, 20)])
def test_every_filter_sees_a_frequency(rate, mels):
    filters = mel_filters(rate, mels, rate // 40)
    assert filters.any(axis=1).all() and 2 * (filters.shape[1] - 1) >= rate // 40


def test_against_plain_numpy():
    prepare = LogMel(RATE, 0.5, 20, mean=-3.0, std=2.0)
    out = prepare([(NOISE, RATE)])
    assert out.shape == (1, 1, 20, 50)
    middle = NOISE[2000:6000].astype(np.float32).astype(np.float64)
    padded = np.concatenate([np.zeros(128), middle, np.zeros(128)])
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 200) for n in range(200)])
    basis = np.exp(-2j * np.pi * np.outer(np.arange(129), np.arange(256)) / 256)
    for frame in (0, 1, 25, 49):
        x = np.zeros(256)
        x[28:228] = padded[80 * frame : 80 * frame + 256][28:228] * hann  # the window of 200 stands in the middle of 256
        expected = (np.log(mel_filters(RATE, 20, 200) @ np.abs(basis @ x) ** 2 + 1e-6) + 3) / 2
        np.testing.assert_allclose(out[0, 0, :, frame], expected, atol=1e-4)


def test_a_tone_is_a_line():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    picture = LogMel(RATE, 1.0, 40)([(tone, RATE)])[0, 0]
    centre = picture[:, 50].argmax().item() + 1
    assert _hz(centre * 2595 * math.log10(1 + 4000 / 700) / 41) == pytest.approx(1000, rel=0.05)


def test_short_sounds_are_followed_by_silence_and_long_ones_lose_both_ends():
    prepare = LogMel(RATE, 1.0, 20)
    short = prepare([(NOISE[:4000], RATE)])[0, 0]
    assert torch.allclose(short[:, 53:], torch.tensor(1e-6).log()) and (short[:, :48] > -12).any(0).all()
    long = np.concatenate([np.zeros(4000), NOISE, np.zeros(4000)])
    assert torch.equal(prepare([(long, RATE)]), prepare([(NOISE, RATE)]))


def test_statistics_of_training():
    sounds = [(NOISE * gain, RATE) for gain in (0.1, 1.0, 3.0)]
    tower = Spectrogram.fit(iter(sounds), "effnet_eca_test", sample_rate=RATE, seconds=1.0, mels=20)
    x = tower.prepare(sounds)
    assert x.mean().abs() < 1e-3 and x.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert tower.config == dict(
        model="effnet_eca_test",
        sample_rate=RATE,
        seconds=1.0,
        mels=20,
        mean=pytest.approx(LogMel(RATE, 1.0, 20)(sounds).mean().item(), abs=1e-4),
        std=pytest.approx(LogMel(RATE, 1.0, 20)(sounds).std(unbiased=False).item(), abs=1e-4),
        drop_path=0.0,
    )
    silent = Spectrogram.fit([(np.zeros(800), RATE)], "effnet_eca_test", sample_rate=RATE, seconds=0.5, mels=20)
    assert silent.prepare([(np.zeros(800), RATE)]).abs().max() < 1e-3


@pytest.mark.parametrize("model", ["effnet_cbam_test", "mobilenetv3_small_050", "resnet10t", "test_vit"])
def test_any_network_of_timm(model):
    tower = Spectrogram(model, sample_rate=RATE, seconds=0.64, mels=32).eval()
    assert tower(tower.prepare([(NOISE, RATE)] * 2)).shape == (2, tower.num_features)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="unknown model 'effnet_cbm_b0'; did you mean 'effnet_cbam_b0'"):
        Spectrogram("effnet_cbm_b0")
    for wrong in ({"sample_rate": 16}, {"seconds": 0}, {"mels": 0}):
        with pytest.raises(ValueError, match="expected at least 1000 Hz, 0.01 seconds and one filter"):
            Spectrogram(**wrong)
    with pytest.raises(ValueError, match="no sounds"):
        Spectrogram.fit([])
    with pytest.raises(ValueError, match="gone.wav: no such file"):
        Spectrogram("effnet_eca_test").prepare(["gone.wav"])


def test_stochastic_depth():
    tower = Spectrogram("effnet_eca_b0", drop_path=0.3)
    assert tower.network.blocks[-1][-1].drop_path.drop_prob > 0.2
