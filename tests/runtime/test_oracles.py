"""All CPU executors against what other projects' own code computes from their own checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wavernn_trt
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


STEPS = {"torch": 4000, "onnxruntime": 1 << 20, "native": 1 << 20}
"""Of teacher forcing: PyTorch takes a minute for all of them."""
BACKENDS = tuple(STEPS)
Load = Callable[..., tuple[Vocoder, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def load(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A function (case, backend, **overrides) -> its vocoder, and what is to be expected of it."""
    pytest.importorskip("torch", reason="checkpoints are PyTorch's")
    pytest.importorskip("onnx", reason="model directories hold ONNX graphs")
    from wavernn_trt.export import export, read_checkpoint

    exported: dict[str, Path] = {}

    def load(case: str, backend: str, **overrides: Any) -> tuple[Vocoder, dict[str, np.ndarray]]:
        folder = shared_data / "oracles" / case
        key = f"{case}{overrides}"
        if key not in exported:
            exported[key] = tmp_path_factory.mktemp("model") / "voice"
            export(read_checkpoint(folder / CHECKPOINTS[case][0], **overrides), exported[key], steps=4)
        golden = dict(np.load(folder / "golden.npz")) | {"mel": np.load(folder / "mel.npy")}
        if (folder / "uniforms.npy").exists():
            golden["uniforms"] = np.load(folder / "uniforms.npy")
        return wavernn_trt.load(exported[key], backend), golden

    return load


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_forced_logits_are_theirs(load: Load, case: str, backend: str) -> None:
    vocoder, golden = load(case, backend)
    forced = golden["forced_labels"] if "forced_labels" in golden else golden["forced_y"]
    steps = min(golden["T_steps"], STEPS[backend])
    logits = vocoder.teacher_forced(golden["mel"], forced[:steps])
    assert len(logits) == steps
    known = golden["golden_idx"] < steps
    assert known.sum() > 3
    np.testing.assert_allclose(logits[golden["golden_idx"][known]], golden["logits_step"][known], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["bshall_small", "fatchord_raw", "torchaudio"])
def test_free_running_labels_and_waveforms_are_theirs(load: Load, case: str, backend: str) -> None:
    for wave, overrides in CHECKPOINTS[case][1].items():
        vocoder, golden = load(case, backend, **overrides)
        if backend != "torch":
            labels = vocoder.labels(golden["mel"], uniforms=golden["uniforms"])
            assert np.array_equal(labels, golden["free_labels"])
        waveform = vocoder.vocode(golden["mel"], uniforms=golden["uniforms"])
        np.testing.assert_allclose(waveform, golden[wave], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixtures_run_free(load: Load, backend: str) -> None:
    vocoder, golden = load("coqui_mold", backend)
    samples = vocoder.labels(golden["mel"], seed=1)
    assert samples.dtype == np.float32
    assert samples.shape == (golden["T_steps"],)
    assert np.abs(samples).max() <= 1
    assert np.array_equal(vocoder.vocode(golden["mel"], seed=1), samples)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_every_family_has_equal_bits_alone_in_a_batch_and_as_a_stream(load: Load, case: str) -> None:
    vocoder, golden = load(case, "onnxruntime")
    mels = [golden["mel"][:, :count] for count in (12, 1, 3, 7, 12, 5)]
    alone = [vocoder.vocode(mel, seed=seed) for seed, mel in enumerate(mels)]
    together = vocoder.vocode_batch(mels, seeds=range(6))
    streamed = [np.concatenate(list(vocoder.stream(mel, seed=seed))) for seed, mel in enumerate(mels)]
    for one, other, pieces in zip(alone, together, streamed, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, pieces)
