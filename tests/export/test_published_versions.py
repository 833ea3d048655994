"""Checkpoints of other projects compute what those projects' own code computes, version by version.

The stored outputs and how they were made: published/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the families are PyTorch modules")

from wavernn_trt.export.checkpoints.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from wavernn_trt.export.settings import presets as export_presets
from wavernn_trt.export.settings.table import AUDIO_FIELDS
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.sample_coding import SampleCoding

FOLDER = Path(__file__).resolve().parent / "published"
COUNTER = 1234

PRESETS = {
    "fatchord-raw": "fatchord",
    "fatchord-mol": "fatchord",
    "rtvc": "rtvc",
    "forwardtacotron-v1": "forwardtacotron-v1",
    "forwardtacotron-v2": "forwardtacotron-v2",
    "gwang-9bit": "gwang-bits",
    "gwang-10bit": "gwang-bits",
    "gwang-mulaw": "gwang-mulaw",
    "gwang-mixture": "gwang-mixture",
    "gwang-gaussian": "gwang-gaussian",
    "gwang-beta": "gwang-gaussian",
    "geneing-10bit": "geneing-bits",
    "geneing-mulaw": "geneing-mulaw",
    "geneing-mixture": "geneing-mixture",
    "erogol-lj-mold": "erogol-lj",
    "erogol-lj-10bit": "erogol-lj",
    "erogol-universal": "erogol-universal",
    "mozilla-libritts": "mozilla",
    "univoc-0.1": "univoc-0.1",
    "univoc-0.2": "univoc-0.2",
    "torchaudio-ljspeech": "torchaudio",
}
"""Stored files, and the preset that each is of. The network behind a beta distribution is that of a Gaussian."""
UNDECIDED = (
    "gwang-9bit",
    "gwang-10bit",
    "gwang-mulaw",
    "gwang-gaussian",
    "gwang-beta",
    "geneing-10bit",
    "geneing-mulaw",
)
"""Files that only a settings file or a preset distinguishes from another version's."""


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
        return read_checkpoint(self.write("$state"), preset=PRESETS[self.name])

    @property
    def recording(self) -> Any:
        """The recording at the level that the preset's features are taken at."""
        samples = self.arrays["recording"].astype(np.float32) / 32768
        peak = export_presets.PRESETS[PRESETS[self.name]].audio.get("peak")
        return samples if peak is None else samples / np.abs(samples).max() * peak

    @property
    def previous(self) -> Any:
        """Input of each step: the sample before."""
        fed = self.arrays["previous"]
        return self.arrays["previous_values"][fed] if "previous_values" in self.arrays else fed

    @property
    def samples(self) -> Any:
        """Sample of each step: labels, or float32 values."""
        return self.arrays["samples"].astype(np.int64 if self.arrays["samples"].dtype.kind == "i" else np.float32)


@pytest.fixture
def published(tmp_path: Path) -> Callable[[str], Published]:
    return lambda name: Published(name, tmp_path)


def presets(needs: str = "", but: Sequence[str] = ()) -> Any:
    """All stored files that hold an array."""
    names = [name for name in PRESETS if not needs or needs in np.load(FOLDER / f"{name}.npz").files]
    return pytest.mark.parametrize("name", [name for name in names if name not in but])


@presets(but=UNDECIDED)
def test_versions_are_recognised_by_their_own_wrapping(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = read_checkpoint(case.write(case.facts["checkpoint"]))
    recognised = {
        "erogol-lj": "coqui",
        "erogol-universal": "coqui",
        "mozilla": "coqui",
        "forwardtacotron-v1": "fatchord",
    }
    assert checkpoint.preset == recognised.get(PRESETS[name], PRESETS[name])


@presets(needs="facts", but=("gwang-beta", "torchaudio-ljspeech"))
def test_the_projects_own_settings_files_give_the_preset_s_settings(
    name: str, published: Callable[[str], Published], tmp_path: Path
) -> None:
    case = published(name)
    path = case.write(case.facts["checkpoint"])
    if not case.facts["settings"]:
        pytest.skip("the project stores its settings in the checkpoint")
    for file, text in case.facts["settings"].items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    checkpoint, stated = read_checkpoint(path), case.read()
    assert not [note for note in checkpoint.notes if "not known" in note]
    expected = {field: getattr(stated.audio, field) for field in AUDIO_FIELDS}
    found = {field: getattr(checkpoint.audio, field) for field in AUDIO_FIELDS}
    assert {field: value for field, value in found.items() if value != expected[field]} == {}
    assert checkpoint.model.config == stated.model.config


def test_a_beta_distribution_is_refused(published: Callable[[str], Published]) -> None:
    case = published("gwang-beta")
    with pytest.raises(CheckpointError, match="drawn from a beta distribution, which is not supported"):
        read_checkpoint(case.write(case.facts["checkpoint"]), preset="gwang-beta")


@presets()
def test_checkpoints_are_read_in_their_own_wrapping(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = read_checkpoint(case.write(case.facts["checkpoint"]), preset=PRESETS[name])
    floats = {key for key, value in case.state.items() if value.is_floating_point()}
    assert checkpoint.state.keys() == floats
    assert all(torch.equal(checkpoint.state[key], case.state[key]) for key in floats)


@presets()
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


@presets(needs="features")
def test_features_are_the_projects(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    features, expected = mel_spectrogram(case.recording, case.read().audio), case.arrays["features"]
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, atol=1e-4 * (expected.max() - expected.min()))


def test_torchaudio_s_pipeline_maps_its_natural_logarithm_to_our_features(
    published: Callable[[str], Published],
) -> None:
    case = published("torchaudio-ljspeech")
    natural = mel_spectrogram(
        case.recording, read_checkpoint(case.write("$state"), preset="torchaudio", log="natural").audio
    )
    np.testing.assert_allclose(natural, case.arrays["natural"], atol=1e-4)
    frames = case.arrays["mel"].shape[1]
    features = mel_spectrogram(case.recording, case.read().audio)[:, 4 : 4 + frames]
    np.testing.assert_allclose(features, case.arrays["mel"], atol=1e-4)


@presets()
def test_samples_decode_to_the_projects_waveform(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint, expected = case.read(), case.arrays["waveform"]
    waveform = SampleCoding(checkpoint.model.config, checkpoint.audio).waveform(case.samples)
    assert len(case.samples) - checkpoint.audio.hop_length <= len(expected) <= len(case.samples)
    np.testing.assert_allclose(waveform[: len(expected)], expected, atol=1e-5)


@presets()
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


@presets(needs="labels")
def test_recordings_are_labelled_as_in_the_projects_training(name: str, published: Callable[[str], Published]) -> None:
    case = published(name)
    checkpoint = case.read()
    labels = SampleCoding(checkpoint.model.config, checkpoint.audio).samples(case.recording)
    theirs = case.arrays["labels"][checkpoint.audio.delay :][: len(labels)]
    excess = labels[: len(theirs)].astype(int) - theirs
    low, high = UNEVEN.get(name, (0, 0))
    assert np.mean((excess >= low) & (excess <= high)) > 0.999
    assert np.abs(excess).max() <= 1


@presets(needs="drawn_value", but=("gwang-beta",))
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
