"""Random models of each family compute what the projects' own modules compute."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the families are PyTorch modules")

from torch.nn import functional

from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint

SMALL = {"rnn": 24, "fc": 20, "hidden": 12, "output": 16, "blocks": 2}
FULL = {"rnn": 512, "fc": 512, "hidden": 128, "output": 128, "blocks": 10}


def _inputs(n_mels: int, frames: int, hop_length: int, batch: int = 2) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    mel = torch.rand(batch, n_mels, frames, generator=generator) * 2 - 1
    return mel, torch.rand(batch, frames * hop_length, generator=generator) * 2 - 1


def _assert_equal(ours: Any, theirs: Any) -> None:
    tolerance = 2e-5 * max(1.0, float(theirs.abs().max()))
    np.testing.assert_allclose(ours.transpose(0, 1).numpy(), theirs.numpy(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "scales", "kernel_size", "frames"),
    [
        (SMALL, [5, 5, 11], 5, 5),
        (SMALL, [2, 3], 3, 7),
        (SMALL, [7], 9, 1),
        (SMALL, [1, 4], 5, 3),
        (FULL, [5, 5, 8], 5, 2),
    ],
)
def test_torchaudio(
    sizes: dict[str, int],
    scales: list[int],
    kernel_size: int,
    frames: int,
    upstream: ModuleType,
    reference: ModuleType,
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    hop_length, pad = int(np.prod(scales)), (kernel_size - 1) // 2
    theirs = upstream.torchaudio_wavernn()(
        scales,
        n_classes=256,
        hop_length=hop_length,
        n_res_block=sizes["blocks"],
        n_rnn=sizes["rnn"],
        n_fc=sizes["fc"],
        kernel_size=kernel_size,
        n_freq=80,
        n_hidden=sizes["hidden"],
        n_output=sizes["output"],
    )
    reference.randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = read_checkpoint(tmp_path / "model.pth")
    assert ours.model.config.family == "torchaudio"
    assert ours.audio.hop_length == hop_length
    mel, previous = _inputs(80, frames, hop_length)
    with torch.no_grad():
        expected = theirs(previous[:, None], functional.pad(mel, (pad, pad))[:, None])[:, 0]
    _assert_equal(
        reference.teacher_forced(ours.model, reference.utterance(ours.model, mel, hop_length), previous.T), expected
    )


@pytest.mark.parametrize(
    ("mode", "use_aux_net", "use_upsample_net", "frames", "sizes"),
    [
        (10, True, True, 1, SMALL),
        ("mold", True, True, 6, SMALL),
        ("gauss", True, False, 6, SMALL),
        (10, False, True, 6, SMALL),
        ("mold", False, False, 1, SMALL),
        ("mold", True, True, 2, FULL),
    ],
)
def test_coqui(
    mode: Any,
    use_aux_net: bool,
    use_upsample_net: bool,
    frames: int,
    sizes: dict[str, int],
    upstream: ModuleType,
    reference: ModuleType,
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    factors, pad = [4, 8, 8], 2
    theirs = upstream.coqui_wavernn(
        256,
        rnn_dims=sizes["rnn"],
        fc_dims=sizes["fc"],
        compute_dims=sizes["hidden"],
        res_out_dims=sizes["output"],
        num_res_blocks=sizes["blocks"],
        use_aux_net=use_aux_net,
        use_upsample_net=use_upsample_net,
        upsample_factors=factors,
        mode=mode,
        pad=pad,
    )
    reference.randomise(theirs)
    torch.save({"model": theirs.state_dict(), "optimizer": {}, "step": 1}, tmp_path / "best_model.pth")
    ours = read_checkpoint(tmp_path / "best_model.pth", mode=mode)
    assert ours.model.config.family == "coqui"
    assert ours.audio.hop_length == 256
    mel, previous = _inputs(80, frames, 256)
    with torch.no_grad():
        expected = theirs(previous, functional.pad(mel, (pad, pad)))
    _assert_equal(reference.teacher_forced(ours.model, reference.utterance(ours.model, mel, 256), previous.T), expected)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_mels": 20, "conditioning_size": 6, "embedding_dim": 8, "rnn_size": 24, "fc_size": 20, "bits": 8},
        {"n_mels": 80, "conditioning_size": 128, "embedding_dim": 256, "rnn_size": 896, "fc_size": 1024, "bits": 10},
    ],
)
def test_univoc(sizes: dict[str, int], upstream: ModuleType, reference: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = upstream.univoc_vocoder()(**sizes, hop_length=50, sr=16000)
    reference.randomise(theirs)
    torch.save({"model": theirs.state_dict(), "step": 1}, tmp_path / "model-1.pt")
    ours = read_checkpoint(tmp_path / "model-1.pt", preset="univoc-0.2", hop_length=50)
    assert ours.model.config.family == "univoc"
    mel, _ = _inputs(sizes["n_mels"], 4, 50)
    labels = torch.randint(0, 2 ** sizes["bits"], (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(labels, mel.transpose(1, 2))
    _assert_equal(reference.teacher_forced(ours.model, reference.utterance(ours.model, mel, 50), labels.T), expected)
