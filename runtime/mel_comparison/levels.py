"""Identification of a mel's level convention from a fitted map, value = scale * decibels + offset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from wavernn_trt.export.config import AudioConfig

LevelFault = Literal["log base", "dB reference", "normalisation range"]

NATURAL = math.log(10) / 20
"""Units of ln(magnitude) per decibel."""
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (-4.0, 4.0), (-1.0, 0.0), (0.0, 4.0), (-2.0, 2.0), (-3.0, 3.0), (-8.0, 8.0))
_MINIMA = (-100.0, -80.0, -120.0, -115.0, -110.0, -90.0, -70.0, -60.0)
_REFERENCES = (0.0, 20.0, 16.0, 25.0)
SAME_DB = 0.5
"""Difference of level below which levels count as equal."""
_SAME_SCALE = 0.01
"""Relative difference below which scales count as equal."""
_PEAKS = (0.95, 1.0, 0.999, 0.9, 0.99, 0.98)
"""Peaks to which projects scale recordings before they compute features."""


class LevelMap(NamedTuple):
    """value = scale * decibels + offset, where decibels are 20 log10 of a magnitude (or 10 log10 of a power)."""

    scale: float
    offset: float


@dataclass(frozen=True)
class Levels:
    """Identified levels of a mel."""

    faults: tuple[tuple[LevelFault, str], ...]
    """Kind and description of each difference from the model."""
    note: str = ""
    """A difference that is not a fault."""
    map: LevelMap | None = None
    """Exact map of the recognised convention; ``None`` if none was recognised."""


@dataclass(frozen=True)
class _Candidate:
    kinds: tuple[LevelFault, ...]
    text: str
    map: LevelMap


def model_levels(audio: AudioConfig) -> LevelMap:
    """Returns the map of the model's levels."""
    if audio.log == "natural":
        return LevelMap(NATURAL, 0.0)
    return mapped(audio.mel_range, audio.reference_db, audio.min_level_db)


def mapped(mel_range: tuple[float, float], reference_db: float, min_level_db: float) -> LevelMap:
    """Returns the map of decibels to a range, as `AudioConfig` describes."""
    low, high = mel_range
    scale = (high - low) / -min_level_db
    return LevelMap(scale, high - scale * reference_db)


def describe(audio: AudioConfig) -> str:
    """Describes the model's levels."""
    if audio.log == "natural":
        return "ln(magnitude), natural logarithm"
    low, high = audio.mel_range
    reference = f" - {audio.reference_db:g}" if audio.reference_db else ""
    return f"20 log10(magnitude){reference}, with {audio.min_level_db:g} dB mapped to {low:g} and 0 dB to {high:g}"


def identify(
    found: LevelMap,
    typical_db: float,
    audio: AudioConfig,
    residual_db: float,
    gain_db: float | None,
    peak_db: float,
    same_db: float = SAME_DB,
) -> Levels:
    """Identifies the levels of a mel.

    Args:
        found: the fitted map.
        typical_db: mean of the decibels of the fit; maps are compared at this level.
        audio: the model's settings.
        residual_db: residual of the fit; widens the tolerances.
        gain_db: gain in decibels that scaled the recording to the model's peak (``audio.peak``); ``None`` if the model
            has none.
        peak_db: peak of the recording in decibels, for the description.
        same_db: difference of level below which levels count as equal.
    """
    same_db, same_scale = same_db + 0.2 * residual_db, _SAME_SCALE + 0.02 * residual_db

    def louder(candidate: LevelMap) -> float | None:
        """Returns the level of the mel above a candidate's in decibels; ``None`` if the scales differ."""
        if abs(found.scale / candidate.scale - 1) > same_scale:
            return None
        difference = (found.scale - candidate.scale) * typical_db + found.offset - candidate.offset
        return difference / candidate.scale

    note = ""
    model = model_levels(audio)
    shift = louder(model)
    unscaled = 0.0 if gain_db is None else -gain_db
    if shift is not None:
        if abs(shift) <= same_db:
            return Levels(())
        if gain_db is not None and abs(shift - unscaled) <= same_db:
            return Levels((), f"level: the recording was not scaled to a peak of {audio.peak:g} ({shift:+.1f} dB)")
        offset = LevelMap(model.scale, model.offset + round(shift, 2) * model.scale)
        return Levels((_offset_fault(shift, same_db, audio, peak_db),), map=offset)
    fallback: tuple[_Candidate, float] | None = None
    for candidate in _candidates(audio):
        shift = louder(candidate.map)
        if shift is None:
            continue
        if abs(shift) <= same_db or (gain_db is not None and abs(shift - unscaled) <= same_db):
            if abs(shift) > same_db:
                note = f"level: the recording was not scaled to a peak of {audio.peak:g} ({shift:+.1f} dB)"
            return Levels(tuple((kind, candidate.text) for kind in candidate.kinds), note, candidate.map)
        if fallback is None or abs(shift) < abs(fallback[1]):
            fallback = candidate, shift
    if fallback is not None:
        candidate, shift = fallback
        text = f"{shift:+.1f} dB in addition: another reference level, or a recording of another volume"
        kinds = tuple((kind, candidate.text) for kind in candidate.kinds if kind != "dB reference")
        return Levels((*kinds, ("dB reference", text)))
    low, high = (found.scale * level + found.offset for level in (-100.0, 0.0))
    text = f"value = {found.scale:.4g} * decibels {found.offset:+.4g}: -100 dB at {low:.4g}, 0 dB at {high:.4g}"
    return Levels((("normalisation range", text),))


