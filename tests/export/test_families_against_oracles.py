"""The families compute what their authors' own code computed, from checkpoints in their authors' own formats."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the families are PyTorch modules")

from wavernn_trt.export.checkpoints.checkpoint import Checkpoint, read_checkpoint

CASES = {
    "fatchord_raw": "latest_weights.pyt",
    "torchaudio": "wavernn_small_8bits.pth",
    "coqui_mold": "checkpoint_50000.pth",
    "bshall_small": "model-25000.pt",
}


class Oracle:
    """One folder of fixtures, with the conditioning that this package computes for it."""

    def __init__(self, folder: Path, file: str, reference: ModuleType) -> None:
        self.checkpoint: Checkpoint = read_checkpoint(folder / file)
        self.golden: Any = np.load(folder / "golden.npz")
        self.indices = self.golden["golden_idx"]
        mel = torch.from_numpy(np.load(folder / "mel.npy"))[None]
        self.conditioning = reference.utterance(self.checkpoint.model, mel, self.checkpoint.audio.hop_length)
        uniforms = folder / "uniforms.npy"
        self.uniforms = torch.from_numpy(np.load(uniforms)) if uniforms.exists() else None


@pytest.fixture(scope="module", params=CASES)
def oracle(request: pytest.FixtureRequest, shared_data: Path, reference: ModuleType) -> Oracle:
    return Oracle(shared_data / "oracles" / request.param, CASES[request.param], reference)


def test_hop_length_follows_from_the_weights(oracle: Oracle) -> None:
    assert oracle.checkpoint.audio.hop_length == int(oracle.golden["hop"])
    assert len(oracle.conditioning) == int(oracle.golden["T_steps"])


def test_conditioning_is_the_authors(oracle: Oracle) -> None:
    if oracle.checkpoint.model.config.family == "univoc":
        hop_length = oracle.checkpoint.audio.hop_length
        np.testing.assert_allclose(oracle.conditioning[::hop_length, 0], oracle.golden["cond"], atol=1e-5)
    else:
        expected = np.concatenate([oracle.golden["cond_mel"], oracle.golden["cond_aux"]], axis=1)
        np.testing.assert_allclose(oracle.conditioning[oracle.indices, 0], expected, atol=1e-5)


def test_teacher_forced_outputs_are_the_authors(oracle: Oracle, reference: ModuleType) -> None:
    name = "forced_input_labels" if oracle.checkpoint.model.config.label_feedback else "forced_input"
    fed = torch.from_numpy(oracle.golden[name])[:, None]
    logits = reference.teacher_forced(oracle.checkpoint.model, oracle.conditioning, fed)[oracle.indices, 0]
    np.testing.assert_allclose(logits, oracle.golden["logits_step"], atol=1e-4)


def test_free_running_labels_are_the_authors(oracle: Oracle, reference: ModuleType) -> None:
    if oracle.uniforms is None:
        assert oracle.checkpoint.model.config.output != "categorical"
        return
    labels = reference.free_running(oracle.checkpoint.model, oracle.conditioning, oracle.uniforms)
    np.testing.assert_array_equal(labels, oracle.golden["free_labels"])


def test_a_turian_voice_draws_the_classes_of_its_author_s_program(shared_data: Path, reference: ModuleType) -> None:
    folder = shared_data / "turian-wavernn"
    checkpoint = read_checkpoint(folder / "model.pt")
    steps = 6000
    mel = torch.from_numpy(np.load(folder / "mel.npy")).T[None]
    conditioning = reference.utterance(checkpoint.model, mel[:, :, :40], checkpoint.audio.hop_length)[:steps]
    golden = _golden_wave(folder / "golden.wav")[:steps]
    labels = np.round((golden.astype(np.float64) + 1) * 1023 / 2).astype(np.int64)
    fed = torch.from_numpy(np.concatenate([[0.0], golden[:-1]]).astype(np.float32))[:, None]
    logits = reference.teacher_forced(checkpoint.model, conditioning, fed)
    uniforms = torch.from_numpy(np.load(folder / "uniforms.npy")[:steps])[:, None]
    chosen, _ = checkpoint.model.sampler(logits[:, 0], uniforms)
    assert (chosen.numpy() == labels).sum() >= steps - 1
    likelihood = torch.log_softmax(logits[:, 0].double(), dim=1)[torch.arange(steps), torch.from_numpy(labels)]
    assert -likelihood.mean() / np.log(2) < 4.0


def _golden_wave(path: Path) -> np.ndarray:
    soundfile = pytest.importorskip("soundfile", reason="reads the golden waveform")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    return samples
