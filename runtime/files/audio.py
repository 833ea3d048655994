"""Reads recordings and mels, resamples, and writes WAV files."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.mel_file import read_mel as read_mel
from wavernn_trt.runtime.files.output_files import OutputFile, WholeFile, prepare_output
from wavernn_trt.runtime.files.recording import read_recording
from wavernn_trt.runtime.files.standard_streams import StandardOutput, is_standard_output
from wavernn_trt.runtime.streaming.pcm import to_int16

logger = logging.getLogger(__name__)

SLOWEST, FASTEST = 1000, 1_000_000
"""Accepted sample rates in Hz; a damaged header may state any rate, and resampling from 1 Hz would take hours."""


def read_audio(path: str | Path) -> tuple[FloatArray, int]:
    """Reads a recording and mixes it down to one channel; logs a warning if the file is cut short.

    Args:
        path: WAV, FLAC, Ogg, MP3, or another format of libsndfile.

    Returns:
        float32 [samples] in [-1, 1], and the sample rate in Hz.

    Raises:
        VocoderError: the file is missing, not readable, empty, or has non-finite samples.
    """
    recording = read_recording(path)
    for warning in recording.warnings:
        logger.warning("%s: %s", path, warning)
    return recording.samples, recording.sample_rate


def resample(waveform: ArrayLike, sample_rate: float, target: int) -> FloatArray:
    """Resamples a mono waveform (soxr, very high quality).

    Args:
        waveform: float [samples].
        sample_rate: Hz of the waveform, a whole number.
        target: Hz of the result.

    Raises:
        VocoderError: the waveform is not mono, empty or not finite, or the sample rate is not valid.
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


def write_wav(path: str | Path, waveform: FloatArray, sample_rate: int, *, floating: bool = False) -> None:
    """Writes a mono WAV file atomically: a partial file never has the final name.

    Args:
        path: the file; its folder is created if necessary.
        waveform: float32 [samples]; 16-bit samples are clipped to [-1, 1].
        sample_rate: Hz.
        floating: 32-bit floating-point samples instead of 16-bit integers.

    Raises:
        OSError: the file cannot be written.
    """
    clipped = 0 if floating else clipped_samples(waveform)
    if clipped:
        logger.warning("%s", clipping_text(Path(path), clipped, len(waveform)))
    if not is_standard_output(Path(path)):
        prepare_output(Path(path), prove=False)
    begin_wav(path, waveform, sample_rate, floating=floating).publish()


def clipped_samples(waveform: FloatArray) -> int:
    """Counts the samples outside [-1, 1], which 16-bit files clip."""
    return int((np.abs(waveform) > 1).sum())


def clipping_text(path: Path, clipped: int, samples: int) -> str:
    """Returns the warning for a file with clipped samples."""
    return f"{path}: {clipped} of {samples} samples are clipped; --float keeps them"


def begin_wav(path: str | Path, waveform: FloatArray, sample_rate: int, *, floating: bool = False) -> OutputFile:
    """Writes a mono WAV file without publishing it; arguments as for `write_wav`.

    Returns:
        The file, to be flushed, published or discarded.
    """
    import soundfile

    # Encoded in memory: libsndfile hides the operating system's error when a disk is full.
    content = io.BytesIO()
    samples = np.asarray(waveform, np.float32)
    # Rounded to 16 bits here, as in streams: libsndfile rounds down, an offset of half a step.
    encoded, subtype = (samples, "FLOAT") if floating else (to_int16(samples), "PCM_16")
    soundfile.write(content, encoded, sample_rate, subtype=subtype, format="WAV")
    file = StandardOutput() if is_standard_output(Path(path)) else WholeFile(Path(path))
    file.write(content.getbuffer())
    return file
