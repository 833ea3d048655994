"""Requests: what callers may ask of a vocoder, and how it is checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.decoding.folding import plan_folds
from wavernn_trt.runtime.decoding.uniforms import GivenUniforms, SeededUniforms, UniformSource, check_seed
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings
from wavernn_trt.runtime.scheduling.utterance import Utterance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One utterance asked for."""

    mel: ArrayLike
    """float [n_mels, frames], in the model's range (``config.audio.mel_range``)."""
    seed: int = 0
    """Of the random numbers that samples are drawn with, 0 … 2**64 - 1."""
    uniforms: ArrayLike | None = None
    """Those random numbers themselves, [frames * hop_length] or, for mixtures, [frames * hop_length, 2]."""
    fold: int | None = None
    """Cut the utterance into folds of this many samples, which are decoded together; faster for long ones."""
    overlap: int | None = None
    """Samples over which folds are crossfaded; ``None`` is 550."""
    sample_rate: int | None = None
    """Hz that the mel was made for; if given, it is checked."""
    samples: int | None = None
    """Decode no more than the first so many."""
    warn: bool = True
    """Log a warning where the mel cannot be as the model was trained on (`mel_warnings`)."""


def prepare(request: Request, loaded: LoadedModel, streams: int = 1, *, copy: bool = True) -> Utterance:
    """Checks a request.

    Args:
        request: what is asked.
        loaded: the model.
        streams: that are decoded at a time, at most.
        copy: whether the caller may change the mel before the utterance is decoded.

    Raises:
        VocoderError: something in it is not usable; the message says what was found and what is expected.
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
        steps = min(steps, _check_samples(request))
    folds = plan_folds(steps, request.fold, request.overlap)
    numbers = _uniforms(request, model, steps, len(folds))

    # Of a folded utterance, the next fold's first rows are computed while those before it are decoded.
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


def _check_samples(request: Request) -> int:
    wanted = request.samples
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or wanted < 1:
        raise VocoderError(f"samples: found {wanted!r}, expected a positive number of samples")
    return int(wanted)


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
    return lambda fold: checked.again()
