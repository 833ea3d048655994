"""Requests to a vocoder, and their checks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.decoding.folding import plan_folds
from wavernn_trt.runtime.decoding.uniforms import GivenUniforms, SeededUniforms, UniformSource, check_seed
from wavernn_trt.runtime.errors import VocoderError, check_positive
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.scheduling.utterance import Utterance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One utterance to vocode."""

    mel: ArrayLike
    """float [n_mels, frames], in the model's range (``config.audio.mel_range``)."""
    seed: int = 0
    """Seed of the random numbers that samples are drawn with, 0 … 2**64 - 1."""
    uniforms: ArrayLike | None = None
    """The random numbers themselves, [frames * hop_length] or, for mixtures, [frames * hop_length, 2]."""
    fold: int | None = None
    """Samples of a fold: cuts the utterance into folds that are decoded in parallel; faster for long utterances."""
    overlap: int | None = None
    """Samples over which folds are crossfaded; ``None`` is 550."""
    sample_rate: int | None = None
    """Hz that the mel was made for; if given, it is checked."""
    samples: int | None = None
    """Maximum number of samples to decode, from the first."""
    warn: bool = True
    """Log a warning if the mel cannot be what the model was trained on (`mel_warnings`)."""


def prepare(request: Request, loaded: LoadedModel, streams: int = 1, *, copy: bool = True) -> Utterance:
    """Checks a request and returns it as an utterance for the scheduler.

    Args:
        request: the request.
        loaded: the model.
        streams: maximum number of streams decoded in parallel.
        copy: whether the caller may change the mel before the utterance is decoded.

    Raises:
        VocoderError: a value in the request is not valid.
    """
    model, audio, conditioner = loaded.model, loaded.audio, loaded.conditioner
    mel = check_mel(request.mel, audio, request.sample_rate)
    if copy and np.may_share_memory(mel, np.asarray(request.mel)):
        mel = mel.copy()
    if request.warn:
        for warning in mel_warnings(mel, audio):
            logger.warning("%s", warning)
    frames = mel.shape[1]
    steps = frames * audio.hop_length
    if request.samples is not None:
        steps = min(steps, check_positive("samples", request.samples))
    folds = plan_folds(steps, request.fold, request.overlap)
    numbers = _uniforms(request, model, steps, len(folds))

    # The conditioning of the next fold begins while earlier folds are decoded.
    at_a_time = 1 if len(folds) == 1 else min(len(folds), streams + 1)
    return Utterance(
        lambda: conditioner(mel),
        conditioner.frames_of_a_run(frames),
        steps,
        conditioner.nbytes(frames, at_a_time),
        folds if len(folds) > 1 else (),
        numbers,
        lambda: OutputGuard(model, audio, mel),
    )


def _uniforms(request: Request, model: ModelConfig, steps: int, folds: int) -> Callable[[int], UniformSource]:
    given = request.uniforms
    if given is None:
        seed = check_seed(request.seed)
        return lambda fold: SeededUniforms(model, seed, fold)
    if folds > 1:
        raise VocoderError(
            f"uniforms: found some together with fold, expected either; this mel's {steps} steps make {folds} folds, "
            "each with a warm-up that takes random numbers of its own"
        )
    checked = GivenUniforms(model, given, steps)
    return lambda fold: checked.restarted()
