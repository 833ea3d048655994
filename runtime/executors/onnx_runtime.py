"""The ``onnxruntime`` executor, which runs on any CPU, and the conditioner that the ``cuda`` executor uses as well."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import (
    CONDITIONER,
    CONDITIONER_BLOCKS,
    DECODER_LOOP,
    TEACHER_FORCED,
    ModelDirectory,
    ModelDirectoryError,
)
from wavernn_trt.runtime.executors.lanes import HostLane
from wavernn_trt.runtime.executors.protocol import Chunk, Lane, State

Provider = str | tuple[str, Mapping[str, str]]
"""Name of an ONNX Runtime execution provider, with options."""

CPU: tuple[Provider, ...] = ("CPUExecutionProvider",)
_CUDA = "CUDAExecutionProvider"
_WEIGHTS_A_THREAD = 250_000
"""Minimum weights of a step for each thread; with fewer, synchronisation takes more time than the thread saves."""
_MOST_THREADS = 8
"""Threads synchronise after every product of a step, which takes longer with each further thread."""
_MOST_LANES = 8
"""Lanes compete for Python's global lock between their chunks."""


class OnnxRuntimeExecutor:
    """Runs ``decoder_loop.onnx`` on the CPU.

    It accepts any number of streams and steps: ONNX Runtime's packed matrix products sum each output in an order that
    does not depend on the number of rows, so a stream's bits do not depend on its neighbours. Lanes share the
    thread-safe sessions; a chunk is computed by the submitting thread and the threads of the session.
    """

    name = "onnxruntime"
    slots: int | None = None
    steps: int | None = None

    def __init__(self, directory: ModelDirectory, threads: int | None = None) -> None:
        """Opens the sessions of the conditioner and the decoder; that of teacher forcing is opened on first use.

        Args:
            directory: a verified model directory.
            threads: CPU threads for one chunk; ``None`` selects the number by the model's size and the machine.
        """
        self._directory = directory
        self._threads = threads if threads is not None else default_threads(directory.model.multiply_adds)
        # A given number of threads limits the process, not each lane.
        self.conditioners = 1
        self.lanes = 1 if threads is not None else max(1, min(usable_cores() // self._threads, _MOST_LANES))
        self._conditioner = OnnxConditioner(directory, self._threads)
        self.block_conditioner = OnnxBlockConditioner.of(directory)
        self._decoder = open_session(directory, DECODER_LOOP, self._threads)
        self._forced: onnxruntime.InferenceSession | None = None
        self._forced_lock = threading.Lock()
        shapes = {value.name: value.shape for value in self._decoder.get_inputs()}
        _compare(directory, {**self._conditioner.shapes, **shapes})
        self._inputs = set(shapes)

    def condition(self, mel: FloatArray) -> FloatArray:
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return nullcontext(HostLane(self, self._directory.model, streams))

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        inputs = self._chunk_inputs(chunk)
        inputs["uniforms"] = chunk.uniforms
        inputs["previous"] = state.previous
        inputs["hidden"] = state.hidden
        samples, previous, hidden = self._decoder.run(["samples", "previous_out", "hidden_out"], inputs)
        return samples, State(previous, hidden)

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
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


class OnnxConditioner:
    """Runs ``conditioner.onnx``. Thread-safe."""

    def __init__(self, directory: ModelDirectory, threads: int, providers: Sequence[Provider] = CPU) -> None:
        """Opens the session; see `open_session`.

        A convolutional conditioner uses one thread: with several, MLAS (ONNX Runtime's matrix library) sums channels in
        an order that depends on the columns of each thread, so that bits would depend on the machine and the length of
        the mel. A frame takes 0.03 ms (fatchord's published size).

        The memory arena is off, because it keeps the memory of the longest mel. For one hour of the shipped voice's
        mel, the maximum is 1.8 GiB (2.8 with an arena), and 1.0 GiB stay afterwards (2.8); the time is the same.
        """
        threads = threads if directory.model.family == "univoc" else 1
        self._session = open_session(directory, CONDITIONER, threads, providers, arena=False)
        self.shapes: dict[str, list[int | str]] = {
            value.name: value.shape for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        """Shapes of ``mel`` and ``conditioning``."""
        self.provider: str = self._session.get_providers()[0]
        """The provider in use: ONNX Runtime uses the CPU if a library of the GPU does not load."""

    def __call__(self, mel: FloatArray) -> FloatArray:
        (rows,) = self._session.run(["conditioning"], {"mel": np.ascontiguousarray(mel[None])})
        return rows[0]  # type: ignore[no-any-return]


class OnnxBlockConditioner:
    """Runs ``conditioner_blocks.onnx`` on the CPU; a `BlockConditioner`. Any number of threads at once."""

    def __init__(self, directory: ModelDirectory) -> None:
        """Prepares; the session, which few need, is opened when it is first used."""
        self._directory = directory
        self._opened: onnxruntime.InferenceSession | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, directory: ModelDirectory) -> OnnxBlockConditioner | None:
        """A directory's; ``None`` where it has no such graph."""
        return cls(directory) if directory.file(CONDITIONER_BLOCKS).is_file() else None

    @property
    def layers(self) -> int:
        return len(self._session.get_inputs()) - 1

    @property
    def size(self) -> int:
        return int(self._session.get_inputs()[1].shape[2])

    def __call__(self, mel: FloatArray, states: FloatArray) -> tuple[FloatArray, FloatArray]:
        inputs = {f"state_{layer}": np.ascontiguousarray(state[:, None]) for layer, state in enumerate(states)}
        outputs = ["conditioning", *(f"next_state_{layer}" for layer in range(len(states)))]
        rows, *following = self._session.run(outputs, {"mel": np.ascontiguousarray(mel[None]), **inputs})
        return rows[0], np.stack(following)[:, :, 0]

    @property
    def _session(self) -> onnxruntime.InferenceSession:
        with self._lock:
            if self._opened is None:
                self._opened = open_session(self._directory, CONDITIONER_BLOCKS, 1, arena=False)
            return self._opened


def open_session(
    directory: ModelDirectory, name: str, threads: int, providers: Sequence[Provider] = CPU, *, arena: bool = True
) -> onnxruntime.InferenceSession:
    """Opens one of the directory's graphs.

    Args:
        directory: a verified model directory.
        name: of the file.
        threads: CPU threads of a run.
        providers: in order of preference.
        arena: whether to keep memory between runs; for runs of similar size.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    # Spinning covers a step's short operators, without which a second thread gains little (univoc 896, two idle cores:
    # 136 us a step, 206 without spinning). The limit is for cores shared with another process, where every product
    # waits for the spinning thread (311 us beside a training, 617 with unlimited spinning).
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    return onnxruntime.InferenceSession(str(directory.file(name)), options, providers=list(providers))


def conditioner_providers() -> tuple[Provider, ...]:
    """The GPU if ``onnxruntime-gpu`` is installed, and the CPU.

    On the GPU, ONNX Runtime's defaults are changed: the conditioning must not depend on a search for the fastest cuDNN
    algorithm, nor be rounded to TF32.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        return CPU
    return (_CUDA, {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}), *CPU


def _compare(directory: ModelDirectory, shapes: dict[str, list[int | str]]) -> None:
    """Raises `ModelDirectoryError` if the sizes in the configuration and in the graphs differ."""
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
    """Number of threads for a model that reads ``weights`` weights per sample."""
    return max(1, min(usable_cores(), weights // _WEIGHTS_A_THREAD, _MOST_THREADS))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of CPU cores that this process may use, by its affinity and its container's quota.

    Args:
        cgroup: folder of the process's control group on Linux, as visible in a container.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPU quota of a control group (version 2 or 1), in cores; ``None`` if it has no quota."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text() for name in files).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or the word max
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
