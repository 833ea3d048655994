"""Whether a mel spectrogram is what a model was trained on: a comparison with the model's own features of a recording.

Hypotheses of how the mel was computed are fitted to it with the levels left free (an affine map); the one that leaves
the smallest residual is compared with the model's settings, and so is the map. A difference is named only if it
explains the mel; where none does, the comparison says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.mel_comparison.alignment import Alignment, alignments, expected_frames
from wavernn_trt.runtime.mel_comparison.analysis import AnalysedRecording, Analysis, FilterNorm, model_analysis
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
from wavernn_trt.runtime.mel_comparison.search import EXACT_DB, Explanation, Search

_OTHER_HOPS_DB = 0.7
"""Residual above which hop lengths are tried that give the same number of frames, give or take two."""
_EXACTLY_DB = 0.1
"""Decibels; a constant level that another analysis has to meet to be preferred to another reference."""
_PUBLISHED_FRAMES = 3
"""Frames that a published convention's mel may have more or less than expected to be tried."""
_PUBLISHED_GAIN = 0.6
"""Share of the residual that it may leave at most to be preferred."""
_SILENT_PEAK = 1e-4
_SMALLEST = 1e-12
"""Of values without a logarithm."""


def compare_mel(mel: ArrayLike, waveform: ArrayLike, sample_rate: int, audio: AudioConfig) -> MelComparison:
    """Compares a mel spectrogram with a model's own features of the same recording.

    Args:
        mel: float, of any of the shapes that are found: [n_mels, frames], transposed, with a batch axis of one.
        waveform: float [samples], mono, in [-1, 1]: the recording that the mel was computed from.
        sample_rate: of the recording, in Hz.
        audio: the model's audio settings (``vocoder.config.audio``).

    Returns:
        What differs, and how to convert it.

    Raises:
        VocoderError: not a mel or not a recording, or too short or too quiet to compare.
    """
    values = np.asarray(mel)
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise VocoderError(f"mel: found {values.dtype} {values.shape}, expected finite floating-point numbers")
    shape_faults: list[MelFault] = []
    if values.ndim == 3 and values.shape[0] == 1:
        shape_faults.append(_fault_batch(values.shape))
        values = values[0]
    if values.ndim != 2 or min(values.shape) < 1:
        raise VocoderError(
            f"mel: found shape {values.shape}, expected [{audio.n_mels}, frames]; "
            "compare the mels of a batch one by one"
        )
    turns = _orientations(values.shape, audio.n_mels)
    compared: list[MelComparison] = []
    for turned in turns:
        compared.append(_compare(values.T if turned else values, turned, waveform, sample_rate, audio))
        if compared[-1].identified:
            break
    best = min(compared, key=lambda one: one.residual_db)
    return MelComparison(**{**vars(best), "faults": (*shape_faults, *best.faults)})


def _orientations(shape: tuple[int, ...], n_mels: int) -> list[bool]:
    """Whether to transpose; both where the shape does not tell."""
    bands, frames = shape[0] == n_mels, shape[1] == n_mels
    if bands != frames:
        return [frames]
    if bands:
        return [False, True]
    return [shape[0] > shape[1]]  # of another number of bands, of which there are fewer than frames


def _fault_batch(shape: tuple[int, ...]) -> MelFault:
    return MelFault("batch axis", f"shape {list(shape)}", "one mel [n_mels, frames]", "pass mel[0]", True)


