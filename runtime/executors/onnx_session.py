"""ONNX Runtime's sessions over a model directory's graphs, and the conditioner that two executors have from it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from wavernn_trt.export.model_directory import CONDITIONER, ModelDirectory
from wavernn_trt.runtime.executors.protocol import FloatArray

Provider = str | tuple[str, Mapping[str, str]]
"""ONNX Runtime's name for where a session computes, with options."""

CPU: tuple[Provider, ...] = ("CPUExecutionProvider",)
_CUDA = "CUDAExecutionProvider"


def open_session(
    directory: ModelDirectory, name: str, threads: int, providers: Sequence[Provider] = CPU, *, arena: bool = True
) -> onnxruntime.InferenceSession:
    """Opens one of the directory's graphs.

    Args:
        directory: a verified model directory.
        name: of the file.
        threads: CPU threads of a run.
        providers: where it computes, the preferred first.
        arena: whether memory is kept for the next run; right where all runs need much the same.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    # Long enough to bridge a step's short operators, without which a second thread brings little (univoc 896, two
    # idle cores: 136 us a step, 206 without spinning); no longer, because where another process wants the core,
    # every product waits for whoever spins there (311 us beside a training, 617 with unlimited spinning).
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    return onnxruntime.InferenceSession(str(directory.file(name)), options, providers=list(providers))


def conditioner_providers() -> tuple[Provider, ...]:
    """The GPU where ``onnxruntime-gpu`` is installed, and the CPU.

    On the GPU a mel's conditioning must not depend on which of cuDNN's algorithms was the fastest this time, nor be
    rounded to TF32, of which ONNX Runtime's default is both.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        return CPU
    return (_CUDA, {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}), *CPU


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPU cores that this process may use: those it may run on, and no more than its container's quota.

    Args:
        cgroup: where Linux shows the control group of this process, as containers see it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores that a control group's CPU quota is worth; ``None`` where it has none (cgroup v2, then v1)."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text() for name in files).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or the word max
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


class OnnxConditioner:
    """Runs ``conditioner.onnx``; any number of threads at once."""

    def __init__(self, directory: ModelDirectory, threads: int, providers: Sequence[Provider] = CPU) -> None:
        """Opens its session; see `open_session`.

        A convolutional conditioner has one thread: MLAS (ONNX Runtime's matrix products) sums a convolution's channels
        in other parts where threads share its columns and few are left to each, so that bits would depend on the
        machine and on the mel's length. A frame takes 0.03 ms (fatchord's published size).

        There is no arena, which would keep the memory of the longest mel so far: 1.8 GiB instead of 2.8 at most, and
        1.0 instead of 2.8 afterwards, for an hour of the shipped voice's mel; runs take no longer.
        """
        threads = threads if directory.model.family == "univoc" else 1
        self._session = open_session(directory, CONDITIONER, threads, providers, arena=False)
        self.shapes: dict[str, list[int | str]] = {
            value.name: value.shape for value in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        """Of ``mel`` and ``conditioning``."""
        self.provider: str = self._session.get_providers()[0]
        """Where it computes: ONNX Runtime takes the CPU where a library of the GPU's does not load."""

    def __call__(self, mel: FloatArray) -> FloatArray:
        """Mel [n_mels, N] -> conditioning [N + 2 * margin, columns]."""
        (rows,) = self._session.run(["conditioning"], {"mel": np.ascontiguousarray(mel[None])})
        return rows[0]  # type: ignore[no-any-return]
