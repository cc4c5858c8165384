"""Sound files: every width of WAV against soundfile, the part that is read, the other rate, and a machine without the extra."""

import sys
import wave

import numpy as np
import pytest
import soundfile

from zoo.towers import read_sound

TONE = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000) * 0.5


@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_wav_of_every_width(tmp_path, kind):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([TONE, -TONE / 2], axis=1), 8000, subtype=kind)
    expected, _ = soundfile.read(path)
    np.testing.assert_allclose(read_sound(path, 8000, 9), expected.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(read_sound(path, 8000, 9), TONE / 4, atol=0.01)


def test_plain_wav_needs_nothing_but_python(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    soundfile.write(tmp_path / "a.wav", TONE, 8000)
    assert len(read_sound(tmp_path / "a.wav", 8000, 1)) == 8000
    with pytest.raises(ImportError, match=r"a.wav: 8000 Hz to 16000 Hz needs SciPy: pip install 'effnet-zoo\[audio\]'"):
        read_sound(tmp_path / "a.wav", 16000, 1)
    soundfile.write(tmp_path / "a.flac", TONE, 8000)
    with pytest.raises(ImportError, match=r"a.flac: not plain WAV, and other sounds need soundfile: pip install 'effnet-zoo\[audio\]'"):
        read_sound(tmp_path / "a.flac", 8000, 1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_the_middle_of_a_long_sound(tmp_path, name):
    steps = np.repeat([0.1, 0.3, 0.5, -0.4], 2000)
    soundfile.write(tmp_path / name, steps, 8000)
    middle = read_sound(tmp_path / name, 8000, 0.5)
    assert len(middle) == 4000
    assert middle[:2000].mean() == pytest.approx(0.3, abs=0.02) and middle[2000:].mean() == pytest.approx(0.5, abs=0.02)


def test_another_rate_keeps_the_tone_and_drops_what_does_not_fit():
    t = np.arange(44100) / 44100
    sound = np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 11000 * t)
    out = read_sound((sound, 44100), 16000, 1)
    assert len(out) == 16000
    peaks = np.abs(np.fft.rfft(out * np.hanning(16000)))
    assert peaks.argmax() == 440 and peaks[4990:5010].max() < 0.01 * peaks[440]  # unfiltered, 11 kHz would come back as 5 kHz


def test_samples_as_they_come():
    whole = (TONE * 32767).astype(np.int16)
    np.testing.assert_allclose(read_sound((whole, 8000), 8000, 1), TONE, atol=1e-4)
    assert read_sound((np.stack([TONE, -TONE], axis=1), 8000), 8000, 1).max() == 0


def test_what_is_refused(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    with wave.open(str(tmp_path / "none.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    for name, told in (("text.wav", "text.wav"), ("none.wav", "none.wav: no samples"), ("gone.wav", "gone.wav: no such file")):
        with pytest.raises(ValueError, match=told):
            read_sound(tmp_path / name, 8000, 1)
    with pytest.raises(ValueError, match="a folder, not a sound"):
        read_sound(tmp_path, 8000, 1)
    with pytest.raises(ValueError, match="not all samples are finite"):
        read_sound((np.array([0, np.nan]), 8000), 8000, 1)
