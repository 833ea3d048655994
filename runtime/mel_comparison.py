"""Whether a mel spectrogram is what a model was trained on: a comparison with the model's own features of a recording.

Hypotheses of how the mel was computed are fitted to it with the levels left free (an affine map); the one that leaves
the smallest residual is compared with the model's settings, and so is the map. A difference is named only if it
explains the mel; where none does, the comparison says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.audio import resample
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.mel_alignment import Alignment, alignments, expected_frames
from wavernn_trt.runtime.mel_analysis import AnalysedRecording, Analysis, FilterNorm, model_analysis
from wavernn_trt.runtime.mel_conventions import CONVENTIONS
from wavernn_trt.runtime.mel_levels import SAME_DB, LevelMap, describe, identify, model_levels
from wavernn_trt.runtime.mel_search import EXACT_DB, Explanation, Search

Array = NDArray[np.float64]

FaultKind = Literal[
    "transposed", "batch axis", "mel bands", "hop length", "sample rate", "window", "fmin", "fmax", "mel filters",
    "pre-emphasis", "log base", "dB reference", "normalisation range",
]  # fmt: skip
"""What can differ."""

UNEXPLAINED_DB = 1.0
"""Residual above which a mel is called different though no cause is found; other resamplers and paddings leave less."""
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


@dataclass(frozen=True)
class MelFault:
    """One difference of a mel from what the model takes."""

    kind: FaultKind
    found: str
    """What the mel has."""
    expected: str
    """What the model takes."""
    remedy: str
    """How to convert the mel, or that it has to be computed again."""
    convertible: bool
    """Whether the mel can be converted without the recording."""


@dataclass(frozen=True)
class MelComparison:
    """How a mel compares with a model's own features of the same recording."""

    faults: tuple[MelFault, ...]
    """Differences that explain the mel."""
    notes: tuple[str, ...]
    """Differences that matter little: delay, number of frames, level of the recording."""
    deviation_db: float
    """Root mean square difference from the model's own features in the cells compared, before any conversion, in
    decibels; NaN where shape or time do not allow it."""
    residual_db: float
    """The same under the explanation found, the outermost 5% of cells left out."""
    scale: float | None = None
    """model_mel = scale * mel + offset, where levels differ by that; ``None`` where they do not, or not by that."""
    offset: float | None = None
    convention: str | None = None
    """A name for ``vocode --mel-from``, where the levels are those of a published convention and not the model's."""

    @property
    def identified(self) -> bool:
        """Whether the explanation, be it that nothing differs, leaves no more than other code of the same would."""
        return self.residual_db <= UNEXPLAINED_DB

    @property
    def fits(self) -> bool:
        """Whether the mel is what the model was trained on."""
        return not self.faults and self.identified


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
    gain = 1.0 if audio.peak is None else audio.peak / peak
    recording = AnalysedRecording(samples, sample_rate, gain)
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
    gain_db = None if audio.peak is None else 20 * math.log10(gain)
    peak_db = 20 * math.log10(peak)
    if not linear:
        explanation = _best_level(explanation, search, audio, gain_db, peak_db)
    notes = list(_notes(values.shape[1], recording, explanation, model))
    faults += _analysis_faults(explanation.analysis, model)
    found, typical = explanation.map, explanation.typical_db
    convention = scale = offset = None
    deviation = math.nan
    if math.isfinite(explanation.residual_db):
        if linear:
            levels = _linear_faults(found, explanation.analysis, audio)
        else:
            merged = explanation.analysis.power != model.power
            levels, note, scale, offset = _level_faults(explanation, audio, gain_db, peak_db, merged)
            if note:
                notes.append(note)
            convention = _convention(found, typical, explanation.analysis) if levels else None
            if explanation.analysis.signal_rate == model.signal_rate:
                deviation = search.deviation_db(model, explanation.delay, model_levels(audio))
        faults += levels
    return MelComparison(tuple(faults), tuple(notes), deviation, explanation.residual_db, scale, offset, convention)


def _explain(values: Array, recording: AnalysedRecording, model: Analysis) -> tuple[Explanation, bool, Search]:
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
    starts = [one for one in starts if not one[1] or 0.6 <= one[0].map.scale <= 2.6]
    explained: list[tuple[Explanation, bool, Search]] = []
    for start, linear, search in sorted(starts, key=lambda one: one[0].residual_db):
        explained.append((_searched(start, values, hypotheses, search, recording, model), linear, search))
        if explained[-1][0].residual_db <= EXACT_DB:
            break
    return min(explained, key=lambda one: one[0].residual_db)


