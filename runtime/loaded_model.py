"""A loaded model: its configuration, its executor, and the operations that need no scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.export.operators import NATIVE_PRECISIONS
from wavernn_trt.runtime.conditioning.mel_conditioner import MelConditioner
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.teacher_forcing import ForcedPiece, force_streams, forced_stream
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.executors.registry import open_executor, open_torch
from wavernn_trt.runtime.load_options import DEFAULT_OPTIONS, ENGINES, ON_A_GPU, LoadOptions, check_count
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.reopening import ModelReference, file_hashes
from wavernn_trt.runtime.sample_coding import SampleCoding

CHUNK_SECONDS = 0.02
"""Length of a chunk, if the executor accepts any."""
DEFAULT_BATCH = 8
"""Streams decoded together, if the executor accepts any number."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and the executor that runs it. Thread-safe.

    Methods call the executor in the calling thread; a `wavernn_trt.runtime.vocoder.Vocoder` decodes the utterances of
    many callers together.

    One that `load_model` loaded can be pickled: the pickle holds a `ModelReference`, and unpickling loads the model.
    """

    path: Path
    """The model directory or checkpoint."""
    model: ModelConfig
    """Family, sizes and conventions."""
    audio: AudioConfig
    """Sample rate and mel settings."""
    upsampling: FloatArray | None
    """float32 [hop_length, 2 * margin + 1], if a group of conditioning columns is expanded by ``kernel``."""
    executor: Executor
    engine: str | None = None
    """Name of the decoder's TensorRT plan, or of the ``cuda`` kernel; ``None`` for other executors."""
    options: LoadOptions = DEFAULT_OPTIONS
    """The options of `load_model`."""
    files: Mapping[str, str] | None = field(default=None, init=False, repr=False)
    """SHA-256 of the files by name, set by `load_model`; ``None`` if a part was made or replaced by the caller."""

    @classmethod
    def of(
        cls,
        directory: ModelDirectory,
        executor: Executor,
        engine: str | None = None,
        options: LoadOptions = DEFAULT_OPTIONS,
    ) -> LoadedModel:
        """Combines a model directory and its executor."""
        return cls(
            directory.path, directory.model, directory.audio, directory.upsampling, executor, engine, options=options
        )

    def __reduce__(self) -> tuple[Callable[[ModelReference], LoadedModel], tuple[ModelReference]]:
        """Pickles where the model is and how it was loaded.

        Raises:
            VocoderError: `load_model` did not load it.
        """
        if self.files is None:
            raise VocoderError(
                "pickle: found a model whose executor the caller made, expected one that wavernn_trt.load loaded, "
                "which can be loaded again elsewhere"
            )
        backend, cache, precision = self.executor.name, self.options.cache, self.options.precision
        if backend in ENGINES:  # without a precision, the engine used last is opened, which may be another one then
            precision = getattr(self.executor, "precision", precision)
        elif backend == "native":  # auto may have ignored a precision for other backends
            precision = precision if precision in NATIVE_PRECISIONS else None
        options = dataclasses.replace(
            self.options,
            backend=backend,
            precision=precision if backend in (*ON_A_GPU, "native") else None,  # auto may have come to another backend
            cache=None if cache is None else cache.absolute(),
        )
        path = self.path.absolute()
        return _reopen, (ModelReference(path, self.files, self.model, self.audio, self.engine, options),)

    @property
    def precision(self) -> str | None:
        """Precision of the decoder, ``quantised`` for a directory with its own; ``None`` if there is only one."""
        return getattr(self.executor, "precision", None)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.audio.sample_rate

    def slots(self, batch: int | None = None) -> int:
        """Number of streams decoded together.

        Args:
            batch: the number, if the executor accepts any; ``None`` is the number of the options, or else 8.

        Raises:
            VocoderError: ``batch`` is not a positive integer.
        """
        check_count("batch", batch)
        return self.executor.slots or batch or self.options.batch or DEFAULT_BATCH

    @cached_property
    def windows(self) -> ConditioningWindows:
        """Cuts conditioning into the windows that chunks read; its ``steps`` is the number of samples of a chunk.

        Raises:
            VocoderError: the upsampling weights are missing or do not fit the model.
        """
        steps = self.executor.steps or round(self.audio.sample_rate * CHUNK_SECONDS)
        return ConditioningWindows(self.model, self.audio, steps, self.upsampling)

    @cached_property
    def coding(self) -> SampleCoding:
        """Converts between waveforms and the samples that the model emits."""
        return SampleCoding(self.model, self.audio)

    @cached_property
    def conditioner(self) -> MelConditioner:
        """Conditions checked mels [n_mels, frames], in one run or block by block."""
        return MelConditioner(self.model, self.audio, self.windows, self.executor)

    def teacher_forced(self, mel: ArrayLike, samples: ArrayLike) -> FloatArray:
        """Logits of every step with teacher forcing.

        Args:
            mel: float [n_mels, frames], in the model's range.
            samples: [n], n at most frames * hop_length: labels (integers), or values for mixtures. The input of step t
                is samples[t - 1], and that of step 0 as in generation.

        Returns:
            float32 logits [n, outputs].

        Raises:
            VocoderError: the mel is invalid, or the model cannot emit these samples.
        """
        if not len(self.coding.check(samples)):
            check_mel(mel, self.audio)
            return np.zeros((0, self.model.outputs), np.float32)
        return np.concatenate([piece.logits for piece in self.forced_pieces([(mel, samples)])])

    def forced_pieces(
        self, utterances: Iterable[tuple[ArrayLike, ArrayLike]], batch: int | None = None
    ) -> Iterator[ForcedPiece]:
        """Teacher forcing of several utterances together; yields pieces of logits, in bounded memory.

        Args:
            utterances: mel and samples, each as for `teacher_forced`; read only when a stream is free.
            batch: streams run together; see `slots`.

        Raises:
            VocoderError: as for `teacher_forced`, or no samples.
        """
        streams = (
            forced_stream(self.conditioner(check_mel(mel, self.audio)), samples, self.model, self.coding)
            for mel, samples in utterances
        )
        return force_streams(self.executor, self.windows, streams, self.slots(batch))


