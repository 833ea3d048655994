"""The vocoder that people call: mel spectrograms in, waveforms out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.operators import Precision
from wavernn_trt.runtime.audio import resample
from wavernn_trt.runtime.conditioning import ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.registry import OpenedModel, check_count, open_model
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.folding import plan_folds
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.streams import Stream, decode_streams
from wavernn_trt.runtime.synthesis import Utterance, WaveformPiece, synthesise
from wavernn_trt.runtime.teacher_forcing import ForcedPiece, ForcedStream, force_streams
from wavernn_trt.runtime.uniforms import GivenUniforms, SeededUniforms, UniformSource

DEFAULT_BATCH = 8
"""Streams decoded together where the executor leaves it open."""
CHUNK_SECONDS = 0.02
"""Length of a chunk, and so of what streaming yields, where the executor leaves it open."""

SILENT_PEAK = 1e-4
"""-80 dB, three steps of 16 bits: a recording that never reaches it is silence, and is not made as loud as speech."""


@dataclass(frozen=True)
class VocoderConfig:
    """What a loaded vocoder is."""

    path: Path
    """Where it was loaded from."""
    model: ModelConfig
    """Family, sizes and conventions."""
    audio: AudioConfig
    """Sample rate and mel settings."""


@dataclass(frozen=True)
class Request:
    """One utterance asked for; the fields are `Vocoder.vocode`'s arguments."""

    mel: ArrayLike
    seed: int = 0
    uniforms: ArrayLike | None = None
    fold: int | None = None
    overlap: int | None = None
    sample_rate: int | None = None


def shipped_voice() -> Path:
    """The model directory of the voice that comes with the package.

    Raises:
        VocoderError: this installation has none.
    """
    path = Path(str(resources.files("wavernn_trt.runtime") / "voices" / "lj-small"))
    if not path.is_dir():
        raise VocoderError("no voice is shipped with this installation; name a model directory to load")
    return path


