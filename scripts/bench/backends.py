"""Opening a model with a backend that may not be there, and what tells backends apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavernn_trt.export.model_directory import ModelDirectoryError
from wavernn_trt.export.operators import Precision
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.availability import NO_TORCH, UnavailableError, has_torch
from wavernn_trt.scripts.bench.names import ON_CPU
from wavernn_trt.scripts.bench.timings import Place


def load_backend(
    path: Path, backend: str, threads: int | None, batch: int | None = None, precision: Precision | None = None
) -> Vocoder:
    """Opens a model.

    Args:
        path: its model directory.
        backend: as the command line calls it.
        threads: CPU threads of a lane; of the conditioner for ``cuda``; engines take none.
        batch: streams decoded together; ``None`` is what the backend takes.
        precision: of backends on a GPU; the others have one.

    Raises:
        UnavailableError: the backend, or what it runs on, is not there.
        VocoderError: the model cannot be read.
    """
    if backend == "torch" and not has_torch():
        raise UnavailableError(NO_TORCH)
    try:
        wanted = precision if place_of(backend) == "gpu" else None
        return Vocoder.load(path, backend, threads=threads, batch=batch, precision=wanted)
    except ValueError as error:
        if place_of(backend) == "cpu" or isinstance(error, ModelDirectoryError):
            raise
        # The reason itself: the error around it says how to vocode without an engine.
        raise UnavailableError(f"not measured: {error.__cause__ or error}") from error


def place_of(backend: str) -> Place:
    """Where it computes."""
    return "cpu" if backend in ON_CPU else "gpu"


def precision_of(executor: Executor) -> str:
    """Of its matrix products' operands."""
    if executor.name == "torch":
        return "fp64"  # the reference computes in double precision
    told: Any = getattr(executor, "precision", "fp32")  # executors that leave it open tell which they have
    return str(told)