def load_model(path: Path | None = None, options: LoadOptions = DEFAULT_OPTIONS) -> LoadedModel:
    """Loads a model with a backend.

    Args:
        path: a model directory; for ``torch`` also a checkpoint. ``None`` is the shipped voice.
        options: backend, sizes and precision; ``probe`` is ignored (`Vocoder` uses it).

    Raises:
        VocoderError: the backend is missing or cannot run the model.
        ValueError: the model or the cache of plans cannot be read.
    """
    path = shipped_voice() if path is None else path
    files = file_hashes(path)
    if options.backend == "torch":
        checkpoint, executor = open_torch(path, options)
        model = checkpoint.model
        loaded = LoadedModel(path, model.config, checkpoint.audio, model.upsampling, executor, options=options)
    else:
        directory = open_model_directory(path)
        loaded = LoadedModel.of(directory, *open_executor(directory, options), options)
    object.__setattr__(loaded, "files", files)
    return loaded


def _reopen(reference: ModelReference) -> LoadedModel:
    """Loads a pickled model.

    Raises:
        ValueError: as for `load_model`; or another model or engine is there now.
    """
    reference.check_files()
    loaded = load_model(reference.path, reference.options)
    reference.check_opened(loaded.model, loaded.audio, loaded.engine)
    return loaded


def shipped_voice() -> Path:
    """The model directory of the shipped voice.

    Raises:
        VocoderError: this installation has no voice.
    """
    path = Path(str(resources.files("wavernn_trt.runtime") / "voices" / "heart-lj"))
    if not path.is_dir():
        raise VocoderError("this installation has no shipped voice; give the path of a model directory")
    return path
