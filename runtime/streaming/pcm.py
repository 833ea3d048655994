"""Conversion of floating-point samples to 16-bit PCM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.decoding.uniforms import check_seed
from wavernn_trt.runtime.errors import VocoderError

Int16Array = NDArray[np.int16]

FULL_SCALE = 32768
"""Quantisation steps for amplitude 1.0, as in audio files; 1.0 itself is clipped to 32767."""
_DITHER = 1 << 64
"""Bit set in the generator's key, so that dither is independent of the samples drawn with the same seed."""


class Int16Encoder:
    """Quantises successive pieces of one waveform to 16 bits.

    Without dither, the error is at most half a step and depends on the signal, so that quiet passages are distorted.
    With dither, noise of triangular density, two steps wide, is added before rounding: the error's mean and power then
    do not depend on the signal, and its power is 4.8 dB higher (Lipshitz, Wannamaker and Vanderkooy, "Quantization and
    Dither: A Theoretical Survey", J. Audio Eng. Soc. 40(5), 1992).
    """

    def __init__(self, *, dither: bool = False, seed: int = 0) -> None:
        """Starts at the waveform's first sample.

        Args:
            dither: whether noise is added; it depends on the seed only, not on how the waveform is cut into pieces.
            seed: seed of the noise, 0 … 2**64 - 1.

        Raises:
            VocoderError: the seed is not an integer in that range.
        """
        key = check_seed(seed) | _DITHER
        self._generator = np.random.Generator(np.random.Philox(key=key)) if dither else None
        self._scratch = np.empty(0, np.float32)

    def encode(self, samples: FloatArray, out: Int16Array) -> None:
        """Rounds to the nearest step, ties to even; clips values outside [-1, 1] and replaces NaN by 0.

        Args:
            samples: next samples of the waveform, float32 [n].
            out: int16 [n]; may be a view of any stride.

        Raises:
            VocoderError: an array has another type or shape.
        """
        if samples.dtype != np.float32 or out.dtype != np.int16 or samples.ndim != 1 or samples.shape != out.shape:
            raise VocoderError(
                f"PCM: found {samples.dtype} {samples.shape} into {out.dtype} {out.shape}, expected float32 [n] into "
                "int16 [n]"
            )
        if len(self._scratch) < len(samples):
            self._scratch = np.empty(len(samples), np.float32)
        steps = self._scratch[: len(samples)]
        np.multiply(samples, np.float32(FULL_SCALE), out=steps)
        if self._generator is not None:
            pairs = self._generator.random((len(samples), 2), np.float32)
            steps += pairs[:, 0] + pairs[:, 1] - np.float32(1)
        np.rint(steps, out=steps)
        np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
        missing = np.isnan(steps)
        if missing.any():
            steps[missing] = 0
        np.copyto(out, steps, casting="unsafe")


def to_int16(waveform: FloatArray) -> Int16Array:
    """Converts a complete waveform to 16-bit PCM, without dither.

    Args:
        waveform: float32 [n].

    Returns:
        int16 [n]; see `Int16Encoder.encode`.

    Raises:
        VocoderError: the waveform is not float32 [n].
    """
    out = np.empty(waveform.shape, np.int16)
    Int16Encoder().encode(waveform, out)
    return out
