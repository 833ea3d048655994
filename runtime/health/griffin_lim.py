"""Griffin and Lim's algorithm (1984): vocodes without a model, as the last candidate of a failover.

A mel has the magnitudes of bands and no phases; the phases are estimated iteratively until they are consistent. The
result is intelligible but sounds hollow and metallic: its answers are marked as degraded
(`wavernn_trt.runtime.models.standby`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.decoding.uniforms import check_seed
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_filterbank, mel_to_magnitude
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.sample_coding import DeEmphasis

ITERATIONS = 32
"""Iterations of the phase estimate; more than 32 hardly improve the mel of the result."""
_PASSES = 12
"""Multiplicative updates of the linear spectrum."""
_FRAMES_AT_ONCE = 512


class GriffinLim:
    """Vocodes mel spectrograms of one convention. Thread-safe."""

    def __init__(self, audio: AudioConfig, iterations: int = ITERATIONS) -> None:
        """Imports librosa; raises `VocoderError` if it is not installed."""
        try:
            import librosa
        except ModuleNotFoundError as error:
            raise VocoderError(
                f"Griffin-Lim needs librosa ({error}); install it with: pip install '.[fallback]' in a clone of the "
                "project"
            ) from None
        self._librosa: Any = librosa
        self._audio = audio
        self._iterations = iterations

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveform."""
        return self._audio.sample_rate

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """Vocodes a mel spectrogram.

        Args:
            mel: float [n_mels, frames], in the model's range.
            seed: of the initial phases.
            fold: ignored; all frames are computed together.
            overlap: ignored.
            sample_rate: of the mel in Hz; checked if given.

        Returns:
            float32 [frames * hop_length], with the same delay as the model's output.

        Raises:
            VocoderError: an argument is invalid.
        """
        audio = self._audio
        values = check_mel(mel, audio, sample_rate)
        frames = values.shape[1]
        samples = frames * audio.hop_length
        # The last frame is repeated: once, and up to one window if the mel is shorter.
        longer = max(frames, -(-audio.n_fft // audio.hop_length)) + 1
        values = np.pad(values, ((0, 0), (0, longer - frames)), mode="edge")
        signal = self._librosa.griffinlim(
            linear_magnitude(audible_magnitude(values, audio), audio),
            n_iter=self._iterations,
            hop_length=audio.hop_length,
            win_length=audio.win_length,
            n_fft=audio.n_fft,
            window="hann",
            center=True,
            length=(longer - 1) * audio.hop_length,
            pad_mode=audio.pad_mode,
            # RandomState accepts seeds of 32 bits only.
            random_state=np.random.RandomState(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0]),
        )
        waveform = DeEmphasis(audio.preemphasis)(signal[:samples].astype(np.float64))
        late = np.concatenate([np.zeros(audio.delay), waveform])[:samples]
        return late.astype(np.float32)

    def close(self) -> None:
        """Does nothing: there is nothing to free."""


def audible_magnitude(mel: FloatArray, audio: AudioConfig) -> NDArray[np.float64]:
    """Mel-filtered magnitudes [n_mels, frames]; zero at the lower end of the range, where mels are clipped."""
    magnitude = mel_to_magnitude(mel, audio)
    return magnitude if audio.log == "natural" else np.where(mel > audio.mel_range[0], magnitude, 0.0)


def linear_magnitude(magnitude: NDArray[np.float64], audio: AudioConfig) -> FloatArray:
    """Non-negative magnitudes |STFT| [n_fft // 2 + 1, frames] from mel-filtered magnitudes [n_mels, frames].

    Of the many solutions this is a smooth one, by the multiplicative updates of Lee and Seung for least squares, which
    keep all values non-negative.
    """
    bank = mel_filterbank(audio)
    wide = bank / np.maximum(bank.sum(axis=1, keepdims=True), 1e-12)
    gram = _gram(audio)
    spectrum = np.empty((bank.shape[1], magnitude.shape[1]), np.float32)
    for start in range(0, magnitude.shape[1], _FRAMES_AT_ONCE):
        block = magnitude[:, start : start + _FRAMES_AT_ONCE]
        wanted = bank.T @ block
        found = np.where(bank.sum(axis=0)[:, None] > 0, np.maximum(wide.T @ block, 1e-9), 0.0)
        for _ in range(_PASSES):
            found *= wanted / np.maximum(gram @ found, 1e-12)
        spectrum[:, start : start + _FRAMES_AT_ONCE] = found
    return spectrum


@lru_cache(maxsize=2)
def _gram(audio: AudioConfig) -> NDArray[np.float64]:
    bank = mel_filterbank(audio)
    return bank.T @ bank
