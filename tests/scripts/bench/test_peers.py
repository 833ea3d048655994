"""Peers: other implementations that generate with the weights of the measured model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="peers are PyTorch's")
pytest.importorskip("onnx", reason="models are exported to ONNX")

import torch
from small_voice import SMALL_VOICE

from wavernn_trt.export import export, read_checkpoint
from wavernn_trt.export.families.fatchord_layout import from_torchaudio_name, read_layout, to_torchaudio_name
from wavernn_trt.scripts.bench import upstream_peers
from wavernn_trt.scripts.bench.backends import InapplicableError, UnavailableError
from wavernn_trt.scripts.bench.peers import open_peers
from wavernn_trt.scripts.bench.pytorch_peers import CudaGraphsPeer, PlainLoopPeer, check_step
from wavernn_trt.scripts.bench.timing import Peer, PeerError
from wavernn_trt.scripts.bench.upstream_peers import load_module

HOP, RATE = 200, 16000
"""Of the voice that is shipped."""


@pytest.fixture(scope="module")
def fatchord(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory of fatchord's layout."""
    path = tmp_path_factory.mktemp("oracles") / "fatchord_raw"
    return export(shared_data / "oracles" / path.name / "latest_weights.pyt", path, steps=4).directory.path


def opened(path: Path, *peers: str, batches: tuple[int, ...] = (1,)) -> tuple[list[Peer], dict[str, str]]:
    missing: dict[str, str] = {}
    return open_peers(path, peers or None, batches, missing, threads=1, precision=None, on_gpu=False), missing


def needs(package: str) -> None:
    try:
        file = {"univoc": "model.py", "torchaudio": "models/wavernn.py"}[package]
        load_module(package, file, ("importlib_resources", "omegaconf"))
    except UnavailableError as error:
        pytest.skip(str(error))


def test_univoc_generates_with_the_weights_of_the_shipped_voice() -> None:
    needs("univoc")
    (peer,), missing = opened(SMALL_VOICE, "univoc", batches=(1, 8))
    assert missing == {"univoc, other batches": "not measured: it generates 1 stream at a time"}
    timing, run = peer.turn(1, 0.02)
    assert (timing.subject, timing.batch, timing.samples) == ("univoc", 1, 2 * HOP)
    assert run().elapsed > 0


def test_torchaudio_generates_with_the_weights_of_its_layout(fatchord: Path) -> None:
    needs("torchaudio")
    (peer,), missing = opened(fatchord, "torchaudio", batches=(1, 3))
    assert missing == {}
    timing, run = peer.turn(3, 0.0125)
    assert (timing.subject, timing.batch, timing.samples % 3) == ("torchaudio", 3, 0)
    assert run().elapsed > 0


def test_a_peer_whose_logits_differ_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("univoc")

    def with_a_fault(*arguments: Any, **more: Any) -> Any:
        module = load_module(*arguments, **more)
        forward = module.Vocoder.forward
        module.Vocoder.forward = lambda self, x, mels: forward(self, x, 1.01 * mels)
        return module

    monkeypatch.setattr(upstream_peers, "load_module", with_a_fault)
    with pytest.raises(PeerError, match="univoc: with the same weights and samples its logits differ from the model's"):
        opened(SMALL_VOICE, "univoc")
    forced = upstream_peers.TeacherForced(SMALL_VOICE, 1)
    with pytest.raises(PeerError, match=r"of shape \[3, 256\], expected the model's, \[400, 256\]"):
        forced.compare("a peer", torch.zeros(3, 256))


def test_a_peer_for_other_models_is_reported_only_where_the_user_named_it() -> None:
    peers, missing = opened(SMALL_VOICE, batches=(1,))
    assert peers[0].subject == "pytorch loop"
    assert "torchaudio" not in missing
    assert "pytorch graphs" not in missing
    peers, missing = opened(SMALL_VOICE, "torchaudio", "cuda-graphs")
    assert missing["torchaudio"] == "not measured: it generates torchaudio and fatchord models, this is univoc"
    if not torch.cuda.is_available():
        assert peers == []
        assert "finds no GPU" in missing["pytorch graphs"]


