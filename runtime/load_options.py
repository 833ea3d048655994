"""Options for loading a model: backend, sizes and precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.spec import Backend
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.runtime.errors import VocoderError

ENGINES: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
"""Backends that run TensorRT plans."""
ON_A_GPU = (*ENGINES, "cuda")
"""Backends that decode on a GPU."""
BACKENDS = ("auto", "onnxruntime", "torch", *ON_A_GPU)
"""Accepted names; ``auto`` is the first of `ON_A_GPU` that can run the model on this machine, else ``onnxruntime``."""


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model; `Vocoder.load` takes them as keyword arguments."""

    backend: str = "auto"
    """One of `BACKENDS`, also with hyphens as on the command line (``tensorrt-rtx``)."""
    batch: int | None = None
    """Streams decoded together, inside the range of an engine; ``None`` is the backend's default."""
    threads: int | None = None
    """CPU threads; ``None`` is the backend's default."""
    precision: WeightPrecision | None = None
    """Precision on a GPU; ``None`` is that of the engine used last, and for ``cuda`` the default of the GPU."""
    cache: Path | None = None
    """Folder of plans; ``None`` is the user's cache folder."""
    probe: bool = False
    """Whether loading a vocoder runs the model's probe, and fails if the probe fails."""

    def __post_init__(self) -> None:
        """Replaces hyphens in the backend's name, and checks the values.

        Raises:
            VocoderError: a value is invalid.
        """
        object.__setattr__(self, "backend", self.backend.replace("-", "_"))
        if self.backend not in BACKENDS:
            raise VocoderError(f"backend: found {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        check_count("threads", self.threads)
        check_count("batch", self.batch)
        if self.precision is None:
            return
        if self.precision not in WEIGHT_PRECISIONS:
            raise VocoderError(f"precision: found {self.precision!r}, expected one of {', '.join(WEIGHT_PRECISIONS)}")
        if self.backend in ("onnxruntime", "torch"):
            raise VocoderError(
                f"precision: found {self.precision!r} for {self.backend}, expected it for GPUs only; leave it out"
            )


def check_count(name: str, value: int | None) -> None:
    """Raises `VocoderError` unless the value is a positive integer or ``None``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise VocoderError(f"{name}: found {value!r}, expected a positive integer")


DEFAULT_OPTIONS = LoadOptions()
