"""Conversion of a trained checkpoint to a model directory: families, ONNX export, graph rewriting.

`read_checkpoint` and `export` need the extra ``export`` (torch, onnx, onnx-graphsurgeon). They are imported on first
use, because the runtime imports configurations from this package without that extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavernn_trt.export.checkpoints.checkpoint import Checkpoint, CheckpointError, read_checkpoint
    from wavernn_trt.export.exporter import ExportResult, export

__all__ = ["Checkpoint", "CheckpointError", "ExportResult", "export", "read_checkpoint"]

_HOMES = {
    "Checkpoint": "checkpoints.checkpoint",
    "CheckpointError": "checkpoints.checkpoint",
    "ExportResult": "exporter",
    "export": "exporter",
    "read_checkpoint": "checkpoints.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("wavernn_trt"):
            raise
        raise ModuleNotFoundError(
            f"{error}; reading checkpoints and exporting need an extra: "
            "pip install '.[export]' in a clone of the project",
            name=error.name,
        ) from error
    return getattr(module, name)
