"""Comparison of a mel spectrogram with a model's own features of the same recording.

Hypotheses of how the mel was computed are fitted to it with free levels (an affine map). The hypothesis with the
smallest residual, and its map, are compared with the model's settings. A difference is reported only if it explains the
mel; if none does, the result is marked as not identified.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.copy_synthesis import SILENT_PEAK
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import FilterNorm
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.mel_comparison.alignment import Alignment, alignments, expected_frames
from wavernn_trt.runtime.mel_comparison.analysis import AnalysedRecording, Analysis, model_analysis
from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS
from wavernn_trt.runtime.mel_comparison.faults import (
    MelComparison,
    MelFault,
    analysis_faults,
    level_faults,
    linear_faults,
    published_name,
)
from wavernn_trt.runtime.mel_comparison.levels import SAME_DB, identify, model_levels
from wavernn_trt.runtime.mel_comparison.search import EXACT_DB, Explanation, Search, best_of

_OTHER_HOPS_DB = 0.7
"""Residual above which other hop lengths are tried, with the same number of frames within two."""
_SAME_LEVEL_DB = 0.1
"""Difference of level below which another analysis is preferred to another reference level."""
_PUBLISHED_FRAMES = 3
"""Difference in the number of frames up to which a published convention is tried."""
_PUBLISHED_GAIN = 0.6
"""Share of the residual below which a published convention is preferred."""
_MIN_MAGNITUDE = 1e-12
"""Floor before the logarithm of values without one."""


def compare_mel(mel: ArrayLike, waveform: ArrayLike, sample_rate: int, audio: AudioConfig) -> MelComparison:
    """Compares a mel spectrogram with a model's own features of the same recording.

    Args:
        mel: float [n_mels, frames]; a transposed mel or a batch axis of one is accepted and reported.
        waveform: float [samples], mono, in [-1, 1]: the recording that the mel was computed from.
        sample_rate: Hz of the recording.
        audio: the model's audio settings (``vocoder.config.audio``).

    Returns:
        The differences, and how to convert each.

    Raises:
        VocoderError: not a mel or not a recording, or too short or too quiet to compare.
    """
    values = np.asarray(mel)
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise VocoderError(f"mel: found {values.dtype} {values.shape}, expected finite floating-point numbers")
    shape_faults: list[MelFault] = []
    if values.ndim == 3 and values.shape[0] == 1:
        shape = f"shape {list(values.shape)}"
        shape_faults.append(MelFault("batch axis", shape, "one mel [n_mels, frames]", "pass mel[0]", True))
        values = values[0]
    if values.ndim != 2 or min(values.shape) < 1:
        raise VocoderError(
            f"mel: found shape {values.shape}, expected [{audio.n_mels}, frames]; "
            "compare the mels of a batch one by one"
        )
    compared: list[MelComparison] = []
    for transposed in _orientations(values.shape, audio.n_mels):
        compared.append(_compare(values.T if transposed else values, transposed, waveform, sample_rate, audio))
        if compared[-1].identified:
            break
    best = min(compared, key=lambda each: each.residual_db)
    return dataclasses.replace(best, faults=(*shape_faults, *best.faults))


def _orientations(shape: tuple[int, ...], n_mels: int) -> list[bool]:
    """Returns whether to transpose; both answers if the shape is ambiguous."""
    bands, frames = shape[0] == n_mels, shape[1] == n_mels
    if bands != frames:
        return [frames]
    if bands:
        return [False, True]
    return [shape[0] > shape[1]]  # another number of bands, assumed to be smaller than the number of frames


def _compare(
    mel: NDArray[np.floating], transposed: bool, waveform: ArrayLike, sample_rate: int, audio: AudioConfig
) -> MelComparison:
    samples = np.asarray(waveform, np.float32)
    peak = float(np.abs(resample(samples, sample_rate, audio.sample_rate)).max())  # as in `adapt_recording`
    if peak < SILENT_PEAK:
        raise VocoderError("recording: found silence, expected speech")
    recording = AnalysedRecording(samples, sample_rate, audio.peak)
    faults: list[MelFault] = []
    if transposed:
        shape = f"shape {list(mel.T.shape)}, [frames, n_mels]"
        faults.append(MelFault("transposed", shape, f"[{audio.n_mels}, frames]", "pass mel.T", True))
    model = model_analysis(audio)
    if mel.shape[0] != audio.n_mels:
        faults.append(
            MelFault("mel bands", str(mel.shape[0]), str(audio.n_mels), "compute the mel from the recording", False)
        )
        model = dataclasses.replace(model, n_mels=mel.shape[0])
    values = mel.astype(np.float64)
    explanation, linear, search = _explain(values, recording, model)
    gain_db = None if audio.peak is None else 20 * math.log10(audio.peak / peak)
    peak_db = 20 * math.log10(peak)
    if not linear:
        explanation = _best_level(explanation, search, audio, gain_db, peak_db)
    notes = list(_notes(values.shape[1], recording, explanation, model))
    faults += analysis_faults(explanation.analysis, model)
    found, typical = explanation.map, explanation.typical_db
    convention = scale = offset = None
    deviation = math.nan
    if math.isfinite(explanation.residual_db):
        if linear:
            levels = linear_faults(found, explanation.analysis, audio)
        else:
            merged = explanation.analysis.power != model.power
            levels, note, scale, offset = level_faults(explanation, audio, gain_db, peak_db, merged)
            if note:
                notes.append(note)
            convention = published_name(found, typical, explanation.analysis) if levels else None
            if explanation.analysis.signal_rate == model.signal_rate:
                deviation = search.deviation_db(model, explanation.delay, model_levels(audio))
        faults += levels
    return MelComparison(tuple(faults), tuple(notes), deviation, explanation.residual_db, scale, offset, convention)


def _explain(values: DoubleArray, recording: AnalysedRecording, model: Analysis) -> tuple[Explanation, bool, Search]:
    """Returns the best explanation, whether it treats the values as not logarithmic, and its search."""
    loudness = values.mean(axis=0)
    hypotheses = alignments(loudness, recording, model)
    searches = [(False, Search(values, recording))]
    if values.min() >= 0:
        searches.append((True, Search(20 * np.log10(np.maximum(values, _MIN_MAGNITUDE)), recording)))
    usable = [(linear, search) for linear, search in searches if search.enough]
    if not usable:
        raise VocoderError(
            f"mel: found {values.shape[1]} frames with too few loud cells to compare; give a mel and a recording of at "
            "least a second of speech"
        )
    starts = [(search.best_alignment(hypotheses, model), linear, search) for linear, search in usable]
    # The slope is 1 or 2, unless the values are logarithmic already: then their logarithm is not a straight line.
    starts = [each for each in starts if not each[1] or 0.6 <= each[0].map.scale <= 2.6] or starts
    explained: list[tuple[Explanation, bool, Search]] = []
    for start, linear, search in sorted(starts, key=lambda each: each[0].residual_db):
        explained.append((_searched(start, values, hypotheses, search, recording, model), linear, search))
        if explained[-1][0].residual_db <= EXACT_DB:
            break
    return min(explained, key=lambda each: each[0].residual_db)


def _searched(
    start: Explanation,
    values: DoubleArray,
    hypotheses: list[Alignment],
    search: Search,
    recording: AnalysedRecording,
    model: Analysis,
) -> Explanation:
    """Returns the best explanation found from a start, or from further starts if that leaves a residual."""
    found = search.search(start, model)
    if found.residual_db > EXACT_DB and start.analysis != model:
        own = search.best_alignment([each for each in hypotheses if each.analysis == model], model)
        found = best_of(found, search.search(own, model))
    if found.residual_db > EXACT_DB:
        found = _published(found, values.shape[1], search, recording, model)
    if found.residual_db > _OTHER_HOPS_DB and found.analysis.hop_length == model.hop_length:
        others = alignments(values.mean(axis=0), recording, model, other_hops=True)
        start = search.best_alignment(others, model, most=40)
        if start.analysis.hop_length != model.hop_length:
            found = best_of(found, search.search(start, model))
    return found


def _published(
    found: Explanation, frames: int, search: Search, recording: AnalysedRecording, model: Analysis
) -> Explanation:
    """Returns the analysis of a published convention if it explains the mel better; several settings may differ."""
    best = found
    for each in CONVENTIONS:
        if each.sample_rate is None or each.hop_length is None or each.win_length is None or each.n_fft is None:
            continue
        fmax = None if each.fmax == math.inf else each.fmax
        norm: FilterNorm = "none" if each.filters == "htk" else "sum" if each.filters == "sum" else "slaney"
        analysis = Analysis(
            each.sample_rate, each.sample_rate, each.hop_length, each.win_length, each.n_fft, model.n_mels,
            each.fmin or 0.0, fmax, each.preemphasis or 0.0, norm,
            "htk" if each.filters == "htk" else "slaney", each.power,
        )  # fmt: skip
        if abs(expected_frames(recording, analysis) - frames) > _PUBLISHED_FRAMES:
            continue
        tried = [search.explain(analysis, hops * each.hop_length) for hops in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        nearest = search.aligned(best_of(*tried))
        if nearest.residual_db < max(EXACT_DB, _PUBLISHED_GAIN * best.residual_db):
            best = nearest
    return best


def _best_level(
    explanation: Explanation, search: Search, audio: AudioConfig, gain_db: float | None, peak_db: float
) -> Explanation:
    """Selects, among explanations that differ by a constant level only, one with the model's level."""

    def offset(tried: Explanation, same_db: float) -> bool:
        levels = identify(tried.map, tried.typical_db, audio, tried.residual_db, gain_db, peak_db, same_db)
        return any(kind == "dB reference" for kind, _ in levels.faults)

    if math.isinf(explanation.residual_db) or not offset(explanation, SAME_DB):
        return explanation
    return next((other for other in search.as_good(explanation) if not offset(other, _SAME_LEVEL_DB)), explanation)


def _notes(frames: int, recording: AnalysedRecording, explanation: Explanation, model: Analysis) -> Iterator[str]:
    analysis = explanation.analysis
    if math.isinf(explanation.residual_db):
        yield "the loudness of the mel does not follow the recording's: is it another recording?"
        return
    expected = expected_frames(recording, analysis)
    if frames != expected:
        yield f"{frames} frames, where the recording has {expected}"
    delay = explanation.delay
    if analysis.stft == "lws":
        delay -= analysis.hop_length - analysis.n_fft / 2
    if abs(delay) >= max(2.0, analysis.hop_length / 20):
        yield (
            f"frames are centred {abs(delay):.0f} samples {'later' if delay > 0 else 'earlier'} than the model's "
            f"({delay / analysis.hop_length:+.2f} hops)"
        )
