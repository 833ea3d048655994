"""Search for the analysis that explains a recording's mel, with a fit of free levels for each analysis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.runtime.mel_comparison.alignment import RATES, Alignment
from wavernn_trt.runtime.mel_comparison.analysis import AnalysedRecording, Analysis
from wavernn_trt.runtime.mel_comparison.levels import LevelMap

EXACT_DB = 0.06
"""Residual left by rounding to float16; the search ends below it."""
_FRAMES = 160
"""Frames that are compared; more take longer and do not change the result."""
_MIN_CELLS = 400
_QUIETEST = 0.3
"""Share of the loud frames' cells left out as too quiet: noise, rounding and floors."""
_KEPT = 0.95
"""Share of cells in the residual; the others may be outliers, such as cells near the Nyquist frequency."""
_GAIN = 0.85
"""Share of the residual below which a change of the analysis is accepted."""
_RATES_DB = 0.15
"""Residual above which other sample rates with the same number of frames are tried."""
_RATES_GAIN = 0.6
"""Share of the residual below which another sample rate is accepted."""
_CLOSE = 4
"""Number of the best changes whose delays are adjusted before they are compared."""
_TUNED = 0.95
"""Share of the residual below which a value off the grid of usual values is accepted."""
_MAX_CHANGES = 6

_FMIN = (0.0, 20.0, 30.0, 40.0, 50.0, 55.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0, 110.0, 125.0, 150.0)
_FMAX = (4000.0, 5000.0, 5500.0, 6000.0, 6500.0, 7000.0, 7600.0, 8000.0, 9000.0, 10000.0, 11000.0, 12000.0, 16000.0)
_PREEMPHASIS = (0.0, 0.5, 0.7, 0.85, 0.9, 0.95, 0.97, 0.98)
_WINDOWS = (
    (400, 512), (512, 512), (640, 1024), (800, 800), (800, 1024), (800, 2048), (1024, 1024), (1024, 2048),
    (1100, 1100), (1100, 2048), (1200, 1200), (1200, 2048), (1280, 2048), (2048, 2048),
)  # fmt: skip
"""(win_length, n_fft) of published models."""


@dataclass(frozen=True)
class Explanation:
    """Fit of a mel's values to the levels of an analysis of the recording."""

    analysis: Analysis
    delay: float
    """Samples at the signal's rate."""
    map: LevelMap
    """The fitted map, value = scale * decibels + offset."""
    typical_db: float
    """Mean of the decibels in the fit."""
    residual_db: float
    """Root mean square error of the fit in decibels; infinite if the analysis is not possible."""


def best_of(*explanations: Explanation) -> Explanation:
    """Returns the explanation with the smallest residual, the first of equal ones."""
    return min(explanations, key=lambda each: each.residual_db)


