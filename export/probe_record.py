"""``probe.npz``: a short mel, and what the trained model makes of it, as the PyTorch reference computed it at export.

Who loads the model runs the mel again and compares: an executor that computes something else, however it came to, is
found before it speaks. All arrays are plain numbers, read without pickles.

=============  =======================================================================================
``version``    of this layout
``mel``        float16 [n_mels, frames]: the values themselves, to be widened
``seed``       of the free-running samples that are compared
``samples``    int32 [n] labels or float32 [n] values that the reference drew: what teacher forcing is fed with
``steps``      int32 [S]: steps whose logits are recorded
``logits``     float32 [S, outputs]
``bits``       the samples' negative log-likelihood, in bits a sample
``bfloat16``   float64 [3]: what computing in bfloat16 costs this model; see `Rounding`
=============  =======================================================================================
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import MANIFEST, PROBE, ModelDirectoryError, read_listed, read_manifest

VERSION = 1
"""Of the layout."""
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Rounding:
    """How far a decoder whose products are rounded lies from itself; the scale that differences are measured on.

    Models differ by orders of magnitude in what the same rounding does to them, so a bound in absolute numbers would
    be too strict for one and blind for another.
    """

    logits: float
    """Root mean square over all steps and outputs."""
    bits: float
    """Mean over steps of the absolute change of the sample's bits."""
    displacement: float
    """Mean over draws; see `wavernn_trt.export.probe_measures.displacements`."""


@dataclass(frozen=True)
class ProbeRecord:
    """What a probe runs, and what it expects."""

    mel: NDArray[np.float32]
    """[n_mels, frames], in the model's range."""
    seed: int
    """Of the free-running samples."""
    samples: NDArray[Any]
    """[frames * hop_length], drawn by the reference."""
    steps: NDArray[np.int32]
    """[S], steps of which the logits are known."""
    logits: NDArray[np.float32]
    """[S, outputs], teacher-forced with ``samples``."""
    bits: float
    """Bits a sample of ``samples``; see `wavernn_trt.export.probe_measures.bits_of_steps`."""
    bfloat16: Rounding
    """What products in bfloat16 cost the reference."""


def write_probe(path: Path, record: ProbeRecord) -> None:
    """Writes a record; the same record always makes the same bytes."""
    arrays = {
        "version": np.array(VERSION),
        "mel": record.mel.astype(np.float16),
        "seed": np.array(record.seed, np.uint64),
        "samples": record.samples,
        "steps": record.steps,
        "logits": record.logits,
        "bits": np.array(record.bits),
        "bfloat16": np.array([record.bfloat16.logits, record.bfloat16.bits, record.bfloat16.displacement]),
    }
    # Not np.savez: that writes the time of day, and a voice exported twice would seem another, with other engines.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _FIRST_DAY)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue())


def read_probe(path: Path, model: ModelConfig, audio: AudioConfig) -> ProbeRecord | None:
    """The record of a model directory, or ``None`` where it has none.

    Args:
        path: the model directory.
        model: its configuration; what the record holds must fit it.
        audio: likewise.

    Raises:
        ModelDirectoryError: the record is not the one that the manifest lists, or not a record of this model.
    """
    if PROBE not in read_manifest(path / MANIFEST):
        return None
    content = read_listed(path, PROBE)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if (version := int(arrays["version"])) != VERSION:
            raise ModelDirectoryError(
                f"{path / PROBE}: version {version}, this wavernn-trt reads {VERSION}; export the checkpoint again"
            )
        record = ProbeRecord(
            arrays["mel"].astype(np.float32),
            int(arrays["seed"]),
            arrays["samples"],
            arrays["steps"],
            arrays["logits"],
            float(arrays["bits"]),
            Rounding(*(float(value) for value in arrays["bfloat16"])),
        )
    except ModelDirectoryError:
        raise
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelDirectoryError(f"{path / PROBE}: {error}; export the checkpoint again") from None
    _check(path, record, model, audio)
    return record


def _check(path: Path, record: ProbeRecord, model: ModelConfig, audio: AudioConfig) -> None:
    frames = record.mel.shape[1] if record.mel.ndim == 2 else 0
    kind = np.int32 if model.output == "categorical" else np.float32
    expected = {
        "mel": ((audio.n_mels, max(1, frames)), record.mel.shape, np.float32, record.mel.dtype),
        "samples": ((frames * audio.hop_length,), record.samples.shape, kind, record.samples.dtype),
        "steps": ((record.steps.size,), record.steps.shape, np.int32, record.steps.dtype),
        "logits": ((max(1, record.steps.size), model.outputs), record.logits.shape, np.float32, record.logits.dtype),
    }
    for name, (shape, found, dtype, found_dtype) in expected.items():
        if shape != found or dtype != found_dtype:
            raise ModelDirectoryError(
                f"{path / PROBE}: {name} is {found_dtype} {found}, expected {np.dtype(dtype)} {shape}; export the "
                "checkpoint again"
            )
    if record.steps.min() < 0 or record.steps.max() >= len(record.samples):
        raise ModelDirectoryError(f"{path / PROBE}: steps outside the mel; export the checkpoint again")
