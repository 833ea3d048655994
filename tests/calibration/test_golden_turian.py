"""A model trained by its author, teacher-forced with the classes that the author's program drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the checkpoint is PyTorch's")
pytest.importorskip("onnx", reason="graphs are ONNX graphs")

import soundfile

from wavernn_trt.calibration.likelihood import bits_of_samples
from wavernn_trt.export import export
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import load_model

CLASSES = 1024
SAMPLES = 125_600
OF_TORCH = 25_000
"""Samples for PyTorch, which is slow; the first are quieter and have 2.21 bits."""
MOST_OTHER = 10
"""Most classes that may differ, where a random number is at the boundary of two classes. The author's PyTorch code
differs from the author's C++ in 3."""


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Path:
    return shared_data / "turian-wavernn"


@pytest.fixture(scope="module")
def directory(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(golden / "model.pt", tmp_path_factory.mktemp("turian") / "model", steps=8).directory.path


@pytest.mark.parametrize(
    ("backend", "samples", "expected"),
    [("onnxruntime", SAMPLES, 2.71), ("native", SAMPLES, 2.71), ("torch", OF_TORCH, 2.21)],
)
def test_the_author_s_random_numbers_draw_the_author_s_classes(
    golden: Path, directory: Path, backend: str, samples: int, expected: float
) -> None:
    waveform, sample_rate = soundfile.read(golden / "golden.wav", dtype="float32")
    labels = np.rint((waveform + 1) / 2 * (CLASSES - 1)).astype(np.int32)
    uniforms = np.load(golden / "uniforms.npy").ravel()
    loaded = load_model(directory, LoadOptions(backend, threads=1))
    assert (sample_rate, len(labels), len(uniforms)) == (loaded.sample_rate, SAMPLES, SAMPLES)

    chosen, bits = [], []
    for piece in loaded.forced_pieces([(np.load(golden / "mel.npy").T, labels)]):  # all logits would take 0.5 GB
        here = slice(piece.start, piece.start + len(piece.logits))
        weights = np.exp(piece.logits - piece.logits.max(axis=1, keepdims=True))
        cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        chosen.append(np.argmax(cumulative >= uniforms[here, None], axis=1))
        bits.append(bits_of_samples(loaded.model, piece.logits, labels[here]))
        if here.stop >= samples:
            break

    found = np.concatenate(chosen)
    assert len(found) >= samples
    difference = np.abs(found - labels[: len(found)])
    assert (difference != 0).sum() <= MOST_OTHER
    assert difference.max() <= 1
    assert np.concatenate(bits).mean() == pytest.approx(expected, abs=0.01)
