"""``export --verify`` compares a finished decoder file with the PyTorch modules, through polygraphy."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch's")
pytest.importorskip("polygraphy", reason="decoder files are compared by polygraphy")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from wavernn_trt.export import export, read_checkpoint, verification
from wavernn_trt.export.model_directory import DECODER, open_model_directory
from wavernn_trt.export.rewrite.check import Agreement
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@pytest.mark.parametrize("layout", ["univoc", "mol", "gauss"])
def test_a_decoder_passes_against_its_own_modules_only(layout: str, reference: ModuleType) -> None:
    model, directory = reference.small_checkpoint(layout).model, open_model_directory(MODELS / layout)
    config, audio, shape = directory.model, directory.audio, directory.decoder
    fused = fuse_gates(read_networks(directory), config.input_sizes)

    def verified() -> Agreement:
        decoder = directory.file(DECODER)
        (agreement,) = verification.verify_decoder(decoder, model, fused, config, audio, shape.steps, shape.batch)
        return agreement

    agreement = verified()
    assert agreement.passed
    assert (agreement.what, agreement.steps) == ("decoder.onnx, ONNX Runtime", shape.steps)
    assert agreement.samples == (shape.steps * shape.batch if layout == "univoc" else None)
    with torch.no_grad():
        for weights in model.step.parameters():
            weights *= 1.01
    assert not verified().passed


@pytest.mark.gpu
def test_tensorrt_is_compared_where_a_gpu_is(univoc: Path, tmp_path: Path) -> None:
    if not verification._tensorrt_runs():
        pytest.skip("needs a GPU that PyTorch sees, and TensorRT")
    result = export(
        read_checkpoint(univoc, hop_length=6, win_length=24, n_fft=64),
        tmp_path / "voice",
        steps=12,
        batch=2,
        verify=True,
    )
    assert [one.what for one in result.agreements[-2:]] == ["decoder.onnx, ONNX Runtime", "decoder.onnx, TensorRT"]
