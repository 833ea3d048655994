"""Backends by name: opens a model with a backend that may be unavailable, on the CPU or a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any, Literal

from wavernn_trt.export.model_directory import ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import NATIVE_PRECISIONS, NativePrecision, Precision
from wavernn_trt.runtime import load_options
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

Place = Literal["cpu", "gpu"]
"""Where a subject computes; its speed is compared with the limit of that place."""

NATIVE = "native"
"""The native decoder in the model directory's default precision."""
NATIVE_PRECISION: dict[str, NativePrecision] = {f"{NATIVE}-{name}": name for name in NATIVE_PRECISIONS}
"""Subjects of the native decoder in another precision, so that one run compares several."""
BACKENDS = (*(name.replace("_", "-") for name in load_options.BACKENDS if name != "auto"), *NATIVE_PRECISION)
"""Names on the command line."""
ON_A_GPU = tuple(name.replace("_", "-") for name in load_options.ON_A_GPU)
NO_TORCH = "not measured: torch is not installed"


class UnavailableError(Exception):
    """A backend or peer that cannot be measured; the message is the reason in the report."""


class InapplicableError(UnavailableError):
    """A peer that cannot be measured with this model or machine, whatever is installed."""


def has_torch() -> bool:
    """Whether the backend torch and the peers can run."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))


def require_cuda_torch() -> Any:
    """Imports torch.

    Raises:
        UnavailableError: it is not installed, or finds no GPU.
    """
    if not has_torch():
        raise UnavailableError(NO_TORCH)
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError(f"not measured: torch {torch.__version__} finds no GPU (is it a build for the CPU?)")
    return torch


def load_backend(
    path: Path, backend: str, threads: int | None, batch: int | None = None, precision: Precision | None = None
) -> Vocoder:
    """Opens a model.

    Args:
        path: the model directory.
        backend: one of `BACKENDS`.
        threads: CPU threads of a lane; for ``cuda`` of the conditioner; ignored by engines.
        batch: streams decoded together; ``None`` is the backend's default.
        precision: of backends on a GPU; ignored by the others.

    Raises:
        UnavailableError: the backend or its hardware is missing, or it cannot decode the model in this precision.
        VocoderError: the model cannot be read.
    """
    if backend == "torch" and not has_torch():
        raise UnavailableError(NO_TORCH)
    on_gpu, native = place_of(backend) == "gpu", is_native(backend)
    chosen = NATIVE_PRECISION.get(backend, precision if on_gpu else None)
    try:
        return Vocoder.load(path, NATIVE if native else backend, threads=threads, batch=batch, precision=chosen)
    except ValueError as error:
        if not (on_gpu or native) or isinstance(error, ModelDirectoryError):
            raise
        if native:
            raise UnavailableError(f"not measured: {error}") from error
        # Only the cause: the outer error recommends another backend of vocode.
        raise UnavailableError(f"not measured: {error.__cause__ or error}") from error


def another_vocoder(
    vocoder: Vocoder, batch: int | None, *, lanes: int | None = None, executor: Executor | None = None
) -> Vocoder:
    """Returns a second vocoder of a loaded model, with its own scheduler and, if given, another executor."""
    loaded = dataclasses.replace(vocoder.loaded, executor=executor or vocoder.executor)
    return Vocoder(loaded, batch, SchedulerLimits(lanes=lanes))


def is_native(backend: str) -> bool:
    """Whether a subject is the native decoder."""
    return backend == NATIVE or backend in NATIVE_PRECISION


def place_of(backend: str) -> Place:
    """The place where a backend computes."""
    return "gpu" if backend in ON_A_GPU else "cpu"


def precision_of(executor: Executor) -> str:
    """The precision of an executor's weights."""
    if executor.name == "torch":
        return "fp64"  # the reference computes in double precision
    return str(getattr(executor, "precision", "fp32"))


def describe_model(config: ModelDirectory | LoadedModel) -> dict[str, Any]:
    """A model's name and sizes for a report, without its path."""
    return {
        "name": config.path.resolve().name,
        "family": config.model.family,
        "hidden_size": config.model.hidden_size,
        "layers": config.model.layers,
        "fc_sizes": list(config.model.fc_sizes),
        "outputs": config.model.outputs,
        "sample_rate": config.audio.sample_rate,
        "multiply_adds": config.model.multiply_adds,
    }
