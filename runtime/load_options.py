"""Options of loading a model: backend, sizes and precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.spec import Backend
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.runtime.errors import VocoderError

ENGINES: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
"""Backends that run plans on a GPU."""
ON_A_GPU = (*ENGINES, "cuda")
"""Backends that decode on a GPU: engines, and the sequence kernel without TensorRT."""
BACKENDS = ("auto", "onnxruntime", "torch", *ON_A_GPU)
"""Accepted names; ``auto`` is the first of `ON_A_GPU` that can run the model here, else ``onnxruntime``."""


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; `Vocoder.load` takes the same as keyword arguments."""

    backend: str = "auto"
    """One of `BACKENDS`, as Python writes it or as the command line does (``tensorrt-rtx``)."""
    batch: int | None = None
    """Streams decoded together; an engine must hold them. ``None`` leaves it to the backend."""
    threads: int | None = None
    """CPU threads; ``None`` leaves it to the backend."""
    precision: WeightPrecision | None = None
    """Of products on a GPU; ``None`` is that of the engine used last, and for ``cuda`` what suits the GPU."""
    cache: Path | None = None
    """The folder of plans; ``None`` is the user's own."""
    probe: bool = False
    """Whether the vocoder decodes the model's probe before it is handed out, and refuses a model that fails it."""

    def __post_init__(self) -> None:
        """Writes the backend as Python does.

        Raises:
            VocoderError: an unknown backend or precision, or a number that is not usable.
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
    """Refuses a count that is neither a positive integer nor ``None``.

    Raises:
        VocoderError: it is not.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise VocoderError(f"{name}: found {value!r}, expected a positive integer")


DEFAULT_OPTIONS = LoadOptions()
