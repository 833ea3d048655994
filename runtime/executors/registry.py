"""Opens executors by the name of the backend. No backend is replaced by another silently."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.operators import NATIVE_PRECISIONS, NativePrecision
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import NoMachineError
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.load_options import ENGINES, LoadOptions

if TYPE_CHECKING:
    from wavernn_trt.export.checkpoints.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Opened = tuple[Executor, str | None]
"""An executor, and the name of its plan or kernel, if it has one."""
_NOT_OPENED = (ValueError, RuntimeError, OSError, ImportError)
"""Errors of a backend on a GPU: of this project, its packages, TensorRT, plugins and the driver."""


def open_executor(directory: ModelDirectory, options: LoadOptions) -> Opened:
    """Opens a verified model directory with a backend other than ``torch``.

    Raises:
        VocoderError: the backend is missing, or an option is invalid.
        ValueError: the model or the cache of plans cannot be read.
    """
    if options.backend == "onnxruntime":
        return _open_onnxruntime(directory, options)
    if options.backend == "native":
        return _open_native(directory, options), None
    openers: dict[str, Callable[[], Opened]] = {
        name: partial(_open_engine, directory, name, options) for name in ENGINES
    }
    openers["cuda"] = partial(_open_cuda, directory, options)
    if options.backend in openers:
        try:
            return openers[options.backend]()
        except _NOT_OPENED as error:
            model = shlex.quote(str(directory.path))
            raise VocoderError(
                f"backend {options.backend}: {error}. To use the CPU instead: wavernn-trt vocode INPUT -o OUTPUT "
                f"--model {model} --backend onnxruntime"
            ) from error
    # Only the native decoder has int8 as an option; engines have it where the directory is quantised.
    if options.precision != "int8" and (opened := _open_first(openers)) is not None:
        return opened
    return _open_on_cpu(directory, options)


def _open_first(openers: Mapping[str, Callable[[], Opened]]) -> Opened | None:
    """The first backend on a GPU that can be opened, or ``None``; logs the result and the reasons."""
    for backend, opener in openers.items():
        try:
            opened = opener()
        except NoMachineError as error:
            logger.debug("backend auto: not %s: %s", backend, error)
        except _NOT_OPENED as error:
            # A warning, because users with a GPU and all packages expect it to be used.
            logger.warning("backend auto: not %s: %s", backend, error)
        else:
            kind = "engine" if backend in ENGINES else "kernel"
            logger.info("backend auto: %s with the %s %s", backend, kind, opened[1])
            return opened
    return None


def _open_on_cpu(directory: ModelDirectory, options: LoadOptions) -> Opened:
    """The native decoder if this machine has a fast one that can run the model, else ONNX Runtime; logs the reason."""
    from wavernn_trt.runtime.executors.native_executor import why_slow

    if options.precision in (None, *NATIVE_PRECISIONS):
        if (reason := why_slow()) is not None:
            logger.warning("backend auto: onnxruntime, which is slower: %s", reason)
        else:
            try:
                return _open_native(directory, options), None
            except VocoderError as error:
                logger.info("backend auto: not native: %s", error)
    if options.precision is not None:
        logger.warning("backend auto: onnxruntime, which computes in fp32 and not in %s", options.precision)
    return _open_onnxruntime(directory, options)


# A backend's module is imported when it is opened, because it loads libraries that are optional or slow.
def _open_engine(directory: ModelDirectory, backend: Backend, options: LoadOptions) -> Opened:
    from wavernn_trt.runtime.executors.tensorrt_executor import open_tensorrt

    if options.gpu_precision == "fp8":
        raise VocoderError(
            "precision: found 'fp8', which only the backend cuda accepts; an engine of a directory that is quantised "
            "to fp8 uses fp8 without this option"
        )
    return open_tensorrt(directory, backend, options)


def _open_cuda(directory: ModelDirectory, options: LoadOptions) -> Opened:
    from wavernn_trt.runtime.executors.cuda_executor import open_cuda

    return open_cuda(directory, options)


def _open_native(directory: ModelDirectory, options: LoadOptions) -> Executor:
    from wavernn_trt.runtime.executors.native_executor import open_native

    return open_native(directory, cast(NativePrecision | None, options.precision), options.threads)


def _open_onnxruntime(directory: ModelDirectory, options: LoadOptions) -> Opened:
    _require("onnxruntime", "onnxruntime", "pip install onnxruntime")
    from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor

    return OnnxRuntimeExecutor(directory, options.threads), None


def open_torch(path: Path, options: LoadOptions) -> tuple[Checkpoint, Executor]:
    """Opens a checkpoint, or a model directory's checkpoint, with the reference backend.

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
