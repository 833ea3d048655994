"""Checkpoints of other projects compute what those projects' own code computes, version by version.

The stored outputs and how they were made: published/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the families are PyTorch modules")

from wavernn_trt.export.checkpoint import Checkpoint, read_checkpoint
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.sample_coding import SampleCoding

FOLDER = Path(__file__).resolve().parent / "published"
COUNTER = 1234

FATCHORD = {
    "sample_rate": 22050,
    "hop_length": 275,
    "win_length": 1100,
    "n_fft": 2048,
    "fmin": 40.0,
    "fmax": None,
    "pad_mode": "reflect",
    "reference_db": 0.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
}
NATURAL = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "fmin": 0.0,
    "fmax": 8000.0,
    "pad_mode": "reflect",
    "log": "natural",
}
GWANG = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "fmin": 125.0,
    "fmax": 7600.0,
    "pad_mode": "constant",
    "preemphasis": 0.97,
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
    "family": "fatchord",
}
GENEING = {
    "sample_rate": 16000,
    "hop_length": 200,
    "win_length": 800,
    "n_fft": 2048,
    "fmin": 95.0,
    "fmax": 7600.0,
    "pad_mode": "constant",
    "preemphasis": 0.97,
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (-4.0, 4.0),
    "clip_high": False,
    "family": "turian",
}
EROGOL = {
    "sample_rate": 22050,
    "hop_length": 275,
    "win_length": 1102,
    "n_fft": 2048,
    "fmin": 0.0,
    "fmax": 8000.0,
    "pad_mode": "reflect",
    "preemphasis": 0.98,
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
    "clip_high": True,
    "family": "coqui",
}
UNIVOC = {
    "sample_rate": 16000,
    "hop_length": 200,
    "win_length": 800,
    "n_fft": 2048,
    "fmin": 50.0,
    "fmax": None,
    "pad_mode": "reflect",
    "preemphasis": 0.97,
}
RAW = {"mode": "raw", "mu_law": True}
PRESETS: dict[str, dict[str, Any]] = {
    "fatchord-raw": {**FATCHORD, **RAW},
    "fatchord-mol": {**FATCHORD, "mode": "mol"},
    "rtvc": {
        **RAW,
        "sample_rate": 16000,
        "hop_length": 200,
        "win_length": 800,
        "n_fft": 800,
        "fmin": 55.0,
        "fmax": 7600.0,
        "pad_mode": "reflect",
        "preemphasis": 0.97,
        "reference_db": 20.0,
        "min_level_db": -100.0,
        "mel_range": (-1.0, 1.0),
        "waveform_preemphasis": 0.97,
        "peak": 0.9,
    },
    "forwardtacotron-v1": {**NATURAL, **RAW},
    "forwardtacotron-v2": {**NATURAL, **RAW, "family": "fatchord"},
    "gwang-9bit": {**GWANG, "mode": "raw", "mu_law": False},
    "gwang-10bit": {**GWANG, "mode": "raw", "mu_law": False},
    "gwang-mulaw": {**GWANG, **RAW},
    "gwang-mixture": {**GWANG, "mode": "mol"},
    "gwang-gaussian": {**GWANG, "mode": "gauss", "family": "coqui"},
    "gwang-beta": {**GWANG, "mode": "gauss", "family": "coqui"},
    "geneing-10bit": {**GENEING, "mode": "raw", "mu_law": False},
    "geneing-mulaw": {**GENEING, **RAW},
    "geneing-mixture": {**GENEING, "mode": "mol"},
    "erogol-lj-mold": {**EROGOL, "mode": "mold"},
    "erogol-lj-10bit": {**EROGOL, "mode": 10, "mu_law": False},
    "erogol-universal": {**EROGOL, "mode": "mold", "sample_rate": 16000, "hop_length": 200, "win_length": 800},
    "mozilla-libritts": {
        **EROGOL,
        "mode": "mold",
        "sample_rate": 24000,
        "hop_length": 256,
        "win_length": 1024,
        "n_fft": 1024,
        "fmin": 40.0,
        "mel_range": (-4.0, 4.0),
    },
    "univoc-0.1": {
        **UNIVOC,
        "mel_norm": "slaney",
        "reference_db": 0.0,
        "min_level_db": -100.0,
        "mel_range": (0.0, 1.0),
        "clip_high": True,
        "peak": 0.999,
    },
    "univoc-0.2": {
        **UNIVOC,
        "mel_norm": "sum",
        "reference_db": 20.0,
        "min_level_db": -80.0,
        "mel_range": (-1.0, 0.0),
        "clip_high": False,
        "delay": 400,
    },
    "torchaudio-ljspeech": {**FATCHORD, **RAW},
}


class Published:
    """One preset's stored outputs, and its checkpoint as this package reads it."""

    def __init__(self, name: str, folder: Path) -> None:
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.arrays = {key: stored[key] for key in stored.files if key != "facts"}
            self.facts: dict[str, Any] = json.loads(str(stored["facts"]))
        self.name = name
        self.folder = folder
        self.state = self._state()

    def _state(self) -> dict[str, Any]:
        state, weights, start = {}, self.arrays["weights"], 0
        for name, shape, exponent in self.facts["tensors"]:
            if exponent is None:
                state[name] = torch.full(shape, COUNTER, dtype=torch.int64)
                continue
            count = int(np.prod(shape))
            numbers = weights[start : start + count].astype(np.float32) * np.float32(2.0**exponent)
            state[name] = torch.from_numpy(numbers.reshape(shape))
            start += count
        return state

    def write(self, outline: Any) -> Path:
        """The checkpoint as a file; ``$state`` in the outline stands for the tensors."""
        path = self.folder / self.facts["file"]
        full = outline if outline != "$state" else self.state
        if isinstance(outline, dict):
            full = {key: self.state if value == "$state" else value for key, value in outline.items()}
        torch.save(full, path)
        return path

    def read(self) -> Checkpoint:
        return read_checkpoint(self.write("$state"), **PRESETS[self.name])

    @property
    def recording(self) -> Any:
        """The recording at the level that the preset's features are taken at."""
        samples = self.arrays["recording"].astype(np.float32) / 32768
        peak = PRESETS[self.name].get("peak")
        return samples if peak is None else samples / np.abs(samples).max() * peak

    @property
    def previous(self) -> Any:
        """What each step was fed with."""
        fed = self.arrays["previous"]
        return self.arrays["previous_values"][fed] if "previous_values" in self.arrays else fed

    @property
    def samples(self) -> Any:
        """What each step emitted: labels, or float32 values."""
        return self.arrays["samples"].astype(np.int64 if self.arrays["samples"].dtype.kind == "i" else np.float32)


