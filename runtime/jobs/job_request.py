"""A job's input as a request to the vocoder."""

from __future__ import annotations

import numpy as np

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.input_files import is_mel
from wavernn_trt.runtime.files.mel_file import holds_mel, read_mel
from wavernn_trt.runtime.files.recording import read_recording
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions
from wavernn_trt.runtime.mel_comparison.conventions import convert
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder


def read_request(vocoder: Vocoder, job: Job, options: JobOptions) -> tuple[Request, tuple[str, ...]]:
    """Reads a mel, or a recording that is analysed first.

    Args:
        vocoder: of the request.
        job: whose input is read.
        options: of all jobs.

    Returns:
        The request, and what is wrong with an input that could be read all the same.

    Raises:
        ValueError: the input is not usable.
        OSError: it cannot be read.
    """
    if job.content == b"":
        raise VocoderError(f"{job.input}: found nothing, expected a recording or a mel")
    if is_mel(job.input) if job.content is None else holds_mel(job.content):
        mel, audio = read_mel(job.input, job.content), vocoder.config.audio
        if options.mel_from is not None:
            mel = convert(mel, options.mel_from, audio)
        warnings = tuple(mel_warnings(mel, audio))
        return Request(mel, job.seed, None, options.fold, options.overlap, job.sample_rate, warn=False), warnings
    recording = read_recording(job.input, job.content)
    mel = vocoder.mel(recording.samples, recording.sample_rate)
    return Request(mel, job.seed, None, options.fold, options.overlap, warn=False), recording.warnings


def request_bytes(vocoder: Vocoder, request: Request) -> int:
    """Bytes of a request's mel and of its waveform."""
    mel = np.asarray(request.mel)
    frames = mel.shape[-1] if mel.ndim else 0
    return mel.nbytes + frames * vocoder.config.audio.hop_length * np.dtype(np.float32).itemsize