def test_a_missing_package_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = upstream_peers.importlib.util.find_spec
    monkeypatch.setattr(
        upstream_peers.importlib.util, "find_spec", lambda name: None if name == "univoc" else find(name)
    )
    peers, missing = opened(SMALL_VOICE)
    assert [peer.subject for peer in peers] == ["pytorch loop"]
    assert missing["univoc"] == "not measured: univoc is not installed (pip install --no-deps univoc)"


def test_a_release_without_the_expected_file_is_reported() -> None:
    with pytest.raises(UnavailableError, match=r"this release of wavernn_trt\.scripts has no models\.py"):
        load_module("wavernn_trt.scripts", "models.py")


def test_names_of_torchaudio_s_tensors_are_converted_both_ways(shared_data: Path) -> None:
    state = read_checkpoint(shared_data / "oracles" / "torchaudio" / "wavernn_small_8bits.pth").state
    ours = {from_torchaudio_name(name): value for name, value in state.items()}
    assert {to_torchaudio_name(name, read_layout(ours).blocks) for name in ours} == set(state)


def test_sizes_that_torchaudio_s_class_does_not_support_are_refused(shared_data: Path) -> None:
    checkpoint = read_checkpoint(shared_data / "oracles" / "fatchord_raw" / "latest_weights.pyt")
    layout = read_layout(checkpoint.state)
    upstream_peers._require_sizes(layout, checkpoint.audio.hop_length)
    for other in (replace(layout, outputs=300), replace(layout, uses_aux=False), replace(layout, fc_sizes=(8, 9))):
        with pytest.raises(InapplicableError, match="its class has no network of these sizes"):
            upstream_peers._require_sizes(other, checkpoint.audio.hop_length)


def test_cuda_graphs_replay_the_model_s_own_step() -> None:
    """Runs the steps one by one on the CPU; no test replays them as a graph on a GPU."""
    peer = CudaGraphsPeer(SMALL_VOICE, "fp32", "cpu")
    timing, run = peer.turn(2, 0.005)
    assert (timing.samples, timing.precision, timing.place) == (2 * 128, "fp32", "cpu")
    assert run().elapsed > 0
    model = read_checkpoint(SMALL_VOICE).model
    model.step.rnn2.forward = lambda x, hidden: hidden  # type: ignore[union-attr, assignment]
    with pytest.raises(PeerError, match="pytorch graphs: a step differs from the model's by"):
        check_step(model)


def test_the_loop_generates_as_many_samples_as_its_timing_has() -> None:
    timing, run = PlainLoopPeer(SMALL_VOICE, 1, "cpu").turn(3, 0.01)
    assert (timing.samples, timing.batch) == (3 * 160, 3)
    assert run().elapsed > 0


def test_peers_are_measured_in_every_round(bench: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    needs("univoc")
    file = tmp_path / "bench.json"
    sizes = ("--batch", "1", "--seconds", "0.02", "--repeats", "2", "--threads", "1", "--backend", "onnxruntime")
    code, out, _ = bench(*sizes, "--peers", "univoc,loop", "-q", "--json", file)
    assert code == 0
    report = json.loads(file.read_text())
    assert report["peers"] == ["univoc", "pytorch loop"]
    assert [len(result["repeats"]["elapsed"]) for result in report["results"]] == [2, 2, 2]
    ours, univoc, _ = report["results"]
    pairs = zip(ours["repeats"]["elapsed"], univoc["repeats"]["elapsed"], strict=True)
    ratios = sorted((ours["samples"] / here) / (univoc["samples"] / there) for here, there in pairs)
    assert ours["times"]["univoc"] == pytest.approx(sum(ratios) / 2)
    assert "x univoc" in out
    code, out, _ = bench(*sizes, "--peers", "none", "-q")
    assert code == 0
    assert "pytorch loop" not in out
    assert "x loop" not in out
