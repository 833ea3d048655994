"""Speech without a model: Griffin and Lim's algorithm (1984), the last candidate of a failover.

A mel holds the magnitude of each band and no phases; these are estimated until they are consistent. The result is
intelligible, and sounds hollow and metallic; its answers are marked as degraded (`wavernn_trt.runtime.models.standby`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.decoding.sample_coding import DeEmphasis
from wavernn_trt.runtime.decoding.uniforms import check_seed
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_filterbank, mel_to_magnitude
from wavernn_trt.runtime.mel import check_mel

ITERATIONS = 32
"""Rounds of guessing. From 32 on, mels of the result hardly come closer to the one asked for."""
_PASSES = 12
"""Multiplicative updates that spread bands over frequencies."""
_FRAMES_AT_ONCE = 512


class GriffinLim:
    """Speaks mel spectrograms of one convention; any number of threads may use it."""

    def __init__(self, audio: AudioConfig, iterations: int = ITERATIONS) -> None:
        """Takes a convention; librosa is loaded here.

        Args:
            audio: how mels are made.
            iterations: rounds of guessing phases.

        Raises:
            VocoderError: librosa is not installed.
        """
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
        """Hz, of what comes out."""
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
        """Speaks a mel spectrogram; the arguments are `wavernn_trt.runtime.vocoder.Vocoder.vocode`'s.

        Args:
            mel: float [n_mels, frames], in the model's range.
            seed: of the first guess of the phases.
            fold: is not looked at; all frames are computed together.
            overlap: likewise.
            sample_rate: Hz that the mel was made for; if given, it is checked.

        Returns:
            float32 [frames * hop_length], in time with what the model would say.

        Raises:
            VocoderError: an argument is not usable.
        """
        audio = self._audio
        values = check_mel(mel, audio, sample_rate)
        frames = values.shape[1]
        samples = frames * audio.hop_length
        # The last frame goes on: its own half, and as far as a spectrum needs where the mel is shorter than one.
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
            # 32 bits: a generator of numpy's older kind takes no longer seeds.
            random_state=np.random.RandomState(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0]),
        )
        waveform = DeEmphasis(audio.preemphasis)(signal[:samples].astype(np.float64))
        late = np.concatenate([np.zeros(audio.delay), waveform])[:samples]
        return late.astype(np.float32)

    def close(self) -> None:
        """There is nothing to give back."""


def audible_magnitude(mel: FloatArray, audio: AudioConfig) -> NDArray[np.float64]:
    """Mel-filtered magnitudes [n_mels, frames]. A range's lower end is whatever was below it, and becomes silence."""
    magnitude = mel_to_magnitude(mel, audio)
    return magnitude if audio.log == "natural" else np.where(mel > audio.mel_range[0], magnitude, 0.0)


def linear_magnitude(magnitude: NDArray[np.float64], audio: AudioConfig) -> FloatArray:
    """Magnitudes |STFT| [n_fft // 2 + 1, frames], none negative, whose mel bins are as given [n_mels, frames].

    There are many such spectra, and this is a smooth one: each update multiplies a frequency by how much too low the
    bins around it are (Lee and Seung's rule for least squares), and so leaves none negative.
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
