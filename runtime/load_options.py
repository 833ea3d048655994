"""Options for loading a model: backend, sizes and precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.operators import NATIVE_PRECISIONS, NativePrecision
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.runtime.errors import VocoderError

ENGINES: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")
"""Backends that run TensorRT plans."""
ON_A_GPU = (*ENGINES, "cuda")
"""Backends that decode on a GPU."""
BACKENDS = ("auto", "native", "onnxruntime", "torch", *ON_A_GPU)
"""Accepted names; ``auto`` is the first of `ON_A_GPU` and ``native`` that can run the model on this machine, else
``onnxruntime``."""
LoadPrecision = WeightPrecision | NativePrecision
"""Precision of a decoder's weights."""


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a model; `Vocoder.load` takes them as keyword arguments."""

    backend: str = "auto"
    """One of `BACKENDS`, also with hyphens as on the command line (``tensorrt-rtx``)."""
    batch: int | None = None
    """Streams decoded together, inside the range of an engine; ``None`` is the backend's default."""
    threads: int | None = None
    """CPU threads; ``None`` is the backend's default."""
    precision: LoadPrecision | None = None
    """On a GPU: `WEIGHT_PRECISIONS`; ``None`` is that of the engine used last, and for ``cuda`` the default of the GPU.
    For ``native``: `NATIVE_PRECISIONS`; ``None`` is the default of the model directory."""
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
        if self.backend in ("onnxruntime", "torch"):
            raise VocoderError(
                f"precision: found {self.precision!r} for {self.backend}, which has no choice; leave it out, or use "
                "another backend"
            )
        accepted: dict[str, tuple[str, ...]] = {
            "native": NATIVE_PRECISIONS,
            "auto": tuple(dict.fromkeys((*WEIGHT_PRECISIONS, *NATIVE_PRECISIONS))),
        }
        expected = accepted.get(self.backend, WEIGHT_PRECISIONS)
        if self.precision not in expected:
            raise VocoderError(f"precision: found {self.precision!r}, expected one of {', '.join(expected)}")

    @property
    def gpu_precision(self) -> WeightPrecision | None:
        """The precision for a GPU.

        Raises:
            VocoderError: it is one of the native decoder's only.
        """
        if self.precision == "int8":
            raise VocoderError("precision: found 'int8', which only the backend native accepts")
        return self.precision


def check_count(name: str, value: int | None) -> None:
    """Raises `VocoderError` unless the value is a positive integer or ``None``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise VocoderError(f"{name}: found {value!r}, expected a positive integer")


DEFAULT_OPTIONS = LoadOptions()
