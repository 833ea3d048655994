"""WaveRNN vocoding on TensorRT and CPUs: mel spectrograms or text in, waveforms out.

This file is ``wavernn_trt/__init__.py`` once installed (see package_dir in setup.cfg). It loads nothing heavy: names
are looked up on first use, and no import of it brings torch, TensorRT or CUDA.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavernn_trt import export
    from wavernn_trt.runtime.async_vocoder import AsyncVocoder
    from wavernn_trt.runtime.models.cache import ModelCache
    from wavernn_trt.runtime.request import Request
    from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
    from wavernn_trt.runtime.speech.speaker import Controls, Speaker
    from wavernn_trt.runtime.vocoder import Vocoder, load

__version__ = "0.1.0"
__all__ = [
    "AsyncVocoder",
    "Controls",
    "ModelCache",
    "Request",
    "SchedulerLimits",
    "Speaker",
    "Vocoder",
    "__version__",
    "export",
    "load",
]
_HOMES = {
    "AsyncVocoder": "wavernn_trt.runtime.async_vocoder",
    "Controls": "wavernn_trt.runtime.speech.speaker",
    "ModelCache": "wavernn_trt.runtime.models.cache",
    "Request": "wavernn_trt.runtime.request",
    "SchedulerLimits": "wavernn_trt.runtime.scheduling.limits",
    "Speaker": "wavernn_trt.runtime.speech.speaker",
    "Vocoder": "wavernn_trt.runtime.vocoder",
    "load": "wavernn_trt.runtime.vocoder",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use: every import of wavernn_trt.anything runs this file first.
    if name == "export":
        return import_module("wavernn_trt.export")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
