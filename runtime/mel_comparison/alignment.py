"""Which part of a recording the frames of a mel spectrogram stand for: hop length, sample rate and delay.

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
"""Hz, of published speech corpora and models."""
_HOPS = (80, 100, 128, 160, 200, 240, 256, 275, 300, 320, 400, 441, 480, 512)
"""Samples, of published models."""
_SLACK = 2
"""Frames that a mel of the same hop may have more or less."""
_MOST_DELAYS = 300
_COARSEST = 6
"""Half frames between delays; the loudness of speech changes little in that time."""
_MOST_FRAMES = 4000
"""Frames that are correlated; of longer mels every second, third … is."""
_EMPHASIS = 0.97
"""Pre-emphasis under which the energy of speech follows the mean of its log-mel."""


@dataclass(frozen=True)
class Alignment:
    """A hypothesis of where the frames lie."""

    analysis: Analysis
    delay: float
    """Samples at the signal's rate; frame t is centred on t * hop_length + delay."""
    correlation: float
    """Rank correlation of the loudness."""


def expected_frames(recording: AnalysedRecording, analysis: Analysis) -> int:
    """Frames of the recording's own mel."""
    samples = recording.signal(analysis.signal_rate).size
    if analysis.stft == "lws":
        return -(-samples // analysis.hop_length) + analysis.n_fft // analysis.hop_length - 1
    return 1 + int(samples // analysis.hop_length)


def alignments(
    loudness: DoubleArray, recording: AnalysedRecording, model: Analysis, *, other_hops: bool = False
) -> list[Alignment]:
    """Hypotheses, the likeliest first.

    Args:
        loudness: [frames], of the mel; any increasing function of it.
        recording: that the mel should be of.
        model: the model's own analysis.
        other_hops: whether to try other hop lengths even where the number of frames is about that of the model's.
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
    return sorted(found, key=lambda one: -one.correlation)


def _time_bases(frames: int, recording: AnalysedRecording, model: Analysis, *, other_hops: bool) -> Iterator[Analysis]:
    yield model
    if abs(expected_frames(recording, model) - frames) <= _SLACK and not other_hops:
        return
    candidates: list[Analysis] = []
    size = recording.signal(model.signal_rate).size
    shortest, longest = size // (frames + _SLACK), size // max(1, frames - 1 - _SLACK)
    if longest - shortest <= 40:
        candidates += [dataclasses.replace(model, hop_length=hop) for hop in range(max(1, shortest), longest + 1)]
    else:
        candidates += [dataclasses.replace(model, hop_length=hop) for hop in _HOPS]
    for rate in RATES:
        if rate != model.signal_rate:
            elsewhere = dataclasses.replace(model, signal_rate=rate, sample_rate=rate)
            candidates += [elsewhere, dataclasses.replace(elsewhere, sample_rate=model.sample_rate)]
            candidates += [dataclasses.replace(elsewhere, hop_length=hop) for hop in _HOPS]
    for analysis in dict.fromkeys(candidates):
        near = abs(expected_frames(recording, analysis) - frames) <= _SLACK + 1
        if near and analysis.possible and analysis != model:
            yield analysis


def _delays(frames: int, recording: AnalysedRecording, analysis: Analysis) -> list[float]:
    """Delays to be tried: some frames either way, and up to some seconds where one is much shorter than the other."""
    hop = analysis.hop_length
    near = [hop * steps / 2 for steps in range(-5, 6)]
    missing = expected_frames(recording, analysis) - frames
    if abs(missing) <= _SLACK:
        return near
    step = min(_COARSEST, -(-2 * abs(missing) // _MOST_DELAYS))
    furthest = min(2 * abs(missing), step * _MOST_DELAYS)
    return near + [hop * steps / 2 * (1 if missing > 0 else -1) for steps in range(0, furthest, step)]


def _energy(signal: DoubleArray, window: int) -> DoubleArray:
    """Energy [samples] of the window around each sample."""
    sums = np.concatenate([[0.0], np.cumsum(signal**2)])
    samples = np.arange(signal.size)
    last = np.minimum(samples + window // 2, signal.size)
    return np.asarray(sums[last] - sums[np.maximum(samples - window // 2, 0)])


def _correlation(loudness: DoubleArray, energy: DoubleArray, analysis: Analysis, delay: float) -> float:
    frames = np.arange(0, len(loudness), 1 + len(loudness) // _MOST_FRAMES)
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
