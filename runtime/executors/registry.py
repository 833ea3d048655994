"""Backends by name. None is ever chosen silently in another's place."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.engine_wish import EngineWish
from wavernn_trt.runtime.executors.protocol import Executor

logger = logging.getLogger(__name__)

ENGINES: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
"""Backends that run plans on a GPU."""
ON_A_GPU = (*ENGINES, "cuda")
"""All that decode on a GPU: engines, and the sequence kernel without TensorRT."""
BACKENDS = ("auto", "onnxruntime", "torch", *ON_A_GPU)
"""What can be asked for; ``auto`` is the first of `ON_A_GPU` that can run the model here, else ``onnxruntime``."""


_NOT_OPENED = (ValueError, RuntimeError, OSError)
"""What a backend on a GPU fails with: this project's own errors, and those of TensorRT, its plugins and the driver."""


@dataclass(frozen=True)
class OpenedModel:
    """An executor and what the rest of the runtime must know of its model."""

    path: Path
    model: ModelConfig
    audio: AudioConfig
    upsampling: NDArray[np.float32] | None
    executor: Executor
    engine: str | None = None
    """The name of the decoder's plan, where the executor runs one, or of the kernel that does a plan's work."""


def open_model(
    path: Path,
    backend: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    *,
    precision: WeightPrecision | None = None,
    cache: Path | None = None,
) -> OpenedModel:
    """Opens a model with a backend.

    Args:
        path: a model directory; ``torch`` also takes a checkpoint.
        backend: one of `BACKENDS`, as the command line writes it (``tensorrt-rtx``) or as Python does.
        threads: CPU threads; ``None`` leaves it to the backend.
        batch: streams of a chunk, for executors that fix it when they are made, and for engines, which must hold it.
        precision: of what a GPU multiplies; ``None`` is that of the engine that was used last, and for ``cuda`` what
            suits the GPU.
        cache: the folder of plans; ``None`` is the user's own.

    Raises:
        VocoderError: unknown or missing backend, or an option that is not usable.
        ValueError: the model or the cache cannot be read.
    """
    backend = backend.replace("-", "_")
    if backend not in BACKENDS:
        raise VocoderError(f"backend: found {backend!r}, expected one of {', '.join(BACKENDS)}")
    check_count("threads", threads)
    check_count("batch", batch)
    if precision is not None and precision not in WEIGHT_PRECISIONS:
        raise VocoderError(f"precision: found {precision!r}, expected one of {', '.join(WEIGHT_PRECISIONS)}")
    if precision is not None and backend in ("onnxruntime", "torch"):
        raise VocoderError(f"precision: found {precision!r} for {backend}, expected it for GPUs only; leave it out")
    if backend == "torch":
        return _open_torch(path, threads, batch)
    directory = open_model_directory(path)
    if backend == "onnxruntime":
        return _open_onnxruntime(directory, threads)
    openers: dict[str, Callable[[], OpenedModel]] = {
        name: partial(_open_engine, directory, name, precision, batch, cache) for name in ENGINES
    }
    openers["cuda"] = partial(_open_cuda, directory, precision, batch, threads)
    if backend in openers:
        return _open_named(directory, backend, openers[backend])
    if (opened := _open_first(openers)) is not None:
        return opened
    if precision is not None:
        logger.warning("backend auto: onnxruntime, which computes in fp32 and not in %s", precision)
    return _open_onnxruntime(directory, threads)


def check_count(name: str, value: int | None) -> None:
    """Refuses a number of things that is neither a positive integer nor ``None``.

    Raises:
        VocoderError: it is not.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise VocoderError(f"{name}: found {value!r}, expected a positive integer")


def _open_named(directory: ModelDirectory, backend: str, opener: Callable[[], OpenedModel]) -> OpenedModel:
    try:
        return opener()
    except _NOT_OPENED as error:
        model = shlex.quote(str(directory.path))
        raise VocoderError(
            f"backend {backend}: {error}. To speak on the CPU instead: wavernn-trt vocode INPUT -o OUTPUT --model "
            f"{model} --backend onnxruntime"
        ) from error


def _open_first(openers: Mapping[str, Callable[[], OpenedModel]]) -> OpenedModel | None:
    """The first backend on a GPU that can be opened, or ``None``; says which, or why not."""
    from wavernn_trt.runtime.executors.plan_choice import NoMachineError

    for backend, opener in openers.items():
        try:
            opened = opener()
        except NoMachineError as error:
            logger.debug("backend auto: not %s: %s", backend, error)
        except _NOT_OPENED as error:
            # Who has a GPU and every package expects them to be used.
            logger.warning("backend auto: not %s: %s", backend, error)
        else:
            logger.info("backend auto: %s with the %s %s", backend, _kind(backend), opened.engine)
            return opened
    logger.debug("backend auto: onnxruntime")
    return None


def _kind(backend: str) -> str:
    return "engine" if backend in ENGINES else "kernel"


def _open_engine(
    directory: ModelDirectory,
    backend: Backend,
    precision: WeightPrecision | None,
    batch: int | None,
    cache: Path | None,
) -> OpenedModel:
    from wavernn_trt.runtime.executors.tensorrt_executor import open_tensorrt

    if precision == "fp8":
        raise VocoderError(
            "precision: found 'fp8', which only the backend cuda has; engines of a directory that is quantised to fp8 "
            "multiply in it (leave precision out)"
        )
    executor, engine = open_tensorrt(directory, EngineWish(backend, precision, batch, cache))
    return _opened(directory, executor, engine)


def _open_cuda(
    directory: ModelDirectory, precision: WeightPrecision | None, batch: int | None, threads: int | None
) -> OpenedModel:
    from wavernn_trt.runtime.executors.cuda_executor import CudaWish, open_cuda

    executor, kernel = open_cuda(directory, CudaWish(precision, batch, threads=threads))
    return _opened(directory, executor, kernel)


def _open_onnxruntime(directory: ModelDirectory, threads: int | None) -> OpenedModel:
    _require("onnxruntime", "onnxruntime", "pip install onnxruntime")
    # Imported here, and the others likewise: whoever asks for one backend does not wait for another.
    from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

    return _opened(directory, OnnxRuntimeExecutor(directory, threads))


def _opened(directory: ModelDirectory, executor: Executor, engine: str | None = None) -> OpenedModel:
    return OpenedModel(directory.path, directory.model, directory.audio, directory.upsampling, executor, engine)


def _open_torch(path: Path, threads: int | None, batch: int | None) -> OpenedModel:
    _require("torch", "PyTorch", "pip install '.[export]' in a clone of the project")
    import torch

    from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint
    from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = read_checkpoint(path)
    for line in (*checkpoint.assumed, *checkpoint.notes):
        logger.warning("%s: %s", path, line)
    model = checkpoint.model
    executor = TorchExecutor(model, slots=batch or 1, quantization=checkpoint.quantization)
    return OpenedModel(path, model.config, checkpoint.audio, model.upsampling, executor)


def _require(module: str, name: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise VocoderError(f"this backend needs {name}, which is not installed; install it with: {command}")