class Vocoder:
    """A loaded model. It serves one thread at a time.

    A waveform depends on its mel, its seed and the backend, and never on what else is decoded beside it.
    """

    def __init__(self, opened: OpenedModel, batch: int | None = None) -> None:
        """Puts a vocoder around an opened model; `load` is the usual way.

        Args:
            opened: model and executor.
            batch: streams decoded together, for executors that leave it open.

        Raises:
            VocoderError: ``batch`` is not a positive integer.
        """
        check_count("batch", batch)
        self.config = VocoderConfig(opened.path, opened.model, opened.audio)
        self.executor = opened.executor
        self.engine = opened.engine
        """The name of the engine's plan in the cache, where the backend runs one."""
        self.batch = opened.executor.slots or batch or DEFAULT_BATCH
        steps = opened.executor.steps or round(opened.audio.sample_rate * CHUNK_SECONDS)
        self._windows = ConditioningWindows(opened.model, opened.audio, steps, opened.upsampling)
        self._coding = SampleCoding(opened.model, opened.audio)

    @classmethod
    def load(
        cls,
        dir: str | Path | None = None,
        backend: str = "auto",
        *,
        batch: int | None = None,
        threads: int | None = None,
        precision: Precision | None = None,
        cache: str | Path | None = None,
    ) -> Vocoder:
        """Loads a model directory; the same as `wavernn_trt.load`.

        Args:
            dir: a model directory, or with ``backend="torch"`` a checkpoint; ``None`` is the voice that is shipped.
            backend: ``onnxruntime``, ``torch`` (the reference, slow), ``tensorrt`` or ``tensorrt_rtx`` (engines on a
                GPU, built with ``wavernn-trt build``), or ``auto``: an engine, where one fits this machine, else
                ``onnxruntime``.
            batch: streams decoded together by `vocode_batch` and by folding; ``None`` is 8, 1 for ``torch``, and for an
                engine as many as it can.
            threads: CPU threads; ``None`` leaves it to the backend.
            precision: ``fp32``, ``fp16`` or ``bf16``: of the engine; ``None`` takes the engine that was used last.
            cache: the folder with the engines' plans; ``None`` is the user's own.

        Raises:
            ValueError: the directory, the backend or a number is not usable; the message says what would be.
        """
        path = shipped_voice() if dir is None else Path(dir)
        folder = None if cache is None else Path(cache)
        return cls(open_model(path, backend, threads, batch, precision=precision, cache=folder), batch)

    @property
    def sample_rate(self) -> int:
        """Hz, of what comes out."""
        return self.config.audio.sample_rate

    @property
    def backend(self) -> str:
        """The executor's name."""
        return self.executor.name

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """Speaks a mel spectrogram.

        Args:
            mel: float [n_mels, frames], in the model's range (``config.audio.mel_range``).
            seed: of the random numbers that samples are drawn with, 0 … 2**64 - 1.
            uniforms: those random numbers themselves, [frames * hop_length] or, for mixtures, [frames * hop_length, 2].
            fold: cut the utterance into folds of this many samples, which are decoded together; faster for long ones.
            overlap: samples over which folds are crossfaded, by default 550.
            sample_rate: Hz that the mel was made for; if given, it is checked.

        Returns:
            float32 [frames * hop_length], about [-1, 1].

        Raises:
            VocoderError: an argument is not usable; the message says what was found and what is expected.
        """
        utterance = self.prepare(Request(mel, seed, uniforms, fold, overlap, sample_rate))
        return np.concatenate([piece.samples for piece in self.pieces([utterance])])

    def vocode_batch(
        self,
        mels: Sequence[ArrayLike],
        *,
        seeds: Sequence[int] | None = None,
        uniforms: Sequence[ArrayLike] | None = None,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> list[FloatArray]:
        """Speaks several mel spectrograms together; each waveform is, bit for bit, what `vocode` makes of it alone.

        Args:
            mels: each as for `vocode`; lengths may differ.
            seeds: one each; by default 0 for all, as for `vocode`.
            uniforms: one each, instead of seeds.
            fold: see `vocode`.
            overlap: see `vocode`.
            sample_rate: see `vocode`.

        Raises:
            VocoderError: as for `vocode`, or not as many seeds or uniforms as mels.
        """
        for name, values in (("seeds", seeds), ("uniforms", uniforms)):
            if values is not None and len(values) != len(mels):
                raise VocoderError(f"{name}: found {len(values)}, expected one for each of the {len(mels)} mels")
        requests = [
            Request(
                check_mel(mel, self.config.audio, sample_rate),  # all of them, before the work begins
                0 if seeds is None else seeds[i],
                None if uniforms is None else uniforms[i],
                fold,
                overlap,
            )
            for i, mel in enumerate(mels)
        ]
        waveforms: list[list[FloatArray]] = [[] for _ in requests]
        for piece in self.pieces(map(self.prepare, requests)):
            waveforms[piece.utterance].append(piece.samples)
        return [np.concatenate(pieces) for pieces in waveforms]

    def stream(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        frame: int | None = None,
        sample_rate: int | None = None,
    ) -> Iterator[FloatArray]:
        """Speaks a mel spectrogram piece by piece; joined, the pieces are exactly what `vocode` returns.

        Args:
            mel: see `vocode`.
            seed: see `vocode`.
            uniforms: see `vocode`.
            frame: samples of a piece, by default 20 ms; the last may be shorter.
            sample_rate: see `vocode`.

        Returns:
            An iterator over float32 [frame]; each piece comes as soon as it is decoded.

        Raises:
            VocoderError: as for `vocode`; raised here, not at the first piece.
        """
        size = round(self.sample_rate * CHUNK_SECONDS) if frame is None else frame
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise VocoderError(f"frame: found {frame!r}, expected a positive number of samples")
        utterance = self.prepare(Request(mel, seed, uniforms, sample_rate=sample_rate))
        return _reframed((piece.samples for piece in self.pieces([utterance])), int(size))

    def labels(self, mel: ArrayLike, *, seed: int = 0, uniforms: ArrayLike | None = None) -> NDArray[Any]:
        """The samples as drawn, before they become a waveform.

        Returns:
            [frames * hop_length]: int32 labels, or float32 values for mixtures.

        Raises:
            VocoderError: as for `vocode`.
        """
        utterance = self.prepare(Request(mel, seed, uniforms))
        stream = Stream(WholeConditioning(self._windows, utterance.rows), utterance.uniforms[0])
        pieces = decode_streams(self.executor, self._windows, [stream], self.batch)
        return np.concatenate([piece.samples for piece in pieces])

    def teacher_forced(self, mel: ArrayLike, samples: ArrayLike) -> FloatArray:
        """The last layer's outputs where every step is fed with the given sample before it.

        Args:
            mel: see `vocode`; the conditioning is exactly generation's.
            samples: [n], n at most frames * hop_length: labels (integers), or values for mixtures. Step t is fed with
                samples[t - 1], and step 0 as in generation.

        Returns:
            float32 logits [n, outputs].

        Raises:
            VocoderError: as for `vocode`, or samples that this model cannot have emitted.
        """
        if not len(self._coding.check(samples)):
            check_mel(mel, self.config.audio)
            return np.zeros((0, self.config.model.outputs), np.float32)
        return np.concatenate([piece.logits for piece in self.forced_pieces([(mel, samples)])])

    def forced_pieces(
        self, utterances: Iterable[tuple[ArrayLike, ArrayLike]], batch: int | None = None
    ) -> Iterator[ForcedPiece]:
        """Teacher forcing of several utterances together, yielding logits as they come, in bounded memory.

        Args:
            utterances: mel and samples, each as for `teacher_forced`; a generator is pulled whenever there is room for
                another.
            batch: streams run together, by default the vocoder's.

        Raises:
            VocoderError: as for `teacher_forced`, or no samples.
        """
        streams = (self._forced_stream(mel, samples) for mel, samples in utterances)
        return force_streams(self.executor, self._windows, streams, batch or self.batch)

    def _forced_stream(self, mel: ArrayLike, samples: ArrayLike) -> ForcedStream:
        checked = self._coding.check(samples)
        rows = self.executor.condition(check_mel(mel, self.config.audio))
        steps = self._windows.total_steps(rows)
        if not len(checked):
            raise VocoderError("samples: found none, expected at least one")
        if len(checked) > steps:
            raise VocoderError(f"samples: found {len(checked)}, expected at most the mel's {steps}")
        fed = self._coding.feedback(checked)
        first = np.array([self.config.model.first_previous], fed.dtype)
        return ForcedStream(rows, np.concatenate([first, fed[:-1]]))

    def mel(self, waveform: ArrayLike, sample_rate: float) -> FloatArray:
        """The mel spectrogram of a recording as this model takes it, for copy synthesis.

        Args:
            waveform: float [samples], mono, in [-1, 1].
            sample_rate: its rate in Hz, a whole number; it is resampled to the model's.

        Returns:
            float32 [n_mels, frames].

        Raises:
            VocoderError: not a mono waveform of finite numbers, or no sample rate.
        """
        try:
            return mel_spectrogram(self.recording(waveform, sample_rate), self.config.audio)
        except ValueError as error:
            raise VocoderError(str(error)) from None

    def recording(self, waveform: ArrayLike, sample_rate: float) -> FloatArray:
        """A recording as this model would have it: at its sample rate and, where the voice has one, its level.

        Args:
            waveform: see `mel`.
            sample_rate: see `mel`.

        Raises:
            VocoderError: as for `mel`.
        """
        audio = self.config.audio
        recording = resample(waveform, sample_rate, audio.sample_rate)
        peak = float(np.abs(recording).max())
        if audio.peak is not None and peak >= SILENT_PEAK:
            recording = recording * np.float32(audio.peak / peak)
        return recording

    def prepare(self, request: Request) -> Utterance:
        """Checks a request and conditions its mel.

        Raises:
            VocoderError: as for `vocode`.
        """
        model = self.config.model
        mel = check_mel(request.mel, self.config.audio, request.sample_rate)
        steps = mel.shape[1] * self.config.audio.hop_length
        folds = plan_folds(steps, request.fold, request.overlap)
        uniforms: list[UniformSource]
        if request.uniforms is None:
            uniforms = [SeededUniforms(model, request.seed, fold) for fold in range(len(folds))]
        elif len(folds) > 1:
            raise VocoderError(
                f"uniforms: found some together with fold, expected either; this mel's {steps} steps make {len(folds)} "
                "folds, each with a warm-up that takes random numbers of its own"
            )
        else:
            uniforms = [GivenUniforms(model, request.uniforms, steps)]
        return Utterance(self.executor.condition(mel), folds, uniforms)

    def pieces(self, utterances: Iterable[Utterance], batch: int | None = None) -> Iterator[WaveformPiece]:
        """Speaks prepared utterances together, yielding pieces of their waveforms as they come.

        Args:
            utterances: from `prepare`; a generator is pulled whenever there is room for another.
            batch: streams decoded together, by default the vocoder's.
        """
        return synthesise(self.executor, self._windows, self._coding, utterances, batch or self.batch)


load = Vocoder.load


def _reframed(pieces: Iterable[FloatArray], size: int) -> Iterator[FloatArray]:
    kept = np.zeros(0, np.float32)
    for piece in pieces:
        kept = np.concatenate([kept, piece])
        whole = len(kept) - len(kept) % size
        for start in range(0, whole, size):
            yield kept[start : start + size]
        kept = kept[whole:]
    if len(kept):
        yield kept
