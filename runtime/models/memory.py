"""Estimates of the memory of models, and the return of freed memory to the system."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import CHECKPOINT, CONDITIONER, CONFIG, WEIGHTS, open_model_directory
from wavernn_trt.export.operators import NATIVE_PRECISIONS, NativePrecision
from wavernn_trt.export.quantization import Quantization, product_sizes
from wavernn_trt.export.typed_json import from_json
from wavernn_trt.runtime.load_options import ON_A_GPU, LoadPrecision
from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH
from wavernn_trt.runtime.streaming.audio_stream import FRAME_SECONDS

# For onnxruntime, whose sessions keep the maximum that a run needed. Measured as growth of a process's resident memory:
# held conditioning with the shipped voice and 1 to 16 streams, the others with fatchord, 512 units and 8 streams.
_PACKED = 1.4
"""Bytes of a session for each byte of weights: most are stored again in packed form, and part of the file is mapped."""
_PACKED_LAYERS = 1.9
"""The same for a decoder with two recurrent layers."""
_COPIES = 4.9
"""Copies of the conditioning of all steps of a chunk, if it is held over a frame."""
_COPIES_INTERPOLATED = 3.1
"""The same if it is interpolated."""
_ROWS_A_FRAME = 3.0
"""On a GPU: rows of conditioning in memory for each frame of the longest mel."""
_BYTES: Mapping[LoadPrecision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Bytes of a weight."""
_FRAMES = 1000
"""Frames of the longest mel; about 12 seconds."""


def estimated_bytes(
    directory: Path,
    backend: str = "onnxruntime",
    precision: LoadPrecision | None = None,
    streams: int = DEFAULT_BATCH,
) -> int:
    """Estimated bytes of a model in use, without the conditioning of waiting utterances.

    The scheduler limits that conditioning (``SchedulerLimits.conditioning_bytes``), and `ModelCache` adds the limit.

    - ``onnxruntime``: the weights, and the larger part: buffers of decoding. The conditioner keeps no memory after a
      run. Of a quantised directory, products in int8 take one byte a weight.
    - Engines: on the GPU, the weights in the plan's precision and the conditioning of a mel of 1000 frames. This holds
      for plans of form ``sequence``; those of form ``cell`` are up to 15 times as large.
    - ``cuda``: the same; the conditioner is on the CPU unless ``onnxruntime-gpu`` is installed.
    - ``native``: the weights in their precision, and the conditioner.
    - ``torch``: the checkpoint.

    Args:
        directory: a model directory; only its ``config.json`` is read, without verification.
        backend: name of an executor.
        precision: of products; ``None`` counts as ``fp32``, for ``native`` as the directory's default.
        streams: decoded together, without the slots reserved for interactive utterances.

    Raises:
        ModelDirectoryError: it is not a model directory.
    """
    model, audio, quantization, default = _sizes(directory)
    row = 4 * model.columns
    if backend == "torch":
        return _size(directory, CHECKPOINT)
    if backend in ON_A_GPU:
        share = _BYTES[precision or "fp32"] / _BYTES["fp32"]
        weights = _size(directory, WEIGHTS) if quantization is None else _decoder_bytes(model)
        return round(weights * share + _size(directory, CONDITIONER) + _ROWS_A_FRAME * _FRAMES * row)
    if backend == "native":
        share = _BYTES[precision or default or "fp32"] / _BYTES["fp32"]
        return round(_decoder_bytes(model, quantization, share) + _PACKED * _size(directory, CONDITIONER))
    packed = _PACKED if model.layers == 1 else _PACKED_LAYERS
    copies = _COPIES_INTERPOLATED if model.interpolated else _COPIES
    decoding = copies * streams * round(audio.sample_rate * FRAME_SECONDS) * row
    weights = _size(directory, WEIGHTS) if quantization is None else _decoder_bytes(model, quantization)
    return round(packed * (weights + _size(directory, CONDITIONER)) + decoding)


def give_back_memory() -> None:
    """Returns freed memory to the system (glibc's ``malloc_trim``). Takes milliseconds: not for a request's thread.

    Fragmentation keeps some of it: about 40 % of a model's weights.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _sizes(directory: Path) -> tuple[ModelConfig, AudioConfig, Quantization | None, NativePrecision | None]:
    try:
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        model = from_json(ModelConfig, values["model"], "model")
        audio = from_json(AudioConfig, values["audio"], "audio")
        found = values.get("quantization")
        quantization = None if found is None else from_json(Quantization, found, "quantization")
        if (precision := values.get("cpu_precision")) not in (None, *NATIVE_PRECISIONS):
            raise ValueError(precision)
        return model, audio, quantization, precision
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        opened = open_model_directory(directory)  # raises the error
        return opened.model, opened.audio, opened.quantization, opened.cpu_precision


def _decoder_bytes(model: ModelConfig, quantization: Quantization | None = None, share: float = 1.0) -> int:
    """Bytes of a decoder's matrices: int8 products on the CPU, and the others in a share of float32.

    The file of weights of a quantised directory contains both the codes for TensorRT and values for ONNX Runtime.
    """
    table = model.outputs * 3 * model.hidden_size if model.label_feedback else 0
    products = {} if quantization is None else quantization.products
    integers = {name for name, product in products.items() if product.grid == "int8" and not product.weights_only}
    sizes = product_sizes(model).items()
    return 4 * table + round(sum(size * (1 if name in integers else 4 * share) for name, size in sizes))


def _size(directory: Path, *names: str) -> int:
    # Missing files are reported when the model is loaded.
    return sum(path.stat().st_size for path in map(directory.joinpath, names) if path.is_file())
