"""A sound file to samples: one channel, float, in [-1, 1], at the rate that is asked for, and only the part that is needed.

Plain WAV is read with the standard library; everything else (FLAC, OGG, MP3, float WAV) and another sampling rate need the extra `audio`.
soundfile (libsndfile) reads what is common and can start in the middle; SciPy's polyphase filter resamples without an echo of what is above
half the new rate. torchaudio, the other candidate, has handed reading of files over to torchcodec, which needs FFmpeg.
"""

import math
import wave
from os import PathLike

import numpy as np

Sound = str | PathLike[str] | tuple[np.ndarray, int]  # a file, or samples and their rate
_EXTRA = "pip install 'effnet-zoo[audio]'"


def read_sound(sound: Sound, sample_rate: int, seconds: float) -> np.ndarray:
    """`[samples]` float32: the middle `seconds` of a longer sound, all of a shorter one.

    Args:
        sound: path of a file, or (samples, rate): `[n]` or `[n, channels]`, float in [-1, 1] or integers of the full range.
        sample_rate: of the result, in Hz.
        seconds: at most so much is read.

    Raises:
        ValueError: the file is missing or no sound, or there are no samples, or one is not finite; with the file's name.
        ImportError: the extra `audio` is needed and not installed.
    """
    where = "the samples" if isinstance(sound, tuple) else str(sound)
    samples, rate = _middle(*sound, seconds) if isinstance(sound, tuple) else _read(where, seconds)
    if not samples.size:
        raise ValueError(f"{where}: no samples; expected a sound")
    if not np.isfinite(samples).all():
        raise ValueError(f"{where}: not all samples are finite")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if rate != sample_rate:
        try:
            from scipy.signal import resample_poly
        except ImportError as error:
            raise ImportError(f"{where}: {rate} Hz to {sample_rate} Hz needs SciPy: {_EXTRA}") from error
        common = math.gcd(rate, sample_rate)
        mono = resample_poly(mono, sample_rate // common, rate // common)
    return mono.astype(np.float32)


def _part(frames: int, rate: int, seconds: float) -> tuple[int, int]:
    """First frame and number of frames of the middle."""
    wanted = min(frames, math.ceil(seconds * rate))
    return (frames - wanted) // 2, wanted


def _middle(samples: np.ndarray, rate: int, seconds: float) -> tuple[np.ndarray, int]:
    samples = np.asarray(samples)
    start, count = _part(len(samples), rate, seconds)
    part = samples[start : start + count]
    return (part / -float(np.iinfo(part.dtype).min) if part.dtype.kind == "i" else part.astype(np.float64)), rate


def _read(path: str, seconds: float) -> tuple[np.ndarray, int]:
    try:
        with wave.open(path, "rb") as plain:
            start, count = _part(plain.getnframes(), plain.getframerate(), seconds)
            plain.setpos(start)
            return _pcm(plain.readframes(count), plain.getsampwidth()).reshape(-1, plain.getnchannels()), plain.getframerate()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: {'a folder, not a sound' if isinstance(error, IsADirectoryError) else 'no such file'}") from error
    except (wave.Error, EOFError, ValueError):
        pass  # not plain WAV: it may be any other format
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"{path}: not plain WAV, and other sounds need soundfile: {_EXTRA}") from error
    try:
        with soundfile.SoundFile(path) as file:
            start, count = _part(file.frames, file.samplerate, seconds)
            file.seek(start)
            return file.read(count, dtype="float64", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def _pcm(data: bytes, width: int) -> np.ndarray:
    """Samples of 1 byte (unsigned) or 2, 3, 4 bytes (signed, little-endian) to [-1, 1)."""
    if width == 1:
        return np.frombuffer(data, np.uint8) / 128.0 - 1
    whole = np.frombuffer(data[: len(data) // width * width], np.uint8).reshape(-1, width)
    wide = np.zeros((len(whole), 4), np.uint8)
    wide[:, 4 - width :] = whole  # the sign is in the last byte
    return wide.reshape(-1).view("<i4") / 2.0**31
