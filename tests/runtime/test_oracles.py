"""The torch executor against what other projects' own code computes from their own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavernn_trt.runtime.executors.registry import OpenedModel
from wavernn_trt.runtime.vocoder import Vocoder

CHECKPOINTS = {
    "bshall_small": ("model-25000.pt", {"free_wave": {}}),
    "fatchord_raw": (
        "latest_weights.pyt",
        {"free_wave_mulaw": {"mu_law": True}, "free_wave_linear": {"mu_law": False}},
    ),
    "torchaudio": ("wavernn_small_8bits.pth", {"free_wave_mulaw_exact": {}}),
    "coqui_mold": ("checkpoint_50000.pth", {}),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def load_case(shared_data: Path, case: str, **overrides: Any) -> tuple[Vocoder, dict[str, np.ndarray]]:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    from wavernn_trt.export.checkpoint import read_checkpoint
    from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

    folder = shared_data / "oracles" / case
    checkpoint = read_checkpoint(folder / CHECKPOINTS[case][0], **overrides)
    model = checkpoint.model
    opened = OpenedModel(folder, model.config, checkpoint.audio, model.upsampling, TorchExecutor(model))
    golden = dict(np.load(folder / "golden.npz")) | {"mel": np.load(folder / "mel.npy")}
    if (folder / "uniforms.npy").exists():
        golden["uniforms"] = np.load(folder / "uniforms.npy")
    return Vocoder(opened), golden


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_forced_logits_are_theirs(shared_data: Path, case: str) -> None:
    vocoder, golden = load_case(shared_data, case)
    forced = golden["forced_labels"] if "forced_labels" in golden else golden["forced_y"]
    logits = vocoder.teacher_forced(golden["mel"], forced)
    assert len(logits) == golden["T_steps"]
    np.testing.assert_allclose(logits[golden["golden_idx"]], golden["logits_step"], atol=1e-4)


@pytest.mark.parametrize("case", ["bshall_small", "fatchord_raw", "torchaudio"])
def test_free_running_labels_and_waveforms_are_theirs(shared_data: Path, case: str) -> None:
    for wave, overrides in CHECKPOINTS[case][1].items():
        vocoder, golden = load_case(shared_data, case, **overrides)
        labels = vocoder.labels(golden["mel"], uniforms=golden["uniforms"])
        assert np.array_equal(labels, golden["free_labels"])
        waveform = vocoder.vocode(golden["mel"], uniforms=golden["uniforms"])
        np.testing.assert_allclose(waveform, golden[wave], atol=1e-6)


def test_mixtures_run_free(shared_data: Path) -> None:
    vocoder, golden = load_case(shared_data, "coqui_mold")
    samples = vocoder.labels(golden["mel"], seed=1)
    assert samples.dtype == np.float32
    assert samples.shape == (golden["T_steps"],)
    assert np.abs(samples).max() <= 1
    assert np.array_equal(vocoder.vocode(golden["mel"], seed=1), samples)