def _offset_fault(shift: float, same_db: float, audio: AudioConfig, peak_db: float) -> tuple[LevelFault, str]:
    """Returns the fault of a mel ``shift`` decibels above the model's: another reference, or a shifted range."""
    low, high = audio.mel_range
    for other in _RANGES:
        span = other[1] - other[0]
        moved = (other[0] - low) / span * -audio.min_level_db
        if audio.log == "decibel" and span == high - low and moved and abs(shift - moved) <= same_db:
            return "normalisation range", _mapped_text(other, audio.reference_db, audio.min_level_db)
    return "dB reference", _offset_text(shift, audio, peak_db)


def _offset_text(shift: float, audio: AudioConfig, peak_db: float) -> str:
    louder = f"the mel is {abs(shift):.1f} dB {'louder' if shift > 0 else 'quieter'} than the model's of this recording"
    scaled = [peak for peak in _PEAKS if abs(20 * math.log10(peak) - peak_db - shift) < 0.2]
    if scaled:
        return f"{louder}, as if the recording was scaled to a peak of {scaled[0]:g} before"
    if audio.log == "natural":
        return f"{louder}: its magnitudes are {10 ** (shift / 20):.4g} times as large"
    return f"{louder}, as with a reference of {audio.reference_db - shift:.1f} dB, or a recording of another volume"


def _candidates(audio: AudioConfig) -> Iterator[_Candidate]:
    """Yields conventions, the simplest explanations first."""
    reference = audio.reference_db if audio.log == "decibel" else 0.0
    decibel_kind: LevelFault = "normalisation range" if audio.log == "decibel" else "log base"
    yield _Candidate(("log base",), "ln(magnitude), natural logarithm, not mapped", LevelMap(NATURAL, 0.0))
    yield _Candidate(("log base",), "log10(magnitude), not mapped", LevelMap(0.05, 0.0))
    for offset in dict.fromkeys((reference, 0.0, 20.0)):
        minus = f" - {offset:g}" if offset else ""
        yield _Candidate((decibel_kind,), f"20 log10(magnitude){minus}, plain decibels", LevelMap(1.0, -offset))
        yield _Candidate(
            ("log base",), f"10 log10(magnitude){minus}, half the decibels, not mapped", LevelMap(0.5, -offset)
        )
    if audio.log == "decibel":
        model = model_levels(audio)
        for name, factor in (("10 log10", 0.5), ("ln", NATURAL), ("log10", 0.05)):
            text = f"{name} of the magnitude, where 20 log10 is expected, then mapped as the model does"
            yield _Candidate(("log base",), text, LevelMap(model.scale * factor, model.offset))
    yield from _mapped_candidates(audio)
    yield _Candidate(("log base",), "log2(magnitude), not mapped", LevelMap(math.log2(10) / 20, 0.0))
    yield _Candidate(("log base",), "ln(magnitude squared), not mapped", LevelMap(2 * NATURAL, 0.0))
    yield _Candidate(("log base",), "log10(magnitude squared), not mapped", LevelMap(0.1, 0.0))


def _mapped_candidates(audio: AudioConfig) -> Iterator[_Candidate]:
    own, minimum, reference = audio.mel_range, audio.min_level_db, audio.reference_db
    decibel = audio.log == "decibel"
    ranges = (own, *_RANGES) if decibel else _RANGES
    choices = [(mel_range, other, low) for other in _REFERENCES for low in _MINIMA for mel_range in ranges]
    if decibel:
        choices = [
            *((mel_range, reference, minimum) for mel_range in _RANGES),
            *((own, reference, other) for other in _MINIMA),
            *((mel_range, other, minimum) for other in _REFERENCES for mel_range in _RANGES),
            *((mel_range, reference, other) for other in _MINIMA for mel_range in _RANGES),
            *choices,
        ]
    for mel_range, used, low in choices:
        kinds: tuple[LevelFault, ...] = ("normalisation range",)
        if decibel and used != reference:
            kinds += ("dB reference",)
        yield _Candidate(kinds, _mapped_text(mel_range, used, low), mapped(mel_range, used, low))


def _mapped_text(mel_range: tuple[float, float], reference: float, minimum: float) -> str:
    low, high = mel_range
    minus = f" - {reference:g}" if reference else ""
    return f"20 log10(magnitude){minus}, with {minimum:g} dB mapped to {low:g} and 0 dB to {high:g}"
