"""The ``native`` executor: the project's own decoder for CPUs; see `wavernn_trt.plugins.cpu`.

Mels are conditioned by ONNX Runtime. Chunks are computed by the submitting thread, without Python's global lock, and
for large models by further threads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.operators import NativePrecision
from wavernn_trt.export.quantization import product_names, weight_name
from wavernn_trt.export.sequence import FusedSequence, read_sequence
from wavernn_trt.plugins.cpu.decoder import NativeDecoder, StepWork
from wavernn_trt.plugins.cpu.library import PORTABLE, NativeLibraryError, native_library
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.lanes import HostLane
from wavernn_trt.runtime.executors.onnx_runtime import OnnxBlockConditioner, OnnxConditioner, usable_cores
from wavernn_trt.runtime.executors.protocol import Chunk, Lane, State
from wavernn_trt.runtime.sample_coding import SampleCoding

_WEIGHTS_A_THREAD = 700_000
"""Minimum weights of a step for each thread: threads synchronise four to six times in a step."""
_MOST_THREADS = 8
_MOST_LANES = 8
"""Lanes compete for Python's global lock between their chunks."""


class NativeExecutor:
    """Runs the native decoder.

    It accepts any number of streams and steps: a stream's bits do not depend on its neighbours, on the threads or on
    the instruction set.
    """

    name = "native"
    slots: int | None = None
    steps: int | None = None

    def __init__(self, directory: ModelDirectory, decoder: NativeDecoder, precision: str, threads: int | None) -> None:
        """Made by `open_native`."""
        self.precision = precision
        """Precision of the decoder's weights; ``quantised`` for directories with their own."""
        self._decoder = decoder
        self._model = directory.model
        self._threads = threads if threads is not None else _default_threads(directory.model.multiply_adds)
        self.lanes = 1 if threads is not None else max(1, min(usable_cores() // self._threads, _MOST_LANES))
        self.conditioners = 1
        self._conditioner = OnnxConditioner(directory, self._threads)
        self.block_conditioner = OnnxBlockConditioner.of(directory)

    @property
    def path(self) -> str:
        """Name of the instruction set."""
        return self._decoder.path

    @property
    def work(self) -> StepWork:
        """Work of a step."""
        return self._decoder.work

    def condition(self, mel: FloatArray) -> FloatArray:
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return nullcontext(HostLane(self, self._model, streams))

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        found = self._decoder.decode(self._inputs(chunk, state.previous, state.hidden), threads=self._threads)
        return found["samples"], State(found["previous_out"], found["hidden_out"])

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        inputs = self._inputs(chunk, previous[:, 0], hidden)
        found = self._decoder.decode(inputs, threads=self._threads, forced=previous, logits=True)
        return found["logits"], found["hidden_out"]

    def _inputs(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> dict[str, NDArray[Any]]:
        return {
            "conditioning": chunk.conditioning,
            "frame_index": chunk.frame_index,
            "interpolation": chunk.interpolation,
            "uniforms": chunk.uniforms,
            "previous": previous,
            "hidden": hidden,
        }


def open_native(
    directory: ModelDirectory, precision: NativePrecision | None = None, threads: int | None = None
) -> NativeExecutor:
    """Opens a model directory.

    Args:
        directory: a verified model directory.
        precision: of the weights; ``None`` is the directory's default.
        threads: for one chunk; ``None`` selects the number by the model's size and the machine.

    Raises:
        VocoderError: as for `native_decoder`.
        ModelDirectoryError: the directory's files are inconsistent.
    """
    return NativeExecutor(directory, *native_decoder(directory, precision), threads)


def native_decoder(directory: ModelDirectory, precision: NativePrecision | None = None) -> tuple[NativeDecoder, str]:
    """Returns the decoder of a model directory, and its precision: ``quantised`` for a directory with its own.

    Args:
        directory: a verified model directory.
        precision: of the weights; ``None`` is the directory's default.

    Raises:
        VocoderError: this installation has no native decoder, or it cannot decode the model.
        ModelDirectoryError: ``sequence.npz`` does not fit the directory.
    """
    try:
        library = native_library()
        path = library.path
    except NativeLibraryError as error:
        raise VocoderError(f"the native decoder is not installed: {error}") from error
    sequence = _read(directory)
    quantised = directory.quantization is not None
    if quantised and precision is not None:
        raise VocoderError(
            f"precision: found {precision!r} for {directory.path}, which is quantised; leave it out, or use the "
            "directory that it was made from"
        )
    chosen = precision or directory.cpu_precision or "fp32"
    precisions, scales = _quantised(directory) if quantised else (dict.fromkeys(_matrices(directory), chosen), {})
    fed_back = None
    if directory.model.output == "categorical" and not directory.model.label_feedback:
        fed_back = SampleCoding(directory.model, directory.audio).feedback(np.arange(directory.model.outputs))
    try:
        decoder = NativeDecoder(
            sequence.shape, sequence.weights, fed_back, precisions, scales, library=library, path=path
        )
    except ValueError as error:
        raise VocoderError(f"{directory.path}: {error}") from error
    return decoder, "quantised" if quantised else chosen


def why_slow() -> str | None:
    """The reason why ``auto`` selects ONNX Runtime on this machine; ``None`` if the native decoder is faster.

    With vector instructions it is faster in every row of the committed measurements (scripts/bench/results).
    """
    try:
        if native_library().path != PORTABLE:
            return None
    except NativeLibraryError as error:
        return str(error)
    return "the native decoder has no code for this CPU, which lacks AVX2 with FMA, or NEON"


def _matrices(directory: ModelDirectory) -> list[str]:
    return [weight_name(product) for product in product_names(directory.model)]


def _read(directory: ModelDirectory) -> FusedSequence:
    if (sequence := read_sequence(directory)) is not None:
        return sequence
    try:
        from wavernn_trt.export.rewrite.from_directory import fuse_directory
        from wavernn_trt.export.rewrite.fuse_gates import PatternError
    except ImportError as error:
        raise VocoderError(
            f"{directory.path} has no sequence.npz, which the native decoder reads: an earlier version exported it. "
            f"Use --backend onnxruntime, or export it again: wavernn-trt export {directory.path} -o NEW"
        ) from error
    try:
        return fuse_directory(directory)
    except PatternError as error:
        raise VocoderError(
            f"{directory.path}: the native decoder does not compute this model: {error}; use --backend onnxruntime"
        ) from error


def _quantised(directory: ModelDirectory) -> tuple[dict[str, NativePrecision], dict[str, float]]:
    """Precisions and int8 activations' scales of the matrices of a quantised directory.

    Raises:
        VocoderError: a product is on a grid that the native decoder does not compute.
    """
    assert directory.quantization is not None
    precisions: dict[str, NativePrecision] = {}
    scales: dict[str, float] = {}
    for name, product in directory.quantization.products.items():
        matrix = weight_name(name)
        if product.grid == "int8":
            precisions[matrix] = "int8"
            if not product.weights_only:
                scales[matrix] = float(np.float32(product.scale))
        elif product.weights_only:
            precisions[matrix] = "bf16" if product.grid == "bf16" else "fp32"  # the rounded weights, exactly
        else:
            raise VocoderError(
                f"{directory.path}: {name} has activations in {product.grid}, which the native decoder does not "
                "compute; use --backend onnxruntime"
            )
    return precisions, scales


def _default_threads(weights: int) -> int:
    return max(1, min(usable_cores(), weights // _WEIGHTS_A_THREAD, _MOST_THREADS))
