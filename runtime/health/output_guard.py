"""Looks at samples as they are decoded, and finds what no model means: no numbers, and a waveform that stands.

Arithmetic that went wrong shows in one of two ways. A mixture's values become NaN or infinite. A class is chosen by
comparisons, and with NaN every comparison fails, so that one class comes for ever, most often the first or the last.

A model may well mean one class for long: digital silence. So a run of equal samples counts only

- as far as the mel is loud enough there that the waveform must move (`wavernn_trt.runtime.health.loudness`), or
- if it stands at an end of the scale, where no silence is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DamagedOutputError
from wavernn_trt.runtime.health.loudness import Loudness

STANDING_SECONDS = 0.1
"""Equal samples for so long, where the mel is loud: some ten periods of a low voice. The longest run that the shipped
voice has there is 1 ms on 30 recordings, and 6 ms anywhere, silence, hum and noise included."""


class OutputGuard:
    """Watches one stream's samples: an utterance's, or a fold's."""

    def __init__(
        self,
        model: ModelConfig,
        audio: AudioConfig,
        mel: FloatArray | None = None,
        *,
        loudness: Loudness | None = None,
    ) -> None:
        """Takes what the samples are to speak.

        Args:
            model: says what samples can be.
            audio: how the mel was made.
            mel: float32 [n_mels, frames] of the whole utterance.
            loudness: of the mel instead, where it is known already or grows with a mel that is still arriving.
        """
        self._model, self._audio = model, audio
        self._loudness = loudness or Loudness(model, audio, mel)
        self._longest = max(2, round(STANDING_SECONDS * audio.sample_rate))
        self._next = -1
        self._last: Any = None
        self._since = 0  # where the run of samples that are equal to the last began

    def another(self) -> OutputGuard:
        """A guard for another stream of the same utterance."""
        return OutputGuard(self._model, self._audio, loudness=self._loudness)

    def check(self, start: int, samples: NDArray[Any]) -> None:
        """Looks at the next samples.

        Args:
            start: the step of the utterance that the first belongs to. A stream that is begun again is watched anew.
            samples: [n], int32 labels or float32 values, as they came from the executor.

        Raises:
            DamagedOutputError: they cannot be right.
        """
        count = len(samples)
        if not count:
            return
        self._check_values(start, samples)
        if start != self._next or samples[0] != self._last:
            self._since = start
        if count <= self._longest and not samples[0] == samples[count // 2] == samples[-1]:
            # Nearly always. A run that ends in here was judged before; of one that begins, the part in here is left
            # out: it would take longer to look for than all else together.
            self._next, self._last = start + count, samples[-1]
            self._since = self._next - 1
            return
        changes = np.flatnonzero(samples[1:] != samples[:-1])
        stop = start + count
        if len(changes):
            ends = changes + (start + 1)
            self._judge(self._since, int(ends[0]), samples[0])
            if count > self._longest:
                for i in np.flatnonzero(np.diff(ends) >= self._longest):
                    self._judge(int(ends[i]), int(ends[i + 1]), samples[changes[i + 1]])
            self._since = int(ends[-1])
        self._next, self._last = stop, samples[-1]
        self._judge(self._since, stop, self._last)

    def _check_values(self, start: int, samples: NDArray[Any]) -> None:
        if self._model.output != "categorical":
            right = np.isfinite(samples)
            if not right.all():
                wrong = int(np.argmin(right))
                raise DamagedOutputError(f"sample {start + wrong} is {samples[wrong]}, expected a number from -1 to 1")
            return
        # As unsigned numbers, negative labels are the largest.
        if int(samples.view(np.uint32).max()) >= self._model.outputs:
            wrong = int(np.argmax(samples.view(np.uint32)))
            raise DamagedOutputError(
                f"sample {start + wrong} is class {samples[wrong]}, expected one from 0 to {self._model.outputs - 1}"
            )

    def _judge(self, start: int, stop: int, value: Any) -> None:
        if stop - start < self._longest:
            return
        outermost = (0, self._model.outputs - 1) if self._model.output == "categorical" else (-1.0, 1.0)
        loud = self._loudness.loud_samples(start, stop)
        if value in outermost or loud >= self._longest:
            where = "at an end of the scale" if value in outermost else f"{loud} of them where the mel is loud"
            raise DamagedOutputError(
                f"samples {start} to {stop - 1} are all {value}, {where}; expected a waveform that moves: the executor "
                "computes something else than the model"
            )
