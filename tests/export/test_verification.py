"""``export --verify``: a finished decoder file is held to the PyTorch modules, through polygraphy."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch's")
pytest.importorskip("polygraphy", reason="decoder files are compared by polygraphy")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from wavernn_trt.export import export, read_checkpoint, verification
from wavernn_trt.export.exporter import rewrite
from wavernn_trt.export.rewrite.check import Agreement
from wavernn_trt.export.step_graph import export_networks

AUDIO = {"hop_length": 6, "win_length": 24, "n_fft": 64}


@pytest.mark.parametrize(
    ("family", "mode", "outputs"), [("univoc", None, 0), ("fatchord", "MOL", 30), ("coqui", "gauss", 2)]
)
def test_a_decoder_passes_against_its_own_modules_only(
    family: str, mode: str | None, outputs: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(family)
    if mode is not None:
        give_outputs(file, outputs)
    checkpoint = read_checkpoint(file, **AUDIO, **({} if mode is None else {"mode": mode}))
    model, audio = checkpoint.model, checkpoint.audio
    export(checkpoint, tmp_path / "voice", steps=12, batch=2)
    _, fused, _ = rewrite(export_networks(model, audio.n_mels), model.config, audio)

    def verified() -> Agreement:
        decoder = tmp_path / "voice" / "decoder.onnx"
        (agreement,) = verification.verify_decoder(decoder, model, fused, model.config, audio, steps=12, batch=2)
        return agreement

    agreement = verified()
    assert agreement.passed
    assert (agreement.what, agreement.steps) == ("decoder.onnx, ONNX Runtime", 12)
    assert agreement.samples == (24 if mode is None else None)
    with torch.no_grad():
        for weights in model.step.parameters():
            weights *= 1.01
    assert not verified().passed


def give_outputs(file: Path, outputs: int) -> None:
    """Changes the last layer of a checkpoint with a class for each label to that of a mixture."""
    stored = torch.load(file, weights_only=True)
    weights = stored.get("model", stored)
    for name in ("fc3.weight", "fc3.bias"):
        weights[name] = weights[name][torch.arange(outputs) % len(weights[name])]
    torch.save(stored, file)


@pytest.mark.gpu
def test_tensorrt_is_compared_where_a_gpu_is(univoc: Path, tmp_path: Path) -> None:
    if not verification._tensorrt_runs():
        pytest.skip("needs a GPU that PyTorch sees, and TensorRT")
    result = export(read_checkpoint(univoc, **AUDIO), tmp_path / "voice", steps=12, batch=2, verify=True)
    assert [one.what for one in result.agreements[-2:]] == ["decoder.onnx, ONNX Runtime", "decoder.onnx, TensorRT"]
