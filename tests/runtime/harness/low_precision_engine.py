"""Executors with the numbers of a low-precision engine, computed by the sequence plugin's reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.engines.graphs import engine_graph
from wavernn_trt.engines.spec import EngineSpec, Extent
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.lanes import HostLane
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray, Lane, State
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.vocoder import Vocoder

Weights = Mapping[str, NDArray[np.float32]]


class LowPrecisionEngine:
    """Products in a precision, sums and gates in float32, like the kernels; ONNX Runtime runs the conditioner."""

    name = "tensorrt_rtx"
    slots: int | None = None
    steps: int | None = None
    lanes = 1
    conditioners = 1

    def __init__(
        self, directory: ModelDirectory, precision: Precision, damage: Callable[[Weights], Weights] = lambda same: same
    ) -> None:
        self._model = directory.model
        self._sequence = fuse_sequence(
            fuse_gates(read_networks(directory), directory.model.input_sizes), directory.model
        )
        self._weights = damage(self._sequence.weights)
        self.precision = precision
        self._conditioner = OnnxRuntimeExecutor(directory, threads=1)

    def condition(self, mel: FloatArray) -> FloatArray:
        return self._conditioner.condition(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return nullcontext(HostLane(self, self._model, streams))

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        inputs = {**self._weights, "conditioning": chunk.conditioning, "uniforms": chunk.uniforms}
        inputs |= {"previous": state.previous, "hidden": state.hidden}
        if any(self._sequence.shape.group_held):
            inputs["frame_index"] = chunk.frame_index
        if self._sequence.shape.interpolated:
            inputs["interpolation"] = chunk.interpolation
        with np.errstate(all="ignore"):  # damaged weights overflow anything
            found = decode_sequence(self._sequence.shape, inputs, self.precision)
        return found["samples"], State(found["previous_out"], found["hidden_out"])

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        raise VocoderError("an engine gives no logits")


class CellEngine(LowPrecisionEngine):
    """An engine of form ``cell``: ONNX Runtime runs its graph, whose products round as in the directory."""

    form = "cell"
    slots = 1
    steps = 8

    def __init__(self, directory: ModelDirectory, precision: Precision) -> None:
        super().__init__(directory, precision)
        spec = EngineSpec(targets=(89,), form="cell", steps=self.steps, batch=Extent.of(1), precision=precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Its optimiser removes a Relu before a QuantizeLinear of fp8, though fp8 has negative codes.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        graph = engine_graph(directory, spec, "decoder").SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        given = {**vars(chunk), **vars(state)}
        inputs = {one.name: given[one.name] for one in self._session.get_inputs()}
        samples, previous, hidden = self._session.run(["samples", "previous_out", "hidden_out"], inputs)
        return samples, State(previous, hidden)


def vocoder(directory: ModelDirectory, precision: Precision, **settings: Any) -> Vocoder:
    """A vocoder that runs such an engine."""
    return running(LowPrecisionEngine(directory, precision, **settings), directory)


def running(executor: LowPrecisionEngine, directory: ModelDirectory) -> Vocoder:
    """A vocoder of a directory that runs an engine."""
    opened = LoadedModel.of(directory, executor)
    return Vocoder(dataclasses.replace(opened, engine=f"decoder_{executor.precision}"))
