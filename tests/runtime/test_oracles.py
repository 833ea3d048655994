"""All CPU executors, compared with the outputs of other projects' own code and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wavernn_trt
from wavernn_trt.runtime.request import Request
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


STEPS = {"torch": 600, "onnxruntime": 1 << 20, "native": 1 << 20}
"""Maximum number of compared steps; PyTorch is slow."""
BACKENDS = tuple(STEPS)
Load = Callable[..., tuple[Vocoder, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def load(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A function (case, backend, **overrides) -> a vocoder, and its expected outputs."""
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
def test_teacher_forced_logits_are_those_of_the_project(load: Load, case: str, backend: str) -> None:
    vocoder, golden = load(case, backend)
    forced = golden["forced_labels"] if "forced_labels" in golden else golden["forced_y"]
    steps = min(golden["T_steps"], STEPS[backend])
    logits = vocoder.teacher_forced(golden["mel"], forced[:steps])
    assert len(logits) == steps
    known = golden["golden_idx"] < steps
    assert known.sum() >= 3
    np.testing.assert_allclose(logits[golden["golden_idx"][known]], golden["logits_step"][known], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["bshall_small", "fatchord_raw", "torchaudio"])
def test_free_running_labels_and_waveforms_are_those_of_the_project(load: Load, case: str, backend: str) -> None:
    for wave, overrides in CHECKPOINTS[case][1].items():
        vocoder, golden = load(case, backend, **overrides)
        if backend != "torch":
            labels = vocoder.labels(golden["mel"], uniforms=golden["uniforms"])
            assert np.array_equal(labels, golden["free_labels"])
        request = Request(golden["mel"], uniforms=golden["uniforms"], samples=min(len(golden[wave]), STEPS[backend]))
        waveform = vocoder.submit(request).result()
        np.testing.assert_allclose(waveform, golden[wave][: len(waveform)], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixtures_run_free(load: Load, backend: str) -> None:
    vocoder, golden = load("coqui_mold", backend)
    mel = golden["mel"][:, :4]
    samples = vocoder.labels(mel, seed=1)
    assert samples.dtype == np.float32
    assert samples.shape == (4 * vocoder.config.audio.hop_length,)
    assert np.abs(samples).max() <= 1
    assert np.array_equal(vocoder.vocode(mel, seed=1), samples)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_every_family_has_equal_bits_alone_in_a_batch_and_as_a_stream(load: Load, case: str) -> None:
    vocoder, golden = load(case, "onnxruntime")
    mels = [golden["mel"][:, :count] for count in (8, 1, 3, 6)]
    alone = [vocoder.vocode(mel, seed=seed) for seed, mel in enumerate(mels)]
    together = vocoder.vocode_batch(mels, seeds=range(4))
    streamed = [np.concatenate(list(vocoder.stream(mel, seed=seed))) for seed, mel in enumerate(mels)]
    for one, other, pieces in zip(alone, together, streamed, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, pieces)
