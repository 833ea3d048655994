"""``probe.npz``: a short mel and the trained model's output for it, computed by the PyTorch reference at export.

After loading a model, the runtime runs the mel again and compares, so that an executor with wrong results is detected
before use. All arrays are plain numbers, read without pickles.

=============  =======================================================================================
``version``    version of this layout
``mel``        float16 [n_mels, frames]
``seed``       seed of the free-running samples that are compared
``samples``    int32 [n] labels or float32 [n] values that the reference drew, for teacher forcing
``steps``      int32 [S]: steps whose logits are recorded
``logits``     float32 [S, outputs]
``bits``       the samples' negative log-likelihood, in bits per sample
``bfloat16``   float64 [3]: the effect of bfloat16 products on this model; see `Rounding`
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
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Rounding:
    """The effect of rounded products on a decoder: the scale of tolerated differences.

    The same rounding affects models by different orders of magnitude, so an absolute bound would be too strict for some
    and too loose for others.
    """

    logits: float
    """Root mean square over all steps and outputs."""
    bits: float
    """Mean over steps of the absolute change of the sample's bits."""
    displacement: float
    """Mean over draws; see `wavernn_trt.export.probe_measures.displacements`."""


@dataclass(frozen=True)
class ProbeRecord:
    """Inputs and expected outputs of a probe."""

    mel: NDArray[np.float32]
    """[n_mels, frames], in the model's range."""
    seed: int
    """Seed of the free-running samples."""
    samples: NDArray[Any]
    """[frames * hop_length], drawn by the reference."""
    steps: NDArray[np.int32]
    """[S], steps with recorded logits."""
    logits: NDArray[np.float32]
    """[S, outputs], teacher-forced with ``samples``."""
    bits: float
    """Mean of `wavernn_trt.export.probe_measures.bits_of_steps` over ``samples``."""
    bfloat16: Rounding
    """Effect of bfloat16 products on the reference."""


def write_probe(path: Path, record: ProbeRecord) -> None:
    """Writes a record; equal records give equal bytes."""
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
    # Not np.savez, which writes the current time: a voice exported again would have another hash and need new engines.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _FIRST_DAY)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue())


def read_probe(path: Path, model: ModelConfig, audio: AudioConfig) -> ProbeRecord | None:
    """Returns the record of a model directory; ``None`` where it has none.

    Args:
        path: the model directory.
        model: its configuration, which the record must fit.
        audio: likewise.

    Raises:
        ModelDirectoryError: the record is not the file that the manifest lists, or does not fit the model.
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
