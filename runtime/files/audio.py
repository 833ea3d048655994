"""Recordings and mels from files, waveforms to files."""

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
"""Hz; a damaged header may name any rate, and a second at 1 Hz would become an hour of resampling."""


def read_audio(path: str | Path) -> tuple[FloatArray, int]:
    """Reads a recording and mixes it down to one channel; a warning is logged where the file is cut short.

    Args:
        path: WAV, FLAC, Ogg, MP3, or whatever else libsndfile reads.

    Returns:
        float32 [samples] in [-1, 1], and the sample rate in Hz.

    Raises:
        VocoderError: not there, not readable, empty, or not finite.
    """
    recording = read_recording(path)
    for warning in recording.warnings:
        logger.warning("%s: %s", path, warning)
    return recording.samples, recording.sample_rate


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
    if not is_standard_output(Path(path)):
        prepare_output(Path(path), prove=False)
    begin_wav(path, waveform, sample_rate, floating=floating).publish()


def clipped_samples(waveform: FloatArray) -> int:
    """How many samples 16 bits do not hold."""
    return int((np.abs(waveform) > 1).sum())


def clipping(path: Path, clipped: int, samples: int) -> str:
    """What is to be said of a file with clipped samples."""
    return f"{path}: {clipped} of {samples} samples are clipped; --float keeps them"


def begin_wav(path: str | Path, waveform: FloatArray, sample_rate: int, *, floating: bool = False) -> OutputFile:
    """Writes a mono WAV file that has no name yet, or keeps it back from standard output; see `write_wav`.

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
    file = StandardOutput() if is_standard_output(Path(path)) else WholeFile(Path(path))
    file.write(content.getbuffer())
    return file