class Search:
    """Fits the mel of a recording under any analysis, and searches for the analysis that fits best."""

    def __init__(self, values: DoubleArray, recording: AnalysedRecording) -> None:
        """Selects the cells to compare.

        Args:
            values: the mel [n_mels, frames].
            recording: the recording of the mel.
        """
        self._recording = recording
        loud = values.mean(axis=0)
        # Loud frames only: silence consists of rounding, dither and floors.
        frames = np.flatnonzero(loud >= np.quantile(loud, 0.4))
        step = max(1, math.ceil(len(frames) / _FRAMES))
        self._frames = frames[::step]
        self._values = values[:, self._frames]
        lowest, highest = values.min(), values.max()
        cells = self._values > lowest
        if (values == highest).sum() > 3:
            cells &= self._values < highest
        if cells.any():
            cells &= self._values >= np.quantile(self._values[cells], _QUIETEST)
        self._cells = cells

    @property
    def enough(self) -> bool:
        """Whether there are enough cells to compare."""
        return int(self._cells.sum()) >= _MIN_CELLS

    def explain(self, analysis: Analysis, delay: float) -> Explanation:
        """Fits the map of levels under an analysis."""
        nothing = Explanation(analysis, delay, LevelMap(1.0, 0.0), 0.0, math.inf)
        if not analysis.possible:
            return nothing
        cells = self._comparable(analysis, delay)
        if cells.sum() < _MIN_CELLS or cells.sum() < self._cells.sum() / 4:
            return nothing
        decibels = self._recording.decibels(analysis, self._frames, delay)
        x, y = decibels[cells], self._values[cells]
        for kept in (_KEPT, 1.0):
            spread, own = float(x.std()), float(y.std())
            if not spread or not own or np.corrcoef(x, y)[0, 1] <= 0.0:
                return nothing
            scale = own / spread  # symmetric in both variables, since both have errors
            error = y - y.mean() - scale * (x - x.mean())
            if kept < 1:
                within = np.abs(error) <= np.quantile(np.abs(error), kept)
                x, y = x[within], y[within]
        residual = float(np.sqrt((error**2).mean())) / scale
        offset = float(y.mean() - scale * x.mean())
        return Explanation(analysis, delay, LevelMap(scale, offset), float(x.mean()), residual)

    def deviation_db(self, analysis: Analysis, delay: float, levels: LevelMap) -> float:
        """Returns the root mean square difference from given levels in decibels; NaN if no cell is comparable."""
        if not analysis.possible:
            return math.nan
        cells = self._comparable(analysis, delay)
        if not cells.any():
            return math.nan
        decibels = self._recording.decibels(analysis, self._frames, delay)[cells]
        error = (self._values[cells] - levels.offset) / levels.scale - decibels
        return float(np.sqrt((error**2).mean()))

    def _comparable(self, analysis: Analysis, delay: float) -> NDArray[np.bool_]:
        """Returns which of the selected cells [n_mels, frames] an analysis can explain."""
        inside = self._recording.inside(analysis, self._frames, delay)
        return np.asarray(self._cells & inside[None] & self._recording.valid_filters(analysis)[:, None])

    def aligned(self, explanation: Explanation) -> Explanation:
        """Optimises the delay of an explanation to single samples, by descent from steps of a quarter hop."""
        best = explanation
        step = max(1, explanation.analysis.hop_length // 4)
        while best.residual_db > EXACT_DB / 4:
            moved = [self.explain(best.analysis, best.delay + way * step) for way in (-1, 1)]
            nearer = best_of(*moved)
            if nearer.residual_db < best.residual_db:
                best = nearer
            elif step == 1:
                break
            else:
                step = max(1, step // 2)
        return best

    def best_alignment(self, hypotheses: list[Alignment], model: Analysis, most: int = 12) -> Explanation:
        """Returns the best explanation among alignments.

        Args:
            hypotheses: the most likely first.
            model: the model's analysis.
            most: number to try, besides those with the model's hop length at any sample rate.
        """
        chosen = hypotheses[:most]
        chosen += [each for each in hypotheses[most:] if each.analysis.hop_length == model.hop_length]
        # Loudness determines delays to half a frame only.
        tried = [self.explain(each.analysis, delay) for each in chosen for delay in {each.delay, 0.0}]
        return best_of(*tried)

    def search(self, start: Explanation, model: Analysis) -> Explanation:
        """Changes settings one after the other while the residual shrinks; then reverts changes that are not needed."""
        best = self._descend(start, model, rates=False)
        if best.residual_db > _RATES_DB and start.analysis.signal_rate == model.signal_rate:
            other = self._descend(start, model, rates=True)
            if other.residual_db < _RATES_GAIN * best.residual_db:
                best = other
        return self._simplified(best, model)

    def _descend(self, start: Explanation, model: Analysis, *, rates: bool) -> Explanation:
        """Applies the best change repeatedly; with ``rates``, the first change is to another sample rate."""
        best = self.aligned(start)
        for _ in range(_MAX_CHANGES):
            if best.residual_db <= EXACT_DB:
                break
            # A wrong analysis may have been aligned to a wrong delay, so the delay of the start is tried too.
            hops = {round(each.delay / each.analysis.hop_length, 2) for each in (start, best)}
            if rates and best.analysis.signal_rate == model.signal_rate:
                tried = [self._roughly_aligned(analysis, hops) for analysis in other_rates(best.analysis)]
            else:
                tried = [
                    self.explain(analysis, hop * analysis.hop_length)
                    for hop in hops
                    for analysis in changes(best.analysis, model)
                ]
            changed = self._nearest(tried)
            if not changed.residual_db <= _GAIN * best.residual_db or math.isinf(changed.residual_db):
                break
            best = changed
        return best

    def _nearest(self, tried: list[Explanation]) -> Explanation:
        """Returns the best of several explanations after adjusting the delays of the best few."""
        ordered = sorted(tried, key=lambda each: each.residual_db)
        close = [each for each in ordered[:_CLOSE] if each.residual_db <= ordered[0].residual_db / _GAIN]
        return best_of(*(self.aligned(self._tuned(each)) for each in close))

    def _roughly_aligned(self, analysis: Analysis, hops: set[float]) -> Explanation:
        """Fits an analysis with the best of several delays, in hops: rounding of the hop length moves frames."""
        hop = analysis.hop_length
        tried = (self.explain(analysis, delay * hop) for delay in hops | {-1.0, 0.0, 1.0})
        best = best_of(*tried)
        for part in (4, 8):
            moved = [self.explain(analysis, best.delay + way * hop / part) for way in (-1, 1)]
            best = best_of(best, *moved)
        return best

    def _simplified(self, explanation: Explanation, model: Analysis) -> Explanation:
        """Reverts changes of the analysis that do not reduce the residual."""
        best = explanation
        for fields in (("fmin",), ("fmax",), ("win_length", "n_fft"), ("norm", "scale"), ("preemphasis",), ("power",)):
            own = {name: getattr(model, name) for name in fields}
            if all(getattr(best.analysis, name) == value for name, value in own.items()):
                continue
            without = self.aligned(self.explain(dataclasses.replace(best.analysis, **own), best.delay))
            if without.residual_db <= max(1.15 * best.residual_db, best.residual_db + EXACT_DB / 2):
                best = without
        return best

    def as_good(self, explanation: Explanation) -> Iterator[Explanation]:
        """Yields explanations with about the same residual, by analyses whose mels differ by a constant level only."""
        most = max(1.2 * explanation.residual_db, explanation.residual_db + EXACT_DB / 4)
        for analysis in near_ties(explanation.analysis):
            if analysis.signal_rate not in (explanation.analysis.signal_rate, self._recording.sample_rate):
                continue  # rates other than the model's and the recording's are unlikely
            delay = explanation.delay * analysis.signal_rate / explanation.analysis.signal_rate
            other = self.explain(analysis, delay)
            if other.residual_db <= most:
                yield other

    def _tuned(self, explanation: Explanation) -> Explanation:
        """Moves frequencies and pre-emphasis off the grid of usual values if the residual shrinks."""
        best = explanation
        for name, steps in (("fmin", (8.0, 4.0, 2.0, 1.0)), ("fmax", (200.0, 100.0, 50.0, 25.0)),
                            ("preemphasis", (0.02, 0.01))):  # fmt: skip
            value = getattr(best.analysis, name)
            if best.residual_db <= EXACT_DB or value is None or (name == "preemphasis" and not value):
                continue
            for step in steps:
                moved = [
                    self.explain(dataclasses.replace(best.analysis, **{name: round(value + way * step, 6)}), best.delay)
                    for way in (-1, 1)
                    if value + way * step >= 0 and (name != "preemphasis" or value + way * step < 1)
                ]
                nearer = best_of(*moved)
                if nearer.residual_db < _TUNED * best.residual_db:
                    best, value = nearer, getattr(nearer.analysis, name)
        return best


def changes(analysis: Analysis, model: Analysis) -> Iterator[Analysis]:
    """Yields analyses that differ in one setting."""
    replace: Callable[..., Analysis] = dataclasses.replace
    for coefficient in dict.fromkeys((*_PREEMPHASIS, model.preemphasis)):
        if coefficient != analysis.preemphasis:
            yield replace(analysis, preemphasis=coefficient)
    for scale in ("slaney", "htk"):
        for norm in ("slaney", "sum", "none"):
            if (norm, scale) != (analysis.norm, analysis.scale):
                yield replace(analysis, norm=norm, scale=scale)
    yield replace(analysis, power=3 - analysis.power)
    for fmin in dict.fromkeys((*_FMIN, model.fmin)):
        if fmin != analysis.fmin:
            yield replace(analysis, fmin=fmin)
    for fmax in dict.fromkeys((*_FMAX, None, model.fmax)):
        if fmax != analysis.fmax and (fmax is None or fmax < analysis.sample_rate / 2):
            yield replace(analysis, fmax=fmax)
    own = ((analysis.win_length, n_fft) for n_fft in (512, 800, 1024, 2048, 4096))
    for win_length, n_fft in dict.fromkeys((*_WINDOWS, *own, (model.win_length, model.n_fft))):
        if (win_length, n_fft) != (analysis.win_length, analysis.n_fft) and win_length <= n_fft:
            yield replace(analysis, win_length=win_length, n_fft=n_fft)


def other_rates(analysis: Analysis) -> Iterator[Analysis]:
    """Yields the analysis at other sample rates, with sizes scaled so that the number of frames stays the same."""
    for rate in RATES:
        if rate != analysis.signal_rate:
            factor = rate / analysis.signal_rate
            sizes = {name: round(getattr(analysis, name) * factor) for name in ("hop_length", "win_length", "n_fft")}
            other = dataclasses.replace(analysis, signal_rate=rate, sample_rate=rate, **sizes)
            yield other
            yield dataclasses.replace(other, n_fft=analysis.n_fft)


def near_ties(analysis: Analysis) -> Iterator[Analysis]:
    """Yields analyses whose mels differ by little more than a constant level."""
    for norm in ("slaney", "sum"):
        if norm != analysis.norm:
            yield dataclasses.replace(analysis, norm=norm)
    yield from other_rates(analysis)
