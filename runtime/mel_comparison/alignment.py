"""Alignment of a mel's frames with a recording: hypotheses of hop length, sample rate and delay.

Frames are matched by loudness over time. Ranks are correlated, so that the mel's levels need not be known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.runtime.mel_comparison.analysis import AnalysedRecording, Analysis

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates in Hz of published speech corpora and models."""
_HOPS = (80, 100, 128, 160, 200, 240, 256, 275, 300, 320, 400, 441, 480, 512)
"""Hop lengths in samples of published models."""
_FRAME_TOLERANCE = 2
"""Difference in the number of frames between mels of the same hop length."""
_MAX_DELAYS = 300
_MAX_DELAY_STEP = 6
"""Half frames between delays; the loudness of speech changes little in that time."""
_MAX_FRAMES = 4000
"""Frames that are correlated; longer mels are thinned out evenly."""
_EMPHASIS = 0.97
"""Pre-emphasis; with it the energy of speech follows the mean of its log-mel."""


@dataclass(frozen=True)
class Alignment:
    """Hypothesis of the positions of the frames in the recording."""

    analysis: Analysis
    delay: float
    """Samples at the signal's rate; frame t is centred at t * hop_length + delay."""
    correlation: float
    """Rank correlation of the loudness."""


def expected_frames(recording: AnalysedRecording, analysis: Analysis) -> int:
    """Number of frames of the recording's mel under an analysis."""
    samples = recording.signal(analysis.signal_rate).size
    if analysis.stft == "lws":
        return -(-samples // analysis.hop_length) + analysis.n_fft // analysis.hop_length - 1
    return 1 + int(samples // analysis.hop_length)


def alignments(
    loudness: DoubleArray, recording: AnalysedRecording, model: Analysis, *, other_hops: bool = False
) -> list[Alignment]:
    """Returns hypotheses, the most likely first.

    Args:
        loudness: [frames], of the mel; any increasing function of it.
        recording: the recording of the mel.
        model: the model's analysis.
        other_hops: whether to try other hop lengths even if the number of frames fits the model's.
    """
    found = []
    energies: dict[tuple[int, int], DoubleArray] = {}
    for analysis in _time_bases(len(loudness), recording, model, other_hops=other_hops):
        key = (analysis.signal_rate, analysis.win_length)
        if key not in energies:
            energies[key] = _energy(recording.signal(analysis.signal_rate, _EMPHASIS), analysis.win_length)
        best = Alignment(analysis, 0.0, -1.0)
        for delay in _delays(len(loudness), recording, analysis):
            value = _correlation(loudness, energies[key], analysis, delay)
            if value > best.correlation:
                best = Alignment(analysis, delay, value)
        found.append(best)
    return sorted(found, key=lambda each: -each.correlation)


def _time_bases(frames: int, recording: AnalysedRecording, model: Analysis, *, other_hops: bool) -> Iterator[Analysis]:
    yield model
    if abs(expected_frames(recording, model) - frames) <= _FRAME_TOLERANCE and not other_hops:
        return
    candidates: list[Analysis] = []
    size = recording.signal(model.signal_rate).size
    shortest, longest = size // (frames + _FRAME_TOLERANCE), size // max(1, frames - 1 - _FRAME_TOLERANCE)
    if longest - shortest <= 40:
        candidates += [dataclasses.replace(model, hop_length=hop) for hop in range(max(1, shortest), longest + 1)]
    else:
        candidates += [dataclasses.replace(model, hop_length=hop) for hop in _HOPS]
    for rate in RATES:
        if rate != model.signal_rate:
            other = dataclasses.replace(model, signal_rate=rate, sample_rate=rate)
            candidates += [other, dataclasses.replace(other, sample_rate=model.sample_rate)]
            candidates += [dataclasses.replace(other, hop_length=hop) for hop in _HOPS]
    for analysis in dict.fromkeys(candidates):
        near = abs(expected_frames(recording, analysis) - frames) <= _FRAME_TOLERANCE + 1
        if near and analysis.possible and analysis != model:
            yield analysis


def _delays(frames: int, recording: AnalysedRecording, analysis: Analysis) -> list[float]:
    """Returns delays to try: a few frames either way, and up to seconds if mel and recording differ in length."""
    hop = analysis.hop_length
    near = [hop * steps / 2 for steps in range(-5, 6)]
    missing = expected_frames(recording, analysis) - frames
    if abs(missing) <= _FRAME_TOLERANCE:
        return near
    step = min(_MAX_DELAY_STEP, -(-2 * abs(missing) // _MAX_DELAYS))
    furthest = min(2 * abs(missing), step * _MAX_DELAYS)
    return near + [hop * steps / 2 * (1 if missing > 0 else -1) for steps in range(0, furthest, step)]


def _energy(signal: DoubleArray, window: int) -> DoubleArray:
    """Energy in the window around each sample, [samples]."""
    sums = np.concatenate([[0.0], np.cumsum(signal**2)])
    samples = np.arange(signal.size)
    last = np.minimum(samples + window // 2, signal.size)
    return np.asarray(sums[last] - sums[np.maximum(samples - window // 2, 0)])


def _correlation(loudness: DoubleArray, energy: DoubleArray, analysis: Analysis, delay: float) -> float:
    frames = np.arange(0, len(loudness), 1 + len(loudness) // _MAX_FRAMES)
    loudness = loudness[frames]
    centres = np.round(frames * analysis.hop_length + delay).astype(np.intp)
    inside = (centres >= 0) & (centres < energy.size)
    if inside.sum() < min(20, len(loudness)) or inside.sum() < len(loudness) / 2:
        return -1.0
    a, b = _ranks(loudness[inside]), _ranks(energy[centres[inside]])
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread else -1.0


def _ranks(values: DoubleArray) -> DoubleArray:
    ranks = np.empty(values.size)
    ranks[np.argsort(values, kind="stable")] = np.arange(values.size)
    return ranks
