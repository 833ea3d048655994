"""Backends by name. None is ever chosen silently in another's place."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Executor

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "onnxruntime", "torch")
"""What can be asked for; ``auto`` is ``onnxruntime``."""
PLANNED = ("tensorrt", "tensorrt_rtx", "cuda")
"""Known by name, and refused until they are there."""


@dataclass(frozen=True)
class OpenedModel:
    """An executor and what the rest of the runtime must know of its model."""

    path: Path
    model: ModelConfig
    audio: AudioConfig
    upsampling: NDArray[np.float32] | None
    executor: Executor


def open_model(path: Path, backend: str = "auto", threads: int | None = None, batch: int | None = None) -> OpenedModel:
    """Opens a model with a backend.

    Args:
        path: a model directory; ``torch`` also takes a checkpoint.
        backend: one of `BACKENDS`.
        threads: CPU threads; ``None`` leaves it to the backend.
        batch: streams of a chunk, for executors that fix it when they are made.

    Raises:
        VocoderError: unknown or missing backend, or a number that is not a positive integer.
        ValueError: the model cannot be read.
    """
    if backend in PLANNED:
        raise VocoderError(f"backend {backend!r} is not there yet; expected one of {', '.join(BACKENDS)}")
    if backend not in BACKENDS:
        raise VocoderError(f"backend: found {backend!r}, expected one of {', '.join(BACKENDS)}")
    check_count("threads", threads)
    check_count("batch", batch)
    return _open_torch(path, threads, batch) if backend == "torch" else _open_onnxruntime(path, threads)


def check_count(name: str, value: int | None) -> None:
    """Refuses a number of things that is neither a positive integer nor ``None``.

    Raises:
        VocoderError: it is not.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise VocoderError(f"{name}: found {value!r}, expected a positive integer")


def _open_onnxruntime(path: Path, threads: int | None) -> OpenedModel:
    _require("onnxruntime", "onnxruntime", "pip install onnxruntime")
    directory = open_model_directory(path)
    # Imported here, and torch likewise: whoever asks for one backend does not wait for the other.
    from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

    executor = OnnxRuntimeExecutor(directory, threads)
    return OpenedModel(path, directory.model, directory.audio, directory.upsampling, executor)


def _open_torch(path: Path, threads: int | None, batch: int | None) -> OpenedModel:
    _require("torch", "PyTorch", "pip install '.[export]' in a clone of the project")
    import torch

    from wavernn_trt.export.checkpoint import read_checkpoint
    from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = read_checkpoint(path)
    for line in checkpoint.assumed:
        logger.warning("%s: %s", path, line)
    model = checkpoint.model
    executor = TorchExecutor(model, slots=batch or 1)
    return OpenedModel(path, model.config, checkpoint.audio, model.upsampling, executor)


def _require(module: str, name: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise VocoderError(f"this backend needs {name}, which is not installed; install it with: {command}")
