"""OpenVINO as a peer: it runs ``decoder_loop.onnx`` in place of ONNX Runtime, with everything else the same."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.model_directory import DECODER_LOOP, ModelDirectory, open_model_directory
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, State, initial_state
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import UnavailableError
from wavernn_trt.scripts.bench.timing import SUBJECTS, PeerError, Turn
from wavernn_trt.scripts.bench.vocoder_turn import metered, vocoder_turn

_STREAMS, _STEPS = 4, 16
_TOLERANCE = 1e-3
"""Largest difference of samples that are values."""
_EQUAL = 0.9
"""Least share of equal samples: a random number next to a class's bound may select another class."""


class OpenVinoPeer:
    """A model's loop graph in OpenVINO, on the CPU."""

    subject = SUBJECTS["openvino"]
    only: int | None = None

    def __init__(self, path: Path, threads: int) -> None:
        """Compiles the graph and compares its samples with ONNX Runtime's.

        Raises:
            UnavailableError: the package is not installed, or does not run the graph.
            PeerError: the samples differ.
        """
        self._vocoder = Vocoder.load(path, "onnxruntime", threads=threads)
        self._executor = OpenVinoExecutor(open_model_directory(path), threads)
        check_samples(self._vocoder.config.model, self._vocoder.executor, self._executor)

    def turn(self, batch: int, seconds: float) -> Turn:
        return vocoder_turn(metered(self._vocoder, batch, self._executor), self.subject, batch, seconds)


class OpenVinoExecutor(OnnxRuntimeExecutor):
    """ONNX Runtime's executor, with the decoder in OpenVINO."""

    def __init__(self, directory: ModelDirectory, threads: int) -> None:
        """Compiles the graph in float32 for ``threads`` threads.

        Raises:
            UnavailableError: the package is not installed, or does not run the graph.
        """
        super().__init__(directory, threads)
        if importlib.util.find_spec("openvino") is None:
            raise UnavailableError("not measured: openvino is not installed (pip install openvino)")
        openvino: Any = importlib.import_module("openvino")
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        try:
            core = openvino.Core()  # a folder of this name, which Python imports as well, has none
            compiled = core.compile_model(core.read_model(directory.file(DECODER_LOOP)), "CPU", options)
            self._request = compiled.create_infer_request()
        except (AttributeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            version = getattr(openvino, "__version__", "of unknown version")
            raise UnavailableError(f"not measured: openvino {version} does not run {DECODER_LOOP}: {reason}") from error
        self._run = threading.Lock()

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        inputs = self._chunk_inputs(chunk)
        inputs["uniforms"] = chunk.uniforms
        inputs["previous"] = state.previous
        inputs["hidden"] = state.hidden
        with self._run:
            self._request.infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
            names = ("samples", "previous_out", "hidden_out")
            samples, previous, hidden = (self._request.get_tensor(name).data.copy() for name in names)
        return samples, State(previous, hidden)


def check_samples(model: ModelConfig, expected: Any, found: Any) -> None:
    """Compares a chunk of two executors.

    Raises:
        PeerError: their samples differ.
    """
    random = np.random.default_rng(0)
    rows = random.standard_normal((_STREAMS, 2, model.columns)).astype(np.float32)
    frames = np.zeros((_STREAMS, _STEPS), np.int32)
    weights = np.full((_STREAMS, model.interpolated, _STEPS, 2), 0.5, np.float32)
    uniforms = random.uniform(0.01, 0.99, (_STREAMS, _STEPS, model.uniforms)).astype(np.float32)
    chunk = Chunk(rows, frames, weights, uniforms)
    ours, theirs = (executor.decode(chunk, initial_state(model, _STREAMS))[0] for executor in (expected, found))
    equal = float(np.mean(np.abs(ours.astype(np.float64) - theirs) <= _TOLERANCE))
    if equal < _EQUAL:
        raise PeerError(
            f"{SUBJECTS['openvino']}: with the same weights and random numbers, {100 * equal:.0f} % of its samples are "
            f"the model's, expected at least {100 * _EQUAL:.0f} %"
        )
