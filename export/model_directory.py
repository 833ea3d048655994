"""The model directory: the files that export writes, and their verification.

=====================  ==========================================================================================
``config.json``        schema version, model sizes, audio settings, decoder shapes, origin, and for a quantised model
                       the grid of each rounded product
``conditioner.onnx``   mel [B, n_mels, N] -> conditioning [B, N + 2 * margin, columns], hoisted products included
``conditioner_blocks.onnx``  only for recurrent conditioners: the same over a block of a mel, with recurrent states as
                       inputs and outputs; directories of earlier versions have none
``decoder.onnx``       ``steps`` steps of the decoder, unrolled, every shape static: what TensorRT builds from
``decoder_loop.onnx``  the same step in a loop, any batch and any number of steps: what ONNX Runtime runs
``teacher_forced.onnx``  the same step fed with given samples, yielding logits: what scoring runs
``decoder.weights``    the decoder's weights, once, as external data of the three files above
``sequence.npz``       where they are for the kernels of ``plugins/``, which read them without ONNX; absent in
                       directories of earlier versions, and for decoders that those kernels do not compute
``upsampling.npy``     only for ``kernel`` groups: float32 [hop_length, 2 * margin + 1]
``checkpoint.safetensors``  the trained weights under their own names, for the torch reference and for another export
``probe.npz``          a short mel and the trained model's output for it, to check a loaded model; absent in
                       directories of earlier versions
``manifest.json``      SHA-256 and size of every other file
=====================  ==========================================================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import SCHEMA_VERSION, AudioConfig, ConfigError, ModelConfig, require
from wavernn_trt.export.operators import NATIVE_PRECISIONS, NativePrecision
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.export.typed_json import from_json

CONFIG = "config.json"
CONDITIONER = "conditioner.onnx"
CONDITIONER_BLOCKS = "conditioner_blocks.onnx"
DECODER = "decoder.onnx"
DECODER_LOOP = "decoder_loop.onnx"
TEACHER_FORCED = "teacher_forced.onnx"
WEIGHTS = "decoder.weights"
SEQUENCE = "sequence.npz"
UPSAMPLING = "upsampling.npy"
CHECKPOINT = "checkpoint.safetensors"
PROBE = "probe.npz"
MANIFEST = "manifest.json"
_REQUIRED = (CONFIG, CONDITIONER, DECODER, DECODER_LOOP, TEACHER_FORCED, WEIGHTS)


class ModelDirectoryError(ValueError):
    """A model directory is missing, incomplete, damaged or of another version."""


@dataclass(frozen=True)
class DecoderShape:
    """The static sizes of ``decoder.onnx``."""

    steps: int
    """Steps (samples) of a chunk, T."""
    batch: int
    """Streams, B."""
    window: int
    """Rows of conditioning that a chunk may read, W."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            require(getattr(self, field.name) >= 1, f"decoder.{field.name}", getattr(self, field.name), "at least 1")


@dataclass(frozen=True)
class ModelDirectory:
    """A verified model directory."""

    path: Path
    model: ModelConfig
    audio: AudioConfig
    decoder: DecoderShape
    source: dict[str, Any]
    """Origin of the model: checkpoint name and SHA-256, exporter version."""
    upsampling: NDArray[np.float32] | None
    """float32 [hop_length, 2 * margin + 1] where a group is expanded by ``kernel``."""
    quantization: Quantization | None = None
    """Grids of the decoder's rounded products; ``None`` where none is rounded."""
    cpu_precision: NativePrecision | None = None
    """Default precision of the weights in the native decoder; ``None`` is fp32, as trained."""

    def file(self, name: str) -> Path:
        """Returns the path of one of the directory's files."""
        return self.path / name


def window_rows(model: ModelConfig, audio: AudioConfig, steps: int) -> int:
    """Returns the rows of conditioning that ``steps`` steps may read, wherever in a frame they begin."""
    frames = (audio.hop_length - 1 + steps - 1) // audio.hop_length + 1
    return frames + 2 * model.margin


def write_config(
    path: Path,
    model: ModelConfig,
    audio: AudioConfig,
    decoder: DecoderShape,
    source: dict[str, Any],
    quantization: Quantization | None = None,
    cpu_precision: NativePrecision | None = None,
) -> None:
    """Writes ``config.json`` into a directory under construction."""
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": dataclasses.asdict(model),
        "audio": dataclasses.asdict(audio),
        "decoder": dataclasses.asdict(decoder),
        "source": source,
    }
    if quantization is not None:
        values["quantization"] = dataclasses.asdict(quantization)
    if cpu_precision is not None:
        values["cpu_precision"] = cpu_precision
    (path / CONFIG).write_text(json.dumps(values, indent=1) + "\n")


def write_manifest(path: Path) -> None:
    """Writes ``manifest.json``: name, SHA-256 and size of every file in the directory."""
    files = {
        file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        for file in sorted(path.iterdir())
        if file.name != MANIFEST
    }
    (path / MANIFEST).write_text(json.dumps({"schema_version": SCHEMA_VERSION, "files": files}, indent=1) + "\n")


