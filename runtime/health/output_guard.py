"""Checks decoded samples: detects NaN, infinity, invalid labels and waveforms that are constant where they must not be.

Wrong arithmetic has one of two effects. The values of a mixture become NaN or infinite. A class is selected by
comparisons, and comparisons with NaN are false, so that always the same class is drawn, mostly the first or the last.

A constant class can also be right: digital silence. So a run of equal samples is an error only

- if the mel is loud enough there that the waveform must move (`wavernn_trt.runtime.health.loudness`), or
- if the value is an end of the scale, which is not silence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.errors import DamagedOutputError
from wavernn_trt.runtime.health.loudness import Loudness

STANDING_SECONDS = 0.1
"""Duration of equal samples in loud frames that is an error: about ten periods of a low voice. The longest run of the
shipped voice in 30 recordings is 1 ms in loud frames, and 6 ms in all frames, silence, hum and noise included."""


class OutputGuard:
    """Checks the samples of one stream: of an utterance, or of a fold."""

    def __init__(
        self,
        model: ModelConfig,
        audio: AudioConfig,
        mel: FloatArray | None = None,
        *,
        loudness: Loudness | None = None,
    ) -> None:
        """Starts before the first sample.

        Args:
            model: gives the valid samples.
            audio: settings of the mel.
            mel: float32 [n_mels, frames] of the whole utterance.
            loudness: replaces ``mel``: computed before, or extended while the mel is received.
        """
        self._model, self._audio = model, audio
        self._loudness = loudness or Loudness(model, audio, mel)
        self._longest = max(2, round(STANDING_SECONDS * audio.sample_rate))
        self._next = -1
        self._last: Any = None
        self._since = 0  # first sample of the run that is equal to the last sample

    def another(self) -> OutputGuard:
        """Makes a guard for another stream of the same utterance."""
        return OutputGuard(self._model, self._audio, loudness=self._loudness)

    def check(self, start: int, samples: NDArray[Any]) -> None:
        """Checks the next samples.

        Args:
            start: step of the first sample in the utterance. If it does not follow the last call's, a new run begins.
            samples: [n], int32 labels or float32 values, from the executor.

        Raises:
            DamagedOutputError: samples are invalid, or constant where they must not be.
        """
        count = len(samples)
        if not count:
            return
        self._check_values(start, samples)
        if start != self._next or samples[0] != self._last:
            self._since = start
        if count <= self._longest and not samples[0] == samples[count // 2] == samples[-1]:
            # The common case. A run that ends in this chunk was checked before. The part in this chunk of a run that
            # begins here is not counted: the search would take longer than all other checks.
            self._next, self._last = start + count, samples[-1]
            self._since = self._next - 1
            return
        changes = np.flatnonzero(samples[1:] != samples[:-1])
        stop = start + count
        if len(changes):
            ends = changes + (start + 1)
            self._check_run(self._since, int(ends[0]), samples[0])
            if count > self._longest:
                for i in np.flatnonzero(np.diff(ends) >= self._longest):
                    self._check_run(int(ends[i]), int(ends[i + 1]), samples[changes[i + 1]])
            self._since = int(ends[-1])
        self._next, self._last = stop, samples[-1]
        self._check_run(self._since, stop, self._last)

    def _check_values(self, start: int, samples: NDArray[Any]) -> None:
        if self._model.output != "categorical":
            valid = np.isfinite(samples)
            if not valid.all():
                wrong = int(np.argmin(valid))
                raise DamagedOutputError(f"sample {start + wrong} is {samples[wrong]}, expected a number from -1 to 1")
            return
        # As unsigned numbers, negative labels are the largest.
        if int(samples.view(np.uint32).max()) >= self._model.outputs:
            wrong = int(np.argmax(samples.view(np.uint32)))
            raise DamagedOutputError(
                f"sample {start + wrong} is class {samples[wrong]}, expected one from 0 to {self._model.outputs - 1}"
            )

    def _check_run(self, start: int, stop: int, value: Any) -> None:
        if stop - start < self._longest:
            return
        outermost = (0, self._model.outputs - 1) if self._model.output == "categorical" else (-1.0, 1.0)
        loud = self._loudness.loud_samples(start, stop)
        if value in outermost or loud >= self._longest:
            where = "at an end of the scale" if value in outermost else f"{loud} of them where the mel is loud"
            raise DamagedOutputError(
                f"samples {start} to {stop - 1} are all {value}, {where}; expected a changing waveform: the executor "
                "does not compute the model"
            )
