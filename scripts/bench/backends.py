"""Opening a model with a backend that may not be there."""

from __future__ import annotations

from pathlib import Path

from wavernn_trt.export.model_directory import ModelDirectoryError
from wavernn_trt.runtime.executors.registry import ENGINES
from wavernn_trt.runtime.vocoder import Vocoder


class UnavailableError(Exception):
    """A backend that cannot be measured; the message is what the report says."""


def load_backend(path: Path, backend: str, threads: int | None, batch: int | None = None) -> Vocoder:
    """Opens a model.

    Args:
        path: its model directory.
        backend: as the command line calls it.
        threads: CPU threads of a lane; engines take none.
        batch: streams decoded together; ``None`` is what the backend takes.

    Raises:
        UnavailableError: an engine, or what it runs on, is not there.
        VocoderError: the model cannot be read.
    """
    try:
        return Vocoder.load(path, backend, threads=threads, batch=batch)
    except ValueError as error:
        if backend.replace("-", "_") not in ENGINES or isinstance(error, ModelDirectoryError):
            raise
        # The reason itself: the error around it says how to vocode without an engine.
        raise UnavailableError(f"not measured: {error.__cause__ or error}") from error
