"""The ``onnxruntime`` executor: any machine, no GPU needed."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import DECODER_LOOP, TEACHER_FORCED, ModelDirectory, ModelDirectoryError
from wavernn_trt.runtime.executors.host_lane import HostLane
from wavernn_trt.runtime.executors.onnx_session import OnnxConditioner, open_session, usable_cores
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray, Lane, State

_WEIGHTS_A_THREAD = 250_000
"""A thread whose share of a step's weights is smaller costs more in waiting than it brings."""
_MOST_THREADS = 8
"""Every product of a step ends with all threads waiting for the slowest: each more waits longer for a smaller share."""
_MOST_LANES = 8
"""Each lane has slots of its own, and waits for Python's lock between its chunks."""


class OnnxRuntimeExecutor:
    """Runs ``decoder_loop.onnx`` on the CPU.

    Any number of streams and steps: ONNX Runtime's packed matrix products sum each output in one order, whatever the
    number of rows, so a stream's bits do not depend on its neighbours. Lanes share the sessions, which are thread-safe:
    a chunk's products are computed by the thread that submits it and by those that the session has besides.
    """

    name = "onnxruntime"
    slots: int | None = None
    steps: int | None = None

    def __init__(self, directory: ModelDirectory, threads: int | None = None) -> None:
        """Opens the conditioner's and the decoder's sessions; that for teacher forcing opens when first used.

        Args:
            directory: a verified model directory.
            threads: CPU threads for one chunk; ``None`` takes as many as the model's size and the machine allow.
        """
        self._directory = directory
        self._threads = threads if threads is not None else default_threads(directory.model.multiply_adds)
        # Who says how many threads there may be does not mean as many again for each lane.
        self.lanes = 1 if threads is not None else max(1, min(usable_cores() // self._threads, _MOST_LANES))
        self._conditioner = OnnxConditioner(directory, self._threads)
        self._decoder = open_session(directory, DECODER_LOOP, self._threads)
        self._forced: onnxruntime.InferenceSession | None = None
        self._forced_lock = threading.Lock()
        shapes = {value.name: value.shape for value in self._decoder.get_inputs()}
        _compare(directory, {**self._conditioner.shapes, **shapes})
        self._inputs = set(shapes)

    def condition(self, mel: FloatArray) -> FloatArray:
        """See `Executor`."""
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        """See `Executor`."""
        return nullcontext(HostLane(self, self._directory.model, streams))

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        """See `ChunkDecoder`."""
        inputs = self._chunk_inputs(chunk)
        inputs["uniforms"] = chunk.uniforms
        inputs["previous"] = state.previous
        inputs["hidden"] = state.hidden
        samples, previous, hidden = self._decoder.run(["samples", "previous_out", "hidden_out"], inputs)
        return samples, State(previous, hidden)

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Executor`."""
        with self._forced_lock:
            if self._forced is None:
                self._forced = open_session(self._directory, TEACHER_FORCED, self._threads)
        inputs = {**self._chunk_inputs(chunk), "previous": previous, "hidden": hidden}
        logits, following = self._forced.run(["logits", "hidden_out"], inputs)
        return logits, following

    def _chunk_inputs(self, chunk: Chunk) -> dict[str, NDArray[Any]]:
        inputs: dict[str, NDArray[Any]] = {"conditioning": chunk.conditioning}
        if "frame_index" in self._inputs:
            inputs["frame_index"] = chunk.frame_index
        if "interpolation" in self._inputs:
            inputs["interpolation"] = chunk.interpolation
        return inputs


def _compare(directory: ModelDirectory, shapes: dict[str, list[int | str]]) -> None:
    """Refuses a configuration of other sizes than the graphs beside it."""
    model = directory.model
    expected = {
        "n_mels": (shapes["mel"][1], directory.audio.n_mels),
        "columns": (shapes["conditioning"][2], model.columns),
        "layers": (shapes["hidden"][0], model.layers),
        "hidden_size": (shapes["hidden"][2], model.hidden_size),
        "uniforms": (shapes["uniforms"][2], model.uniforms),
        "interpolated groups": (shapes.get("interpolation", [0, 0])[1], model.interpolated),
    }
    for name, (graph, config) in expected.items():
        if graph != config:
            raise ModelDirectoryError(
                f"{directory.path}: config.json says {name} = {config}, the graphs have {graph}; export it again"
            )


def default_threads(weights: int) -> int:
    """Threads for a model that reads ``weights`` weights a sample."""
    return max(1, min(usable_cores(), weights // _WEIGHTS_A_THREAD, _MOST_THREADS))
