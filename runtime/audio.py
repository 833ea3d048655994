"""Recordings and mels from files, waveforms to files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.runtime.errors import VocoderError

FloatArray = NDArray[np.float32]
logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
"""Recordings that are looked for in folders."""
MEL_SUFFIX = ".npy"
"""Mel spectrograms."""
SLOWEST, FASTEST = 1000, 1_000_000
"""Hz; a damaged header may name any rate, and a second at 1 Hz would become an hour of resampling."""


def read_audio(path: str | Path) -> tuple[FloatArray, int]:
    """Reads a recording and mixes it down to one channel.

    Args:
        path: WAV, FLAC, Ogg, or whatever else libsndfile reads.

    Returns:
        float32 [samples] in [-1, 1], and the sample rate in Hz.

    Raises:
        VocoderError: not there, not readable, empty, or not finite.
    """
    import soundfile  # loads libsndfile, which vocoding arrays does not need

    try:
        # Opened here, because libsndfile would say "System error" for a missing file.
        with Path(path).open("rb") as file:
            samples, sample_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, TypeError) as error:  # libsndfile's errors are RuntimeErrors
        raise VocoderError(f"{path}: not a recording that can be read ({error}); expected WAV, FLAC or Ogg") from None
    if not len(samples):
        raise VocoderError(f"{path}: found no samples, expected a recording")
    if not np.isfinite(samples).all():
        raise VocoderError(f"{path}: found NaN or infinite samples, expected finite ones")
    return samples.mean(axis=1, dtype=np.float32), int(sample_rate)


def resample(waveform: ArrayLike, sample_rate: int, target: int) -> FloatArray:
    """A mono waveform at another rate (soxr, very high quality).

    Args:
        waveform: float [samples].
        sample_rate: its rate in Hz.
        target: the rate wanted, in Hz.

    Raises:
        VocoderError: not mono, empty, not finite, or no sample rate.
    """
    samples = np.asarray(waveform)
    if samples.dtype.kind != "f" or samples.ndim != 1 or not samples.size:
        raise VocoderError(
            f"waveform: found {samples.dtype} {samples.shape}, expected floating-point [samples] in [-1, 1], mono"
        )
    if not np.isfinite(samples).all():
        raise VocoderError("waveform: found NaN or infinite samples, expected finite ones")
    whole = isinstance(sample_rate, int | np.integer) and not isinstance(sample_rate, bool)
    if not whole or not SLOWEST <= sample_rate <= FASTEST:
        raise VocoderError(f"sample rate: found {sample_rate!r}, expected a number of Hz from {SLOWEST} to {FASTEST}")
    samples = np.ascontiguousarray(samples, np.float32)
    if sample_rate == target:
        return samples
    import soxr  # only needed where rates differ

    resampled = np.asarray(soxr.resample(samples, int(sample_rate), target, quality="VHQ"), np.float32)
    if not len(resampled):
        raise VocoderError(
            f"waveform: found {len(samples)} samples at {sample_rate} Hz, expected more: nothing is left"
        )
    return resampled


def read_mel(path: str | Path) -> NDArray[np.generic]:
    """Reads a mel spectrogram that ``numpy.save`` wrote; pickled objects are not loaded.

    Raises:
        VocoderError: not there, or not an array of numbers.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # numpy parses the header as Python, and lets that parser's errors through
        raise VocoderError(f"{path}: not an array that can be read ({error}); save it with numpy.save") from None
    if not isinstance(values, np.ndarray):
        raise VocoderError(f"{path}: found an archive of arrays, expected one array; save it with numpy.save")
    return values


def write_wav(path: str | Path, waveform: FloatArray, sample_rate: int, *, floating: bool = False) -> None:
    """Writes a mono WAV file; at no time is there a partial file of that name.

    Args:
        path: where to; its folder is made if need be.
        waveform: float32 [samples]; in 16 bits, what is outside [-1, 1] is clipped.
        sample_rate: Hz.
        floating: 32-bit floating-point samples instead of 16-bit integers.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clipped = 0 if floating else int((np.abs(waveform) > 1).sum())
    if clipped:
        logger.warning("%s: %d of %d samples are clipped", path, clipped, len(waveform))
    import soundfile

    # In the same folder, so that the rename at the end does not cross file systems.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            subtype = "FLOAT" if floating else "PCM_16"
            soundfile.write(file, np.asarray(waveform, np.float32), sample_rate, subtype=subtype, format="WAV")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
