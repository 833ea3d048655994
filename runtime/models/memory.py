"""How much memory a model takes, and giving it back."""

from __future__ import annotations

import ctypes
import json
import sys
from functools import cache
from pathlib import Path

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import CHECKPOINT, CONDITIONER, CONFIG, WEIGHTS, open_model_directory
from wavernn_trt.export.quantization import Quantization, product_sizes
from wavernn_trt.export.typed_json import from_json
from wavernn_trt.plugins.precisions import WEIGHT_BYTES, WeightPrecision
from wavernn_trt.runtime.load_options import ON_A_GPU
from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH
from wavernn_trt.runtime.streaming.audio_stream import FRAME_SECONDS

# Of onnxruntime, whose sessions keep the most that a run ever took. Measured as growth of a process's resident memory:
# copies of held rows by the shipped voice with 1 to 16 streams, the others by fatchord of 512 units with 8.
_PACKED = 1.4
"""Memory of a session for each byte of weights: most are packed again, and some of the file stays mapped."""
_PACKED_LAYERS = 1.9
"""The same where the decoder has two recurrent layers."""
_COPIES = 4.9
"""How often the conditioning of all steps of a chunk lies in memory, where it is held over a frame."""
_COPIES_INTERPOLATED = 3.1
"""The same where it is interpolated."""
_ROWS_A_FRAME = 3.0
"""On a GPU: rows of conditioning in memory for each frame of the longest mel."""
_FRAMES = 1000
"""Frames of the longest mel; some 12 seconds."""


def estimated_bytes(
    directory: Path,
    backend: str = "onnxruntime",
    precision: WeightPrecision | None = None,
    streams: int = DEFAULT_BATCH,
) -> int:
    """Memory that a model takes once it is in use, without the conditioning of waiting utterances.

    The scheduler bounds that conditioning (``SchedulerLimits.conditioning_bytes``), and `ModelCache` adds the bound.

    For ``onnxruntime``: the weights, and what decoding takes besides, which is the greater part; the conditioner gives
    its memory back after each run. For an engine: the weights in its precision, as a plan of form ``sequence`` holds
    them, and the conditioning of a mel of 1000 frames, on the GPU; plans of form ``cell`` are up to 15 times as large.
    For ``cuda``: the same, of which the conditioner stays on the CPU, unless ``onnxruntime-gpu`` is installed. For
    ``torch``: the checkpoint.

    Of a quantised directory, ``onnxruntime`` holds products in int8 as such, and other backends as for any other.

    Args:
        directory: a model directory; only its ``config.json`` is read, and not verified.
        backend: an executor's name.
        precision: of what a GPU multiplies; ``None`` counts as ``fp32``.
        streams: decoded at the same time; slots that only interactive utterances take are not among them.

    Raises:
        ModelDirectoryError: it is not one.
    """
    model, audio, quantization = _sizes(directory)
    row = 4 * model.columns
    if backend == "torch":
        return _size(directory, CHECKPOINT)
    if backend in ON_A_GPU:
        share = WEIGHT_BYTES[precision or "fp32"] / WEIGHT_BYTES["fp32"]
        weights = _size(directory, WEIGHTS) if quantization is None else _decoder_bytes(model)
        return round(weights * share + _size(directory, CONDITIONER) + _ROWS_A_FRAME * _FRAMES * row)
    packed = _PACKED if model.layers == 1 else _PACKED_LAYERS
    copies = _COPIES_INTERPOLATED if model.interpolated else _COPIES
    decoding = copies * streams * round(audio.sample_rate * FRAME_SECONDS) * row
    weights = _size(directory, WEIGHTS) if quantization is None else _decoder_bytes(model, quantization)
    return round(packed * (weights + _size(directory, CONDITIONER)) + decoding)


def give_back_memory() -> None:
    """Makes glibc give freed memory back to the system; takes milliseconds, so not for a request's thread.

    It keeps what lies between pieces that are in use, which for a model's weights is some 40 % of them.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None


def _sizes(directory: Path) -> tuple[ModelConfig, AudioConfig, Quantization | None]:
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        model, audio = (
            from_json(ModelConfig, values["model"], "model"),
            from_json(AudioConfig, values["audio"], "audio"),
        )
        said = values.get("quantization")
        return model, audio, None if said is None else from_json(Quantization, said, "quantization")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        opened = open_model_directory(directory)  # says what is wrong
        return opened.model, opened.audio, opened.quantization


def _decoder_bytes(model: ModelConfig, quantization: Quantization | None = None) -> int:
    """Of a decoder's matrices in float32, but for products that ONNX Runtime multiplies as integers.

    A quantised directory's file does not tell: codes for TensorRT and values for ONNX Runtime stand side by side in it.
    """
    table = model.outputs * 3 * model.hidden_size if model.label_feedback else 0
    products = {} if quantization is None else quantization.products
    integers = {name for name, one in products.items() if one.grid == "int8" and not one.weights_only}
    return 4 * table + sum(size * (1 if name in integers else 4) for name, size in product_sizes(model).items())


def _size(directory: Path, *names: str) -> int:
    # What is missing is found, and reported, when the model is loaded.
    return sum(path.stat().st_size for path in map(directory.joinpath, names) if path.is_file())
