"""Opens backends by name. None takes another's place silently."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import NoMachineError
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.load_options import ENGINES, LoadOptions

if TYPE_CHECKING:
    from wavernn_trt.export.checkpoints.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Opened = tuple[Executor, str | None]
"""An executor; and the name of its plan or kernel, where there is one."""
_NOT_OPENED = (ValueError, RuntimeError, OSError)
"""What a backend on a GPU fails with: this project's own errors, and those of TensorRT, its plugins and the driver."""


def open_executor(directory: ModelDirectory, options: LoadOptions) -> tuple[Executor, str | None]:
    """Opens a model directory with a backend other than ``torch``.

    Args:
        directory: a verified model directory.
        options: the backend, and what it is opened with.

    Returns:
        The executor; and the name of its decoder's plan, or of the kernel that does a plan's work, where there is one.

    Raises:
        VocoderError: a missing backend, or an option that is not usable.
        ValueError: the model or the cache cannot be read.
    """
    if options.backend == "onnxruntime":
        return _open_onnxruntime(directory, options)
    openers: dict[str, Callable[[], Opened]] = {
        name: partial(_open_engine, directory, name, options) for name in ENGINES
    }
    openers["cuda"] = partial(_open_cuda, directory, options)
    if options.backend in openers:
        return _open_named(directory, options.backend, openers[options.backend])
    if (opened := _open_first(openers)) is not None:
        return opened
    if options.precision is not None:
        logger.warning("backend auto: onnxruntime, which computes in fp32 and not in %s", options.precision)
    return _open_onnxruntime(directory, options)


def _open_named(directory: ModelDirectory, backend: str, opener: Callable[[], Opened]) -> Opened:
    try:
        return opener()
    except _NOT_OPENED as error:
        model = shlex.quote(str(directory.path))
        raise VocoderError(
            f"backend {backend}: {error}. To speak on the CPU instead: wavernn-trt vocode INPUT -o OUTPUT --model "
            f"{model} --backend onnxruntime"
        ) from error


def _open_first(openers: Mapping[str, Callable[[], Opened]]) -> Opened | None:
    """The first backend on a GPU that can be opened, or ``None``; logs which, or why not."""
    for backend, opener in openers.items():
        try:
            opened = opener()
        except NoMachineError as error:
            logger.debug("backend auto: not %s: %s", backend, error)
        except _NOT_OPENED as error:
            # With a GPU and every package there, users expect them to be used.
            logger.warning("backend auto: not %s: %s", backend, error)
        else:
            logger.info("backend auto: %s with the %s %s", backend, _kind(backend), opened[1])
            return opened
    logger.debug("backend auto: onnxruntime")
    return None


def _kind(backend: str) -> str:
    return "engine" if backend in ENGINES else "kernel"


# A backend is imported when it is opened: each loads libraries of its own, optional ones or slow ones.
def _open_engine(directory: ModelDirectory, backend: Backend, options: LoadOptions) -> Opened:
    from wavernn_trt.runtime.executors.tensorrt_executor import open_tensorrt

    if options.precision == "fp8":
        raise VocoderError(
            "precision: found 'fp8', which only the backend cuda has; engines of a directory that is quantised to fp8 "
            "multiply in it (leave precision out)"
        )
    return open_tensorrt(directory, backend, options)


def _open_cuda(directory: ModelDirectory, options: LoadOptions) -> Opened:
    from wavernn_trt.runtime.executors.cuda_executor import open_cuda

    return open_cuda(directory, options)


def _open_onnxruntime(directory: ModelDirectory, options: LoadOptions) -> Opened:
    _require("onnxruntime", "onnxruntime", "pip install onnxruntime")
    from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

    return OnnxRuntimeExecutor(directory, options.threads), None


def open_torch(path: Path, options: LoadOptions) -> tuple[Checkpoint, Executor]:
    """Opens a checkpoint, or that in a model directory, with the reference backend.

    Raises:
        VocoderError: PyTorch is missing.
        ValueError: the checkpoint cannot be read.
    """
    _require("torch", "PyTorch", "pip install '.[export]' in a clone of the project")
    import torch

    from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint
    from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint = read_checkpoint(path)
    for line in (*checkpoint.assumed, *checkpoint.notes):
        logger.warning("%s: %s", path, line)
    return checkpoint, TorchExecutor(checkpoint.model, options.batch or 1, checkpoint.quantization)


def _require(module: str, name: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise VocoderError(f"this backend needs {name}, which is not installed; install it with: {command}")
