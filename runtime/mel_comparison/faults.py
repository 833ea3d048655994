"""Results of a comparison: differences of a mel from the model's, and how to convert each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.mel_comparison.analysis import Analysis
from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS
from wavernn_trt.runtime.mel_comparison.levels import LevelMap, describe, identify, model_levels
from wavernn_trt.runtime.mel_comparison.search import EXACT_DB, Explanation

FaultKind = Literal[
    "transposed", "batch axis", "mel bands", "hop length", "sample rate", "window", "fmin", "fmax", "mel filters",
    "pre-emphasis", "log base", "dB reference", "normalisation range",
]  # fmt: skip

UNEXPLAINED_DB = 1.0
"""Residual above which a mel is different even if no cause is found; other resamplers and paddings leave less."""
_RECOMPUTE = "compute the mel from the recording again; it cannot be converted"


@dataclass(frozen=True)
class MelFault:
    """A difference between a mel and the model's settings."""

    kind: FaultKind
    found: str
    """Setting of the mel."""
    expected: str
    """Setting of the model."""
    remedy: str
    """How to convert the mel, or that it must be computed again."""
    convertible: bool
    """Whether the mel can be converted without the recording."""


@dataclass(frozen=True)
class MelComparison:
    """Result of comparing a mel with a model's own features of the same recording."""

    faults: tuple[MelFault, ...]
    """Differences that explain the mel."""
    notes: tuple[str, ...]
    """Minor differences: delay, number of frames, level of the recording."""
    deviation_db: float
    """Root mean square difference from the model's own features in the compared cells, before any conversion, in
    decibels; NaN if shape or frame times do not allow it."""
    residual_db: float
    """The same after the explanation found, without the outermost 5% of cells."""
    scale: float | None = None
    """model_mel = scale * mel + offset; ``None`` if the levels are equal or do not differ by such a map."""
    offset: float | None = None
    convention: str | None = None
    """Name for ``vocode --mel-from``, if the levels are those of a published convention and not the model's."""

    @property
    def identified(self) -> bool:
        """Whether the explanation, or that nothing differs, leaves only what another implementation would."""
        return self.residual_db <= UNEXPLAINED_DB

    @property
    def fits(self) -> bool:
        """Whether the mel is what the model was trained on."""
        return not self.faults and self.identified


def analysis_faults(analysis: Analysis, model: Analysis) -> Iterator[MelFault]:
    """Yields the differences between an analysis and the model's."""
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


def linear_faults(found: LevelMap, analysis: Analysis, audio: AudioConfig) -> list[MelFault]:
    """Returns the fault of values without a logarithm, whose logarithm follows the given map."""
    kind = "power" if found.scale > 1.5 else "magnitude"
    if analysis.power == 2:
        remedy = "vocode --mel-from librosa-power (an error of about 1 dB; better compute the mel from the recording)"
    else:
        root = "mel" if abs(found.scale - 1) < 0.1 else f"mel ** {1 / found.scale:.3g}"
        remedy = f"take the logarithm: {describe(audio)}, of magnitude = {root}"
    return [MelFault("log base", f"no logarithm: mel {kind}", describe(audio), remedy, True)]


def level_faults(
    explanation: Explanation, audio: AudioConfig, gain_db: float | None, peak_db: float, merged: bool
) -> tuple[list[MelFault], str, float | None, float | None]:
    """Returns the faults of levels, a note, and the scale and offset that convert them.

    Args:
        explanation: contains the map of levels.
        audio: the model's settings.
        gain_db: as for `identify`.
        peak_db: as for `identify`.
        merged: whether the analysis is of a power spectrum, and the model's is not.
    """
    found, model = explanation.map, model_levels(audio)
    levels = identify(found, explanation.typical_db, audio, explanation.residual_db, gain_db, peak_db)
    if merged:  # for the mel of a power spectrum, 10 log10 is part of the same mistake
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


def published_name(found: LevelMap, typical_db: float, analysis: Analysis) -> str | None:
    """Returns the published convention with the same levels, preferably with the same analysis."""
    same = []
    for each in CONVENTIONS:
        if each.scale is None or each.power != analysis.power or abs(found.scale / each.scale - 1) > 0.02:
            continue
        shift = (found.scale - each.scale) * typical_db + found.offset - each.offset
        if abs(shift / each.scale) <= EXACT_DB * 10:
            same.append(each)
    same.sort(key=lambda each: (each.sample_rate != analysis.sample_rate, each.fmin != analysis.fmin))
    return same[0].name if same else None