def file_sha256(*paths: Path) -> str:
    """Returns the SHA-256 of a file, or of several one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def open_model_directory(path: str | Path) -> ModelDirectory:
    """Reads and verifies a model directory; every file's hash is checked before anything uses it.

    Raises:
        ModelDirectoryError: the file, its fault, and the way out.
    """
    path = Path(path)
    if not path.is_dir():
        kind = "a file" if path.exists() else "not there"
        raise ModelDirectoryError(
            f"{path} is {kind}; expected a model directory. Make one with: wavernn-trt export CHECKPOINT -o DIR"
        )
    _verify(path)
    values = _read_config(path)
    try:
        model = from_json(ModelConfig, values.get("model"), "model")
        audio = from_json(AudioConfig, values.get("audio"), "audio")
        decoder = from_json(DecoderShape, values.get("decoder"), "decoder")
        quantization = None
        if values.get("quantization") is not None:
            quantization = from_json(Quantization, values["quantization"], "quantization")
            quantization.check(model)
    except ConfigError as error:
        raise ModelDirectoryError(f"{path / CONFIG}: {error}") from None
    source = values.get("source")
    upsampling = None
    if any(group.expansion == "kernel" for group in model.groups):
        try:
            upsampling = np.load(path / UPSAMPLING, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ModelDirectoryError(f"{path / UPSAMPLING}: {error}; export the checkpoint again") from None
        expected = (audio.hop_length, 2 * model.margin + 1)
        if upsampling.shape != expected or upsampling.dtype != np.float32:
            raise ModelDirectoryError(
                f"{path / UPSAMPLING}: found {upsampling.dtype} {upsampling.shape}, expected float32 {expected}"
            )
    source = source if isinstance(source, dict) else {}
    return ModelDirectory(path, model, audio, decoder, source, upsampling, quantization, _cpu_precision(path, values))


def _cpu_precision(path: Path, values: dict[str, Any]) -> NativePrecision | None:
    found = values.get("cpu_precision")
    if found is not None and found not in NATIVE_PRECISIONS:
        expected = ", ".join(NATIVE_PRECISIONS)
        raise ModelDirectoryError(f"{path / CONFIG}: cpu_precision is {found!r}, expected one of {expected}")
    return found


def _read_config(path: Path) -> dict[str, Any]:
    """Returns the contents of ``config.json``, converted to the present schema version."""
    values = _read_json(path / CONFIG)
    version = values.get("schema_version")
    if version not in (1, SCHEMA_VERSION):
        raise ModelDirectoryError(
            f"{path / CONFIG}: schema version {version!r}, this wavernn-trt reads 1 to {SCHEMA_VERSION}; "
            "export the checkpoint again"
        )
    model, audio = values.get("model"), values.get("audio")
    if version == 1 and isinstance(model, dict) and isinstance(audio, dict):
        librosa = model.get("family") == "univoc" and not audio.get("waveform_preemphasis")
        model.setdefault("label_scale", "librosa" if librosa else "symmetric")
    return values


def read_manifest(manifest: Path) -> dict[str, dict[str, Any]]:
    """Returns the entries of a ``manifest.json``: ``sha256`` and ``bytes`` by file name.

    Raises:
        ModelDirectoryError: it is missing or not a manifest.
    """
    files = _read_json(manifest).get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise ModelDirectoryError(f"{manifest}: no list of files; export the checkpoint again")
    return files


def read_audio(path: str | Path) -> AudioConfig:
    """Returns a model's audio settings, also where its other files are damaged (Griffin-Lim needs no others).

    Raises:
        ModelDirectoryError: ``config.json`` is not the file that the manifest lists, or is invalid.
    """
    path = Path(path)
    content = read_listed(path, CONFIG)
    try:
        return from_json(AudioConfig, json.loads(content).get("audio"), "audio")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelDirectoryError(f"{path / CONFIG}: {error}; export the checkpoint again") from None


def read_listed(path: Path, name: str) -> bytes:
    """Returns one file's content after checking it against the manifest; the file is read only once.

    Args:
        path: the model directory.
        name: the file.

    Raises:
        ModelDirectoryError: it is missing, not listed or damaged.
    """
    entry = read_manifest(path / MANIFEST).get(name)
    if entry is None:
        raise ModelDirectoryError(f"{path / MANIFEST} does not list {name}; export the checkpoint again")
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise ModelDirectoryError(f"{path / name}: {error.strerror}; copy or export it again") from None
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise ModelDirectoryError(
            f"{path / name} is damaged: its SHA-256 is not the manifest's; copy or export it again"
        )
    return content


def _verify(path: Path) -> None:
    files = read_manifest(path / MANIFEST)
    # A file that the manifest does not list cannot be verified, so none that is read later may be missing there.
    present = [name for name in (UPSAMPLING, CHECKPOINT, PROBE, CONDITIONER_BLOCKS, SEQUENCE) if (path / name).exists()]
    missing = [name for name in (*_REQUIRED, *present) if name not in files]
    if missing:
        raise ModelDirectoryError(f"{path / MANIFEST} does not list {missing[0]}; export the checkpoint again")
    for name, entry in files.items():
        file = path / name
        if Path(name).name != name:
            raise ModelDirectoryError(f"{path / MANIFEST}: {name!r} is not an entry of a model directory")
        if not file.is_file():
            raise ModelDirectoryError(f"{file} is missing; copy the directory again, or export the checkpoint again")
        size = file.stat().st_size
        if size != entry.get("bytes"):
            raise ModelDirectoryError(
                f"{file} is damaged: {size} bytes, expected {entry.get('bytes')}; copy or export it again"
            )
        if file_sha256(file) != entry.get("sha256"):
            raise ModelDirectoryError(f"{file} is damaged: its SHA-256 is not the manifest's; copy or export it again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(
            f"{path} is missing, so {path.parent} is not a model directory. "
            "Make one with: wavernn-trt export CHECKPOINT -o DIR"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{path}: {error}; export the checkpoint again") from None
    if not isinstance(values, dict):
        raise ModelDirectoryError(f"{path}: found {type(values).__name__}, expected an object")
    return values