def _searched(
    start: Explanation,
    values: Array,
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
    if abs(delay) >= max(2.0, analysis.hop_length / 20):
        yield (
            f"frames are centred {abs(delay):.0f} samples {'later' if delay > 0 else 'earlier'} than the model's "
            f"({delay / analysis.hop_length:+.2f} hops)"
        )


_RECOMPUTE = "compute the mel from the recording again; it cannot be converted"


def _analysis_faults(analysis: Analysis, model: Analysis) -> Iterator[MelFault]:
    rate = analysis.signal_rate / model.signal_rate
    if rate != 1:
        mistaken = "" if analysis.sample_rate == analysis.signal_rate else f" treated as {analysis.sample_rate} Hz"
        yield MelFault(
            "sample rate", f"audio of {analysis.signal_rate} Hz{mistaken}", f"{model.signal_rate} Hz",
            f"resample the recording to {model.signal_rate} Hz and {_RECOMPUTE}", False,
        )  # fmt: skip
    in_time = {name: round(getattr(model, name) * rate) for name in ("hop_length", "win_length", "n_fft")}
    if analysis.hop_length != model.hop_length and abs(analysis.hop_length - in_time["hop_length"]) > 1:
        yield MelFault(
            "hop length", f"{analysis.hop_length} samples", f"{model.hop_length} samples",
            f"{_RECOMPUTE} (if the model was trained so: export it with --set hop_length={analysis.hop_length})", False,
        )  # fmt: skip
    same = (analysis.win_length, analysis.n_fft) == (model.win_length, model.n_fft)
    same_in_time = rate != 1 and abs(analysis.win_length / in_time["win_length"] - 1) < 0.02
    if not same and not same_in_time:
        yield MelFault(
            "window", f"{analysis.win_length} samples in a transform of {analysis.n_fft}",
            f"{model.win_length} in {model.n_fft}", _RECOMPUTE, False,
        )  # fmt: skip
    if (analysis.norm, analysis.scale) != (model.norm, model.scale):
        yield MelFault("mel filters", _filters(analysis), _filters(model), _RECOMPUTE, False)
    for name, own, trained in (("fmin", analysis.fmin, model.fmin), ("fmax", analysis.top, model.top)):
        unchanged = own == trained or (name == "fmax" and analysis.fmax == model.fmax)
        clamped = name == "fmax" and rate != 1 and trained > analysis.sample_rate / 2
        if not unchanged and not clamped:
            kind: Literal["fmin", "fmax"] = "fmin" if name == "fmin" else "fmax"
            setting = f"{name}={own:g}"
            yield MelFault(
                kind, f"{own:g} Hz", f"{trained:g} Hz",
                f"{_RECOMPUTE} (if the model was trained so: export it with --set {setting})", False,
            )  # fmt: skip
    if analysis.preemphasis != model.preemphasis:
        yield MelFault(
            "pre-emphasis", f"{analysis.preemphasis:g}" if analysis.preemphasis else "none",
            f"{model.preemphasis:g}" if model.preemphasis else "none",
            f"{_RECOMPUTE} (if the model was trained so: export it with --set preemphasis={analysis.preemphasis:g})",
            False,
        )  # fmt: skip


def _filters(analysis: Analysis) -> str:
    norms = {
        "slaney": "filters of unit area",
        "sum": "filters whose weights add up to one",
        "none": "filters of height one",
    }
    return f"{norms[analysis.norm]} on {'Slaney' if analysis.scale == 'slaney' else 'HTK'}'s mel scale"


def _linear_faults(found: LevelMap, analysis: Analysis, audio: AudioConfig) -> list[MelFault]:
    exponent = found.scale / analysis.power
    kind = "power" if exponent * analysis.power > 1.5 else "magnitude"
    if analysis.power == 2:
        remedy = "vocode --mel-from librosa-power (an error of about 1 dB; better compute the mel from the recording)"
    else:
        root = "mel" if abs(found.scale - 1) < 0.1 else f"mel ** {1 / found.scale:.3g}"
        remedy = f"take the logarithm: {describe(audio)}, of magnitude = {root}"
    return [MelFault("log base", f"no logarithm: mel {kind}", describe(audio), remedy, True)]


def _level_faults(
    explanation: Explanation, audio: AudioConfig, gain_db: float | None, peak_db: float, merged: bool
) -> tuple[list[MelFault], str, float | None, float | None]:
    found, model = explanation.map, model_levels(audio)
    levels = identify(found, explanation.typical_db, audio, explanation.residual_db, gain_db, peak_db)
    if merged:  # the mel of a power spectrum: 10 log10 of it is part of the same mistake
        text = "; ".join(["mel of the power spectrum, where that of the magnitudes is expected",
                          *(text for _, text in levels.faults)])  # fmt: skip
        remedy = f"{_RECOMPUTE} exactly; --mel-from librosa-db has an error of about 1 dB"
        return [MelFault("log base", text, describe(audio), remedy, False)], levels.note, None, None
    if not levels.faults:
        return [], levels.note, None, None
    if levels.map is not None:
        found = levels.map
    scale = model.scale / found.scale
    offset = round(model.offset - scale * found.offset, 9)
    factor = "" if abs(scale - 1) < 1e-6 else f"{scale:.6g} * "
    term = f" {'-' if offset < 0 else '+'} {abs(offset):.6g}" if offset else ""
    remedy = f"model_mel = {factor}mel{term}{_clip(audio)}"
    faults = [MelFault(kind, text, describe(audio), remedy, True) for kind, text in levels.faults]
    return faults, levels.note, scale, offset


def _clip(audio: AudioConfig) -> str:
    if audio.log == "natural":
        return ""
    low, high = audio.mel_range
    return f", clipped to {low:g} to {high:g}" if audio.clip_high else f", not below {low:g}"


def _convention(found: LevelMap, typical_db: float, analysis: Analysis) -> str | None:
    """The published convention of the same levels, preferably of the same analysis."""
    same = []
    for each in CONVENTIONS:
        if each.scale is None or each.power != analysis.power or abs(found.scale / each.scale - 1) > 0.02:
            continue
        shift = (found.scale - each.scale) * typical_db + found.offset - each.offset
        if abs(shift / each.scale) <= EXACT_DB * 10:
            same.append(each)
    same.sort(key=lambda one: (one.sample_rate != analysis.sample_rate, one.fmin != analysis.fmin))
    return same[0].name if same else None
