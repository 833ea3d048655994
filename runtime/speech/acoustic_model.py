"""Acoustic models: phonemes to prosody, and prosody to a mel spectrogram in blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.export.acoustic.directory import ENCODER, FRAMES, AcousticDirectory, open_acoustic_directory
from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig

FIRST_BLOCK, BLOCK = 16, 64
"""Frames of the first block of a sentence, which is short so that the first audio comes early, and of the others."""
_DECIBELS = 80.0
"""Range of a mel."""


@dataclass(frozen=True)
class Prosody:
    """Durations, pitch and energy of a sentence's phonemes; `dataclasses.replace` changes them."""

    symbols: tuple[str, ...]
    """The phonemes [N], with the silence before and after the sentence."""
    places: tuple[int, ...]
    """Of each symbol, its place in the phonemes that were given; -1 for the silences."""
    durations: FloatArray
    """float32 [N], frames."""
    f0: FloatArray
    """float32 [N], Hz: the mean over a phoneme's voiced frames."""
    energy: FloatArray
    """float32 [N], decibels above the mean of the speaker's phonemes."""
    hidden: FloatArray
    """float32 [N, ...]: the model's own rows."""

    def scaled(self, speed: float = 1.0, pitch: float = 1.0) -> Prosody:
        """Returns the prosody with all durations divided by ``speed`` and all f0 multiplied by ``pitch``."""
        durations, f0 = self.durations / np.float32(speed), self.f0 * np.float32(pitch)
        return dataclasses.replace(self, durations=durations, f0=f0)

    @property
    def ends(self) -> NDArray[np.int64]:
        """int64 [N]: the frame behind each phoneme. Sums are rounded, so that errors do not add up."""
        return np.rint(np.cumsum(self.durations, dtype=np.float64)).astype(np.int64)

    @property
    def frames(self) -> int:
        """Frames of the mel."""
        return int(self.ends[-1])


class AcousticModel(Protocol):
    """A model that turns phonemes into a mel spectrogram."""

    @property
    def audio(self) -> AudioConfig:
        """Settings of the mels."""
        ...

    def prosody(self, phonemes: str) -> Prosody:
        """Predicts the prosody of a sentence.

        Args:
            phonemes: in the model's alphabet; characters that it lacks are left out.
        """
        ...

    def mel(self, prosody: Prosody) -> Iterator[FloatArray]:
        """Computes a sentence's mel in blocks.

        Returns:
            float32 [n_mels, frames] each, in the range of ``audio``; joined, ``prosody.frames`` frames.
        """
        ...


class ConvolutionalAcousticModel:
    """The project's own acoustic model, run by ONNX Runtime on one CPU thread. It is thread-safe.

    Blocks begin at fixed frames of a sentence and read a fixed margin around themselves, so a mel has the same bits
    whether it is computed whole or as a stream.
    """

    def __init__(self, directory: AcousticDirectory) -> None:
        """Opens the graphs; raises a ModelDirectoryError if one is damaged."""
        self._config = directory.acoustic
        self._audio = directory.audio
        self._numbers = {symbol: number for number, symbol in enumerate(directory.acoustic.symbols, start=1)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._encoder, self._frames = (
            onnxruntime.InferenceSession(directory.graph(name), options, providers=["CPUExecutionProvider"])
            for name in (ENCODER, FRAMES)
        )

    @classmethod
    def load(cls, path: str | Path) -> ConvolutionalAcousticModel:
        """Loads a directory; raises a ModelDirectoryError if it is damaged or has another kind of model."""
        return cls(open_acoustic_directory(path))

    @property
    def audio(self) -> AudioConfig:
        return self._audio

    def prosody(self, phonemes: str) -> Prosody:
        known = [(symbol, place) for place, symbol in enumerate(phonemes) if symbol in self._numbers]
        symbols = ("_", *(symbol for symbol, _ in known), "_")
        places = (-1, *(place for _, place in known), -1)
        margin = self._config.encoder_margin
        numbers = np.zeros(len(symbols) + 2 * margin, np.int64)
        numbers[margin : margin + len(symbols)] = [self._numbers[symbol] for symbol in symbols]
        hidden, durations, pitch, f0, voicing, energy = self._encoder.run(None, {"symbols": numbers})
        inside = np.ones_like(pitch)
        rows = np.concatenate([hidden, np.stack([inside, pitch, voicing, energy, f0], 1)], 1)
        levels = energy * np.float32(self._config.energy_deviation * _DECIBELS)
        durations = np.maximum(durations, 0)
        durations[0] = max(durations[0], 4)  # so that there is a frame at any speed
        return Prosody(symbols, places, durations, f0, levels, rows)

    def mel(self, prosody: Prosody) -> Iterator[FloatArray]:
        features, factors = self._features(prosody)
        margin = self._config.frame_margin
        start, size = 0, FIRST_BLOCK
        while start < prosody.frames:
            stop = min(start + size, prosody.frames)
            rows = slice(start, stop + 2 * margin)
            yield self._frames.run(["mel"], {"frames": features[rows], "factor": factors[rows]})[0]
            start, size = stop, BLOCK

    def _features(self, prosody: Prosody) -> tuple[FloatArray, FloatArray]:
        """Returns the graph's inputs for a whole sentence, with margins.

        Returns:
            float32 [frames + 2 * frame_margin, features] and the factors of f0, float32 [frames + 2 * frame_margin].
        """
        ends = prosody.ends
        lengths = np.diff(ends, prepend=0)
        predicted = prosody.hidden[:, -1]
        factor = (prosody.f0 / predicted).astype(np.float32)
        rows = prosody.hidden[:, :-1].copy()
        rows[:, -1] = prosody.energy / np.float32(self._config.energy_deviation * _DECIBELS)
        length = lengths.repeat(lengths)
        place = np.arange(prosody.frames) - (ends - lengths).repeat(lengths)
        position = (place + 0.5) / length
        inner = np.concatenate([rows.repeat(lengths, 0), np.stack([position, np.log1p(length)], 1)], 1)
        margin = self._config.frame_margin
        features = np.pad(inner.astype(np.float32), ((margin, margin), (0, 0)))
        return features, np.pad(factor.repeat(lengths), margin, constant_values=1)
