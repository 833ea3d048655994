"""Differences between a recording and a model's output for its mel, as sums that several recordings add up."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.calibration.judge import Judge, Judgement
from wavernn_trt.export.arrays import DoubleArray, FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.features import mel_magnitude, mel_spectrogram

_CEPSTRA, _BANDS = 24, 40
"""Mel cepstra compared, without the zeroth, and mel bands they are computed from."""
_AUDIBLE_DB = 40.0
"""Frames this far below the loudest one, in decibels, are left out of the distortion."""


@dataclass
class Moments:
    """Sums over pairs of numbers for their correlation; those of several recordings can be added."""

    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))

    @classmethod
    def of(cls, x: NDArray[Any], y: NDArray[Any]) -> Moments:
        """Returns the sums over two arrays of the same shape."""
        a, b = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
        return cls(np.array([a.size, a.sum(), b.sum(), a @ a, b @ b, a @ b]))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.sums + other.sums)

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation; ``None`` where one of the two is constant or there are no pairs."""
        n, x, y, xx, yy, xy = (float(value) for value in self.sums)
        if not n:
            return None
        variances = (xx - x * x / n) / n, (yy - y * y / n) / n
        if min(variances) <= 1e-9 * max(xx, yy, 1.0) / n:  # the difference is only rounding
            return None
        return float((xy - x * y / n) / n / np.sqrt(variances[0] * variances[1]))


@dataclass(frozen=True)
class Likeness:
    """Sums over the samples or frames of one or more recordings."""

    samples: int = 0
    moments: Moments = field(default_factory=Moments)
    """Of the two log-mels."""
    frames: int = 0
    """In ``distortion``."""
    distortion: float = 0.0
    """Decibels: mel-cepstral distortion, summed over the frames."""
    energy: float = 0.0
    """Of the recording: sum of its squared samples."""
    output_energy: float = 0.0
    clipped: int = 0
    """Samples of the output outside [-1, 1]."""
    judgement: Judgement = field(default_factory=Judgement)

    def __add__(self, other: Likeness) -> Likeness:
        names = [item.name for item in dataclasses.fields(self)]
        return Likeness(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def measures(self) -> dict[str, float | None]:
        """Returns the measures by name; ``None`` for those that cannot be computed.

        ``correlation``: Pearson's, of the log-mels over all bins and frames. ``distortion_db``: mean mel-cepstral
        distortion. ``level_db``: of the output, against the recording. ``clipped``: share of samples. The others are
        those of `Judgement.measures`.
        """
        levels = self.output_energy, self.energy
        return {
            "correlation": self.moments.correlation,
            "distortion_db": self.distortion / self.frames if self.frames else None,
            "level_db": 10 * math.log10(levels[0] / levels[1]) if min(levels) > 0 else None,
            "clipped": self.clipped / self.samples if self.samples else None,
            **self.judgement.measures(),
        }


def likeness(
    output: FloatArray, original: FloatArray, audio: AudioConfig, judge: Judge | None = None, text: str | None = None
) -> Likeness:
    """Compares a model's output with the recording that its mel is from.

    Args:
        output: float32 [samples].
        original: float32 [samples], as long as ``output`` and aligned with it.
        audio: the model's audio settings.
        judge: also judges pitch, voicing and words.
        text: spoken in the recording; ``None`` judges no words.
    """
    if audio.pad_mode == "reflect" and len(original) <= audio.n_fft // 2:
        moments = Moments()  # too short to have a spectrogram
    else:
        moments = Moments.of(mel_spectrogram(output, audio), mel_spectrogram(original, audio))
    distances = mel_cepstral_distortion(output, original, audio.sample_rate)
    return Likeness(
        samples=len(original),
        moments=moments,
        frames=len(distances),
        distortion=float(distances.sum()),
        energy=float(np.square(original, dtype=np.float64).sum()),
        output_energy=float(np.square(output, dtype=np.float64).sum()),
        clipped=int((np.abs(output) > 1).sum()),
        judgement=judge.judge(output, original, audio.sample_rate, text) if judge else Judgement(),
    )


def mel_cepstral_distortion(output: FloatArray, original: FloatArray, sample_rate: int) -> DoubleArray:
    """Computes 10 / ln 10 * sqrt(2 sum of (c_m - d_m)^2), m = 1 … 24, for the frames in which there is speech.

    c_m is the cosine transform of the log magnitudes of 40 mel bands, ln |H| = c_0 + sum of c_m cos(m w), in windows of
    25 ms every 5 ms (Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", 1993).

    Args:
        output: float [samples].
        original: float [samples], aligned with ``output``.
        sample_rate: Hz.

    Returns:
        Decibels [frames], without frames 40 dB or more below the loudest one of ``original``.
    """
    settings = _cepstral_settings(sample_rate)
    spectra = [mel_magnitude(np.asarray(signal, np.float64), settings) for signal in (output, original)]
    levels = 20 * np.log10(np.maximum(np.linalg.norm(spectra[1], axis=0), settings.floor))
    spoken = levels > levels.max(initial=-np.inf) - _AUDIBLE_DB
    logs = [np.log(np.maximum(spectrum[:, spoken], settings.floor)) for spectrum in spectra]
    differences = _cosines() @ (logs[0] - logs[1])
    return np.asarray(10 / math.log(10) * np.sqrt(2 * np.square(differences).sum(axis=0)))


@lru_cache(maxsize=8)
def _cepstral_settings(sample_rate: int) -> AudioConfig:
    window = round(0.025 * sample_rate)
    return AudioConfig(
        sample_rate=sample_rate,
        hop_length=max(1, round(0.005 * sample_rate)),
        win_length=window,
        n_fft=2 << window.bit_length(),
        n_mels=_BANDS,
    )


@lru_cache(maxsize=1)
def _cosines() -> DoubleArray:
    bands = (np.arange(_BANDS) + 0.5) / _BANDS
    return np.asarray(2 / _BANDS * np.cos(np.pi * np.arange(1, _CEPSTRA + 1)[:, None] * bands))