@pytest.fixture
def published(tmp_path: Path) -> Callable[[str], Published]:
    return lambda name: Published(name, tmp_path)


def presets(missing: dict[str, str] | None = None, needs: str = "") -> Any:
    """All presets that store an array; those that cannot be expressed yet are expected to fail."""
    names = [name for name in PRESETS if not needs or needs in np.load(FOLDER / f"{name}.npz").files]
    reasons = missing or {}
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=reasons[name])) if name in reasons else name
            for name in names
        ],
    )


REFUSED = "mixtures of one recurrent layer are refused"
AMPLITUDE = "the decoded amplitude cannot be fed back"
LABELS = "univoc's layout has the symmetric label scale only with pre-emphasis"


@presets({"rtvc": "the entry model_state is not read", "geneing-mixture": REFUSED})
def test_checkpoints_are_read_in_their_own_wrapping(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = read_checkpoint(case.write(case.facts["checkpoint"]), **PRESETS[name])
    floats = {key for key, value in case.state.items() if value.is_floating_point()}
    assert checkpoint.state.keys() == floats
    assert all(torch.equal(checkpoint.state[key], case.state[key]) for key in floats)


@presets({"geneing-mixture": REFUSED})
def test_outputs_of_forced_steps_are_the_projects(
    name: str, published: Callable[[str], Published], reference: ModuleType
) -> None:
    case = published(name)
    checkpoint = case.read()
    mel = torch.from_numpy(case.arrays["mel"])[None]
    conditioning = reference.utterance(checkpoint.model, mel, checkpoint.audio.hop_length)
    fed = torch.from_numpy(case.previous)[:, None]
    logits = reference.teacher_forced(checkpoint.model, conditioning, fed)[case.arrays["rows"], 0]
    expected = case.arrays["logits"]
    np.testing.assert_allclose(logits[:, case.arrays["columns"]], expected, atol=2e-5 * np.abs(expected).max())


@presets(
    {"gwang-9bit": "lws's window and frames cannot be chosen", "geneing-10bit": "levels below the range are clipped"},
    needs="features",
)
def test_features_are_the_projects(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    features, expected = mel_spectrogram(case.recording, case.read().audio), case.arrays["features"]
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, atol=1e-4 * (expected.max() - expected.min()))


def test_torchaudio_s_pipeline_maps_its_natural_logarithm_to_our_features(
    published: Callable[[str], Published],
) -> None:
    case = published("torchaudio-ljspeech")
    natural = mel_spectrogram(case.recording, read_checkpoint(case.write("$state"), **FATCHORD, log="natural").audio)
    np.testing.assert_allclose(natural, case.arrays["natural"], atol=1e-4)
    frames = case.arrays["mel"].shape[1]
    features = mel_spectrogram(case.recording, case.read().audio)[:, 4 : 4 + frames]
    np.testing.assert_allclose(features, case.arrays["mel"], atol=1e-4)


@presets({"univoc-0.1": LABELS, "geneing-mixture": REFUSED})
def test_samples_decode_to_the_projects_waveform(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint, expected = case.read(), case.arrays["waveform"]
    waveform = SampleCoding(checkpoint.model.config, checkpoint.audio).waveform(case.samples)
    assert len(case.samples) - checkpoint.audio.hop_length <= len(expected) <= len(case.samples)
    np.testing.assert_allclose(waveform[: len(expected)], expected, atol=1e-5)


@presets({"gwang-mulaw": AMPLITUDE, "geneing-mulaw": AMPLITUDE, "geneing-mixture": REFUSED})
def test_steps_are_fed_with_what_the_projects_feed(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = case.read()
    fed = SampleCoding(checkpoint.model.config, checkpoint.audio).feedback(case.samples)
    assert case.previous[0] == checkpoint.model.config.first_previous
    np.testing.assert_allclose(fed[:-1], case.previous[1:], atol=1e-6)


UNEVEN = {"gwang-9bit": (0, 1), "geneing-10bit": (0, 1), "univoc-0.2": (-1, 1)}
"""Projects whose training does not round to the nearest amplitude: by how much our labels may exceed theirs.

G-Wang and geneing round down; univoc rounds up on 2 ** bits - 1 steps, and decodes with 2 ** bits.
"""


@presets({"univoc-0.1": LABELS}, needs="labels")
def test_recordings_are_labelled_as_in_the_projects_training(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = case.read()
    labels = SampleCoding(checkpoint.model.config, checkpoint.audio).samples(case.recording)
    theirs = case.arrays["labels"][checkpoint.audio.delay :][: len(labels)]
    excess = labels[: len(theirs)].astype(int) - theirs
    low, high = UNEVEN.get(name, (0, 0))
    assert np.mean((excess >= low) & (excess <= high)) > 0.999
    assert np.abs(excess).max() <= 1


@presets({"geneing-mixture": REFUSED, "gwang-beta": "a beta distribution cannot be chosen"}, needs="drawn_value")
def test_draws_are_the_projects(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = case.read()
    logits = torch.from_numpy(case.arrays["logits"])
    uniforms = torch.zeros(len(logits), 2)
    assert "drawn_deviate" in case.arrays
    uniforms[:, 1] = torch.from_numpy(case.arrays["drawn_deviate"].astype(np.float32))
    if "drawn_component" in case.arrays:
        weights = torch.softmax(logits[:, :10], dim=1)
        component = torch.from_numpy(case.arrays["drawn_component"].astype(np.int64))[:, None]
        edges = torch.cumsum(weights, dim=1).gather(1, component)
        uniforms[:, 0] = (edges - weights.gather(1, component) / 2)[:, 0]
    values, _ = checkpoint.model.sampler(logits, uniforms)
    np.testing.assert_allclose(values, case.arrays["drawn_value"], atol=1e-4)
