"""Recordings and mels from files, waveforms to files."""

from __future__ import annotations

import io
import logging
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.output_files import WholeFile
from wavernn_trt.runtime.streaming.pcm import to_int16

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

    check_regular(path)
    try:
        # Opened here, because libsndfile would say "System error" for a missing file.
        with Path(path).open("rb") as file:
            samples, sample_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, TypeError) as error:  # libsndfile's errors are RuntimeErrors
        # The message would name the open file as Python prints it; libsndfile's own reason does not.
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise VocoderError(f"{path}: not a recording that can be read ({reason}); expected WAV, FLAC or Ogg") from None
    if not len(samples):
        raise VocoderError(f"{path}: found no samples, expected a recording")
    if not np.isfinite(samples).all():
        raise VocoderError(f"{path}: found NaN or infinite samples, expected finite ones")
    return samples.mean(axis=1, dtype=np.float32), int(sample_rate)


def resample(waveform: ArrayLike, sample_rate: float, target: int) -> FloatArray:
    """A mono waveform at another rate (soxr, very high quality).

    Args:
        waveform: float [samples].
        sample_rate: its rate in Hz, a whole number.
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
    number = isinstance(sample_rate, int | float | np.integer | np.floating) and not isinstance(sample_rate, bool)
    if not number or not SLOWEST <= sample_rate <= FASTEST or sample_rate != int(sample_rate):
        raise VocoderError(
            f"sample rate: found {sample_rate!r}, expected a whole number of Hz from {SLOWEST} to {FASTEST}"
        )
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
    check_regular(path)
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # numpy parses the header as Python, and lets that parser's errors through
        raise VocoderError(f"{path}: not an array that can be read ({error}); save it with numpy.save") from None
    if not isinstance(values, np.ndarray):
        raise VocoderError(f"{path}: found an archive of arrays, expected one array; save it with numpy.save")
    return values


def check_regular(path: str | Path) -> None:
    """Refuses what is not a regular file; opening a pipe would wait for its writer for ever.

    Raises:
        VocoderError: not there, or a folder, pipe or device.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe or device"
        raise VocoderError(f"{path}: found a {kind}, expected a regular file")


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
    clipped = 0 if floating else clipped_samples(waveform)
    if clipped:
        logger.warning("%s", clipping(Path(path), clipped, len(waveform)))
    begin_wav(path, waveform, sample_rate, floating=floating).publish()


def clipped_samples(waveform: FloatArray) -> int:
    """How many samples 16 bits do not hold."""
    return int((np.abs(waveform) > 1).sum())


def clipping(path: Path, clipped: int, samples: int) -> str:
    """What is to be said of a file with clipped samples."""
    return f"{path}: {clipped} of {samples} samples are clipped; --float keeps them"


def begin_wav(path: str | Path, waveform: FloatArray, sample_rate: int, *, floating: bool = False) -> WholeFile:
    """Writes a mono WAV file that has no name yet; see `write_wav`.

    Returns:
        The file, to be flushed, published or discarded.
    """
    import soundfile

    # By way of memory: libsndfile hides what the operating system says of a disk that is full.
    content = io.BytesIO()
    samples = np.asarray(waveform, np.float32)
    # 16 bits are rounded here, as those of streams are: libsndfile rounds down, which is half a step of offset.
    encoded, subtype = (samples, "FLOAT") if floating else (to_int16(samples), "PCM_16")
    soundfile.write(content, encoded, sample_rate, subtype=subtype, format="WAV")
    file = WholeFile(Path(path))
    file.write(content.getbuffer())
    return file
