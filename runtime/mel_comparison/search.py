"""Finds the analysis that explains a mel of a recording: hypotheses, a fit that leaves levels free, and a search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.runtime.mel_comparison.alignment import RATES, Alignment
from wavernn_trt.runtime.mel_comparison.analysis import AnalysedRecording, Analysis
from wavernn_trt.runtime.mel_comparison.levels import LevelMap

EXACT_DB = 0.06
"""Residual that rounding to float16 leaves; below it there is nothing to explain."""
_FRAMES = 160
"""Frames that are compared; more take longer and change nothing."""
_FEWEST_CELLS = 400
_QUIETEST = 0.3
"""Share of the loud frames' cells that is left out as the quietest: noise, rounding and floors."""
_KEPT = 0.95
"""Share of cells that a residual is of; the others may be outliers, such as cells near the Nyquist frequency."""
_GAIN = 0.85
"""A change of the analysis is tried further if it leaves at most this share of the residual."""
_RATES_DB = 0.15
"""Residual above which other sample rates are tried whose mels have as many frames."""
_RATES_GAIN = 0.6
"""Share of the residual that another sample rate may leave at most."""
_CLOSE = 4
"""Changes, if they are about as good, whose delay is adjusted before one of them is taken."""
_TUNED = 0.95
"""A value off the grid of usual ones has to leave at most this share."""
_MOST_CHANGES = 6

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
    """A mel's values explained as levels of an analysis of the recording."""

    analysis: Analysis
    delay: float
    """Samples at the signal's rate."""
    map: LevelMap
    """value = scale * decibels + offset, as fitted."""
    typical_db: float
    """Mean of the decibels that the map was fitted on."""
    residual_db: float
    """Root mean square of what the map leaves, in decibels; infinite where the analysis is not possible."""


