"""Scores a model on speech: teacher-forced bits per sample, and the similarity of its free-running output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.calibration.judge import Judge
from wavernn_trt.calibration.likelihood import bits_of_samples
from wavernn_trt.calibration.likeness import Likeness, likeness
from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.copy_synthesis import SILENT_PEAK, adapt_recording
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

Progress = Callable[[int], None]
"""Called with the number of samples done since the last call."""


@dataclass(frozen=True)
class Score:
    """Result of `score`."""

    bits: float
    """Negative log-likelihood, teacher-forced: the mean over the recording's samples, in bits."""
    samples: int
    """Samples of the recording at the model's rate, over which the mean is taken."""
    correlation: float | None
    """Pearson's correlation of the log-mels of free-running output and recording, over all bins and frames; ``None``
    where there is no output or one of them is constant."""
    seconds: float
    """Seconds of free-running output in the correlation."""


@dataclass(frozen=True)
class Speech:
    """A recording with one model's audio settings."""

    waveform: FloatArray
    """float32 [samples], at the model's rate and level."""
    mel: FloatArray
    """Its mel, float32 [n_mels, frames]."""
    text: str | None = None
    """What is spoken, if known."""


@dataclass(frozen=True)
class Fit:
    """Teacher-forced bits of one recording."""

    bits: float
    """Sum over its samples."""
    samples: int


def score(
    vocoder: Vocoder,
    waveform: ArrayLike,
    sample_rate: int,
    *,
    seed: int = 0,
    seconds: float | None = None,
    free_running: bool = True,
) -> Score:
    """Scores a model on a recording.

    Args:
        vocoder: the model.
        waveform: float [samples], mono, in [-1, 1].
        sample_rate: its rate in Hz; it is resampled to the model's.
        seed: seed of the free-running output.
        seconds: length of that output from the start; ``None`` is the whole recording.
        free_running: whether to make that output; it takes about as long as teacher forcing.

    Raises:
        VocoderError: an invalid recording, seed or length.
    """
    speech = analyse(vocoder.loaded.audio, waveform, sample_rate)
    fit = next(fit_speech(vocoder.loaded, [speech]))[1]
    if not free_running:
        return Score(fit.bits / fit.samples, fit.samples, None, 0.0)
    found = next(compare_speech(vocoder, [speech], seeds=[seed], seconds=seconds))[2]
    return Score(fit.bits / fit.samples, fit.samples, found.moments.correlation, found.samples / vocoder.sample_rate)


def analyse(audio: AudioConfig, waveform: ArrayLike, sample_rate: int) -> Speech:
    """Computes the mel of a recording, for `fit_speech` and `compare_speech`.

    Args:
        audio: the model's audio settings.
        waveform: float [samples], mono, in [-1, 1].
        sample_rate: its rate in Hz.

    Raises:
        VocoderError: an invalid recording.
    """
    recording = adapt_recording(waveform, sample_rate, audio)
    try:
        mel = check_mel(mel_spectrogram(recording, audio), audio)
    except ValueError as error:
        raise VocoderError(str(error)) from None
    if mel.shape[1] * audio.hop_length <= audio.delay:
        raise VocoderError(f"waveform: found {len(recording)} samples, expected at least {audio.delay}")
    return Speech(recording, mel)


def analyse_speech(audio: AudioConfig, waveform: ArrayLike, sample_rate: int) -> Speech:
    """Like `analyse`, for measuring ranges or losses, where silence is useless.

    Raises:
        VocoderError: an invalid recording, or silence.
    """
    speech = analyse(audio, waveform, sample_rate)
    peak = float(np.abs(speech.waveform).max())
    if peak < SILENT_PEAK:
        raise VocoderError(f"found silence (a peak of {peak:.1e}), expected speech")
    return speech


def fit_speech(
    loaded: LoadedModel, speeches: Iterable[Speech], progress: Progress | None = None
) -> Iterator[tuple[int, Fit]]:
    """Teacher-forces recordings in batches of the model's size; memory does not grow with their length.

    The model's output is delayed by ``audio.delay`` samples. Silence is fed before the recording, and those steps do
    not count.

    Args:
        loaded: the model.
        speeches: from `analyse`; a generator is advanced when a slot of the batch is free.
        progress: called with the number of samples done.

    Yields:
        A recording's index and its fit, when it ends.
    """
    audio, coding = loaded.audio, loaded.coding
    samples: list[NDArray[Any]] = []
    bits: list[float] = []

    def utterances() -> Iterator[tuple[FloatArray, NDArray[Any]]]:
        for speech in speeches:
            steps = speech.mel.shape[1] * audio.hop_length
            samples.append(coding.samples(np.pad(speech.waveform, (audio.delay, 0)))[:steps])
            bits.append(0.0)
            yield speech.mel, samples[-1]

    for piece in loaded.forced_pieces(utterances()):
        skipped = min(len(piece.logits), max(0, audio.delay - piece.start))
        logits = piece.logits[skipped:]
        fed = samples[piece.stream][piece.start + skipped :][: len(logits)]
        bits[piece.stream] += float(bits_of_samples(loaded.model, logits, fed).sum())
        if progress:
            progress(len(fed))
        if piece.last:
            count = len(samples[piece.stream]) - audio.delay
            samples[piece.stream] = np.zeros(0)
            yield piece.stream, Fit(bits[piece.stream], count)


def compare_speech(
    vocoder: Vocoder,
    speeches: Iterable[Speech],
    *,
    seeds: Sequence[int] = (0,),
    seconds: float | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, int, Likeness]]:
    """Re-synthesises recordings and compares the results with them.

    Args:
        vocoder: the model.
        speeches: as for `fit_speech`.
        seeds: of the outputs, one for each seed and recording.
        seconds: length of an output from the start; ``None`` is the whole recording.
        judge: also judges pitch, voicing and, of whole recordings whose text is known, words.
        progress: called with the number of samples decoded.

    Yields:
        A recording's index, a seed and the likeness, when the output ends.

    Raises:
        VocoderError: an invalid seed or length.
    """
    audio = vocoder.config.audio
    limit = seconds_to_samples(seconds, audio.sample_rate)
    numbers = itertools.count()
    compared: dict[int, tuple[int, int, FloatArray, str | None]] = {}

    def requests() -> Iterator[Request]:
        for index, speech in enumerate(speeches):
            wanted = audio.delay + min(len(speech.waveform), limit or len(speech.waveform))
            stop = min(speech.mel.shape[1] * audio.hop_length, wanted)
            original = speech.waveform[: stop - audio.delay]
            for seed in seeds:
                compared[next(numbers)] = index, seed, original, None if limit else speech.text
                # The whole recording is conditioned, even if only its beginning is decoded.
                yield Request(speech.mel, seed, samples=stop)

    for number, ticket in vocoder.vocode_many(requests(), order="completed", progress=progress):
        index, seed, original, text = compared.pop(number)
        yield index, seed, likeness(ticket.result()[audio.delay :], original, audio, judge, text)


def seconds_to_samples(seconds: float | None, sample_rate: int) -> int | None:
    """Converts a length of output to samples.

    Raises:
        VocoderError: it is not positive, or less than a sample.
    """
    if seconds is None:
        return None
    if not math.isfinite(seconds) or round(seconds * sample_rate) < 1:
        raise VocoderError(f"seconds: found {seconds}, expected a positive number of at least a sample's length")
    return round(seconds * sample_rate)