def _compare(
    mel: NDArray[np.floating], turned: bool, waveform: ArrayLike, sample_rate: int, audio: AudioConfig
) -> MelComparison:
    samples = np.asarray(waveform, np.float32)
    peak = float(np.abs(resample(samples, sample_rate, audio.sample_rate)).max())  # as Vocoder.recording scales it
    if peak < _SILENT_PEAK:
        raise VocoderError("recording: found silence, expected speech")
    recording = AnalysedRecording(samples, sample_rate, audio.peak)
    faults: list[MelFault] = []
    if turned:
        shape = f"shape {list(mel.T.shape)}, [frames, n_mels]"
        faults.append(MelFault("transposed", shape, f"[{audio.n_mels}, frames]", "pass mel.T", True))
    model = model_analysis(audio)
    if mel.shape[0] != audio.n_mels:
        faults.append(
            MelFault("mel bands", str(mel.shape[0]), str(audio.n_mels), "compute the mel from the recording", False)
        )
        model = Analysis(**{**vars(model), "n_mels": mel.shape[0]})
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
    """The best explanation, whether it takes the values as not logarithmic, and the search it came from."""
    loudness = values.mean(axis=0)
    hypotheses = alignments(loudness, recording, model)
    searches = [(False, Search(values, recording))]
    if values.min() >= 0:
        searches.append((True, Search(20 * np.log10(np.maximum(values, _SMALLEST)), recording)))
    usable = [(linear, search) for linear, search in searches if search.enough]
    if not usable:
        raise VocoderError(
            f"mel: found {values.shape[1]} frames with too few loud cells to compare; give a mel and a recording of at "
            "least a second of speech"
        )
    starts = [(search.best_alignment(hypotheses, model), linear, search) for linear, search in usable]
    # A logarithm of values that have one already is no straight line, whose slope would be 1 or 2.
    starts = [one for one in starts if not one[1] or 0.6 <= one[0].map.scale <= 2.6] or starts
    explained: list[tuple[Explanation, bool, Search]] = []
    for start, linear, search in sorted(starts, key=lambda one: one[0].residual_db):
        explained.append((_searched(start, values, hypotheses, search, recording, model), linear, search))
        if explained[-1][0].residual_db <= EXACT_DB:
            break
    return min(explained, key=lambda one: one[0].residual_db)


def _searched(
    start: Explanation,
    values: DoubleArray,
    hypotheses: list[Alignment],
    search: Search,
    recording: AnalysedRecording,
    model: Analysis,
) -> Explanation:
    """The best explanation that a search finds from one start, or from others where that leaves a residual."""
    found = search.search(start, model)
    if found.residual_db > EXACT_DB and start.analysis != model:
        own = search.best_alignment([one for one in hypotheses if one.analysis == model], model)
        found = min(found, search.search(own, model), key=lambda one: one.residual_db)
    if found.residual_db > EXACT_DB:
        found = _published(found, values.shape[1], search, recording, model)
    if found.residual_db > _OTHER_HOPS_DB and found.analysis.hop_length == model.hop_length:
        others = alignments(values.mean(axis=0), recording, model, other_hops=True)
        start = search.best_alignment(others, model, most=40)
        if start.analysis.hop_length != model.hop_length:
            found = min(found, search.search(start, model), key=lambda one: one.residual_db)
    return found


def _published(
    found: Explanation, frames: int, search: Search, recording: AnalysedRecording, model: Analysis
) -> Explanation:
    """The analysis of a published convention, where that explains the mel better: several settings differ at once."""
    best = found
    for one in CONVENTIONS:
        if one.sample_rate is None or one.hop_length is None or one.win_length is None or one.n_fft is None:
            continue
        fmax = None if one.fmax == math.inf else one.fmax
        norm: FilterNorm = "none" if one.filters == "htk" else "sum" if one.filters == "sum" else "slaney"
        analysis = Analysis(
            one.sample_rate, one.sample_rate, one.hop_length, one.win_length, one.n_fft, model.n_mels, one.fmin or 0.0,
            fmax, one.preemphasis or 0.0, norm, "htk" if one.filters == "htk" else "slaney", one.power,
        )  # fmt: skip
        if abs(expected_frames(recording, analysis) - frames) > _PUBLISHED_FRAMES:
            continue
        tried = [search.explain(analysis, hops * one.hop_length) for hops in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        nearest = search.aligned(min(tried, key=lambda each: each.residual_db))
        if nearest.residual_db < max(EXACT_DB, _PUBLISHED_GAIN * best.residual_db):
            best = nearest
    return best


def _best_level(
    explanation: Explanation, search: Search, audio: AudioConfig, gain_db: float | None, peak_db: float
) -> Explanation:
    """Prefers, among explanations that differ by a constant level only, one whose level is the model's."""

    def offset(one: Explanation, same_db: float) -> bool:
        levels = identify(one.map, one.typical_db, audio, one.residual_db, gain_db, peak_db, same_db)
        return any(kind == "dB reference" for kind, _ in levels.faults)

    if math.isinf(explanation.residual_db) or not offset(explanation, SAME_DB):
        return explanation
    return next((other for other in search.as_good(explanation) if not offset(other, _EXACTLY_DB)), explanation)


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