class Search:
    """A mel and a recording, and the fit of one to the other under any analysis."""

    def __init__(self, values: DoubleArray, recording: AnalysedRecording) -> None:
        """Selects the cells that are compared.

        Args:
            values: the mel [n_mels, frames].
            recording: that it should be of.
        """
        self._recording = recording
        loud = values.mean(axis=0)
        # Where the mel is loud: silence is rounding, dither and floors.
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
        """Whether there is enough to compare."""
        return int(self._cells.sum()) >= _FEWEST_CELLS

    def explain(self, analysis: Analysis, delay: float) -> Explanation:
        """The best map of levels under an analysis."""
        nothing = Explanation(analysis, delay, LevelMap(1.0, 0.0), 0.0, math.inf)
        if not analysis.possible:
            return nothing
        inside = self._recording.inside(analysis, self._frames, delay)
        cells = self._cells & inside[None] & self._recording.heard(analysis)[:, None]
        if cells.sum() < _FEWEST_CELLS or cells.sum() < self._cells.sum() / 4:
            return nothing
        decibels = self._recording.decibels(analysis, self._frames, delay)
        x, y = decibels[cells], self._values[cells]
        for kept in (_KEPT, 1.0):
            spread, own = float(x.std()), float(y.std())
            if not spread or not own or np.corrcoef(x, y)[0, 1] <= 0.0:
                return nothing
            scale = own / spread  # of both variables alike: neither is free of errors
            error = y - y.mean() - scale * (x - x.mean())
            if kept < 1:
                within = np.abs(error) <= np.quantile(np.abs(error), kept)
                x, y = x[within], y[within]
        residual = float(np.sqrt((error**2).mean())) / scale
        offset = float(y.mean() - scale * x.mean())
        return Explanation(analysis, delay, LevelMap(scale, offset), float(x.mean()), residual)

    def deviation_db(self, analysis: Analysis, delay: float, levels: LevelMap) -> float:
        """Root mean square difference from given levels, in decibels; NaN where frames cannot be compared."""
        if not analysis.possible:
            return math.nan
        inside = self._recording.inside(analysis, self._frames, delay)
        cells = self._cells & inside[None] & self._recording.heard(analysis)[:, None]
        if not cells.any():
            return math.nan
        decibels = self._recording.decibels(analysis, self._frames, delay)[cells]
        error = (self._values[cells] - levels.offset) / levels.scale - decibels
        return float(np.sqrt((error**2).mean()))

    def aligned(self, explanation: Explanation) -> Explanation:
        """The same analysis with the delay moved by single samples, up to half a hop either way."""
        best = explanation
        step = max(1, explanation.analysis.hop_length // 4)
        while best.residual_db > EXACT_DB / 4:
            moved = [self.explain(best.analysis, best.delay + way * step) for way in (-1, 1)]
            nearer = min(moved, key=lambda one: one.residual_db)
            if nearer.residual_db < best.residual_db:
                best = nearer
            elif step == 1:
                break
            else:
                step = max(1, step // 2)
        return best

    def best_alignment(self, hypotheses: list[Alignment], model: Analysis, most: int = 12) -> Explanation:
        """The best explanation among alignments.

        Args:
            hypotheses: the likeliest first.
            model: the model's own analysis.
            most: how many are tried, besides those of the model's hop at any sample rate.
        """
        chosen = hypotheses[:most]
        chosen += [one for one in hypotheses[most:] if one.analysis.hop_length == model.hop_length]
        # Loudness tells delays to half a frame only.
        tried = [self.explain(one.analysis, delay) for one in chosen for delay in {one.delay, 0.0}]
        return min(tried, key=lambda one: one.residual_db)

    def search(self, start: Explanation, model: Analysis) -> Explanation:
        """Changes the analysis, one setting after the other, while that explains more; then drops idle changes."""
        best = self._climb(start, model, rates=False)
        if best.residual_db > _RATES_DB and start.analysis.signal_rate == model.signal_rate:
            elsewhere = self._climb(start, model, rates=True)
            if elsewhere.residual_db < _RATES_GAIN * best.residual_db:
                best = elsewhere
        return self._simplified(best, model)

    def _climb(self, start: Explanation, model: Analysis, *, rates: bool) -> Explanation:
        """Takes the best change as long as there is one; with ``rates``, that to another sample rate at first."""
        best = self.aligned(start)
        for _ in range(_MOST_CHANGES):
            if best.residual_db <= EXACT_DB:
                break
            # A wrong analysis fits best with a wrong delay; the right one may do so only with the delay before that.
            hops = {round(one.delay / one.analysis.hop_length, 2) for one in (start, best)}
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
        """The best of several explanations, once the delays of the best ones are adjusted."""
        ordered = sorted(tried, key=lambda one: one.residual_db)
        close = [one for one in ordered[:_CLOSE] if one.residual_db <= ordered[0].residual_db / _GAIN]
        return min((self.aligned(self._tuned(one)) for one in close), key=lambda one: one.residual_db)

    def _roughly_aligned(self, analysis: Analysis, hops: set[float]) -> Explanation:
        """An analysis with the best delay of some, in hops; where hops are rounded to samples, frames drift apart."""
        hop = analysis.hop_length
        tried = (self.explain(analysis, delay * hop) for delay in hops | {-1.0, 0.0, 1.0})
        best = min(tried, key=lambda one: one.residual_db)
        for part in (4, 8):
            moved = [self.explain(analysis, best.delay + way * hop / part) for way in (-1, 1)]
            best = min(best, *moved, key=lambda one: one.residual_db)
        return best

    def _simplified(self, explanation: Explanation, model: Analysis) -> Explanation:
        """The explanation without the changes that it does not need."""
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
        """Explanations by analyses that only a constant level tells apart, and that leave no larger residual."""
        most = max(1.2 * explanation.residual_db, explanation.residual_db + EXACT_DB / 4)
        for analysis in near_ties(explanation.analysis):
            if analysis.signal_rate not in (explanation.analysis.signal_rate, self._recording.sample_rate):
                continue  # a recording is rarely taken at a rate that is neither the model's nor its own
            delay = explanation.delay * analysis.signal_rate / explanation.analysis.signal_rate
            other = self.explain(analysis, delay)
            if other.residual_db <= most:
                yield other

    def _tuned(self, explanation: Explanation) -> Explanation:
        """Frequencies and pre-emphasis moved off the grid, where that explains more."""
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
                nearer = min(moved, key=lambda one: one.residual_db)
                if nearer.residual_db < _TUNED * best.residual_db:
                    best, value = nearer, getattr(nearer.analysis, name)
        return best


def changes(analysis: Analysis, model: Analysis) -> Iterator[Analysis]:
    """Analyses that differ in one respect."""
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
    """The same analysis in time of audio of another sample rate, which the number of frames does not tell apart."""
    for rate in RATES:
        if rate != analysis.signal_rate:
            factor = rate / analysis.signal_rate
            sizes = {name: round(getattr(analysis, name) * factor) for name in ("hop_length", "win_length", "n_fft")}
            elsewhere = dataclasses.replace(analysis, signal_rate=rate, sample_rate=rate, **sizes)
            yield elsewhere
            yield dataclasses.replace(elsewhere, n_fft=analysis.n_fft)


def near_ties(analysis: Analysis) -> Iterator[Analysis]:
    """Analyses whose mels differ by little more than a constant level."""
    for norm in ("slaney", "sum"):
        if norm != analysis.norm:
            yield dataclasses.replace(analysis, norm=norm)
    yield from other_rates(analysis)
