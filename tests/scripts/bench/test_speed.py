"""The command ``bench`` and its scenario ``speed``, in short measurements."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench import backends as bench_backends
from wavernn_trt.scripts.bench import peers as bench_peers
from wavernn_trt.scripts.bench import speech as bench_speech
from wavernn_trt.scripts.bench import vocoder_turn
from wavernn_trt.scripts.bench.options import add_parser
from wavernn_trt.scripts.bench.report_file import SCHEMA

Bench = Callable[..., tuple[int, str, str]]
SMALL = ("--seconds", "0.04", "--repeats", "2", "-q", "--model", SMALL_VOICE)


@pytest.mark.slow
def test_every_repeat_is_in_the_report_and_its_figures_agree(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("torch", reason="PyTorch is what is compared with")
    options = ("--batch", "1,3", "--threads", "1", "--peers", "loop", "--price", "2")
    options = (*options, "--backend", "onnxruntime,torch")
    code, out, err = bench(*SMALL, *options, "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [(result["subject"], result["batch"]) for result in report["results"]] == [
        (subject, batch) for batch in (1, 3) for subject in ("onnxruntime", "torch", "pytorch loop")
    ]
    assert report["machine"]["cores"] >= 1
    assert report["schema"] == SCHEMA
    assert datetime.fromisoformat(report["date"]).utcoffset() == timedelta(0)
    assert {"python", "wavernn-trt", "onnxruntime", "torch", "numpy"} <= set(report["versions"])
    assert report["missing"] == {}
    operations = 2 * report["model"]["multiply_adds"]
    for result in report["results"]:
        repeats = result["repeats"]
        assert len(repeats["elapsed"]) == 2
        speed = median(result["samples"] / elapsed for elapsed in repeats["elapsed"])
        assert result["samples_per_second"] == speed
        assert result["slowest"] <= speed <= result["fastest"]
        assert result["flops"] == operations * speed
        assert result["real_time_factor"] == 16000 / speed
        assert result["cost"] == pytest.approx(2 * 1000 * 16000 / speed)
        assert result["place"] == "cpu"
        assert result["precision"] == ("fp64" if result["subject"] == "torch" else "fp32")
        assert result["weight_bytes_a_step"] == operations // 2 * (8 if result["subject"] == "torch" else 4)
        moved = result["weight_bytes_a_step"] * speed / result["batch"]
        assert result["weight_bytes_per_second"] == pytest.approx(moved)
        assert result["share_of_limit"] == median(result["shares"])
        assert result["share_of_copy"] > 0
        if result["subject"] == "pytorch loop":
            assert result["first_chunk_seconds"] is result["chunk_seconds"] is result["chunk_samples"] is None
            assert set(result["times"]) == {"pytorch loop", "onnxruntime"}
            assert result["times"]["pytorch loop"] == 1.0
        else:
            assert 0 < result["first_chunk_seconds"] <= max(repeats["elapsed"])
            assert result["chunk_seconds"] == median(repeats["chunk"]) <= max(repeats["elapsed"])
            assert result["chunk_samples"] == 320
            assert result["times"]["pytorch loop"] > 0
    assert {name: np.shape(rows) for name, rows in report["limit"]["repeats"].items()} == {
        "onnxruntime": (2, 2),
        "numpy": (2, 2),
    }
    assert np.shape(report["copy"]["repeats"]) == (2, 2)
    assert report["copy"]["bytes_per_second"] == median(np.ravel(report["copy"]["repeats"]))
    for word in ("samples/s", "RTF", "GFLOP/s", "GB/s", "pytorch loop", "x loop", "USD by onnxruntime"):
        assert word in out


def test_the_chunk_time_of_a_repeat_excludes_earlier_chunks(tiny_vocoder: Vocoder, tiny_mel: Any) -> None:
    vocoder = vocoder_turn.metered(tiny_vocoder, 2)
    for _ in range(100):
        vocoder.executor.count(2, 60.0)  # slow chunks of the warm-up
    repeat = vocoder_turn._vocode(vocoder, tiny_mel(9), 2)
    assert repeat.chunk is not None
    assert 0 < repeat.chunk < 30


@pytest.mark.slow
def test_without_torch_its_subjects_are_reported_as_not_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench_backends, bench_peers):
        monkeypatch.setattr(module, "has_torch", lambda: False)
    code, out, _ = bench(*SMALL, "--batch", "2")
    assert code == 0
    lines = [line for line in out.splitlines() if line.endswith("not measured: torch is not installed")]
    assert [line.split("  ")[0] for line in lines] == ["torch", "pytorch loop", "univoc"]
    assert "x loop" not in out


@pytest.mark.nightly
def test_a_random_model_of_a_standard_size_is_measured(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("torch", reason="exporting needs PyTorch")
    pytest.importorskip("onnx", reason="exporting needs ONNX")
    arguments = ("--random", "fatchord-512", "--backend", "onnxruntime", "--peers", "none", "--batch", "1")
    code, _, err = bench(*SMALL, *arguments, "--threads", "1", "--json", tmp_path / "bench.json")
    assert code == 0, err
    model = json.loads((tmp_path / "bench.json").read_text())["model"]
    assert (model["family"], model["hidden_size"], model["layers"], model["outputs"]) == ("fatchord", 512, 2, 512)
    assert (model["name"], model["random"]) == ("fatchord-512", "fatchord-512")
    assert "path" not in model
    assert model["multiply_adds"] == 3 * 512**2 * 3 + 3 * 512**2


@pytest.mark.parametrize("family", ["univoc", "fatchord", "coqui", "torchaudio"])
def test_the_plain_loop_steps_every_family(shared_data: Path, family: str) -> None:
    torch = pytest.importorskip("torch", reason="the loop is PyTorch's")
    from wavernn_trt.export import CheckpointError, read_checkpoint
    from wavernn_trt.scripts.bench.pytorch_peers import plain_loop

    read = 0
    for path in sorted(path for path in (shared_data / "oracles").rglob("*") if path.suffix in (".pt", ".pyt", ".pth")):
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError:
            continue
        if checkpoint.model.config.family != family:
            continue
        read += 1
        rows = torch.randn(5, checkpoint.model.config.columns)
        values = plain_loop(checkpoint.model, rows, 1)
        assert len(values) == 5
        assert all(isinstance(value, int | float) for value in values)
        assert np.shape(plain_loop(checkpoint.model, rows, 3)) == (5, 3)
    if not read:
        pytest.skip(f"the oracles hold no {family} checkpoint that reads without options")


@pytest.mark.parametrize("log", ["decibel", "natural"])
def test_random_mels_are_valid_for_both_logarithms(tiny_vocoder: Any, log: str) -> None:
    from wavernn_trt.runtime.mel import check_mel

    config = tiny_vocoder.config
    audio: AudioConfig = dataclasses.replace(config.audio, log=log)
    vocoder = type("Stub", (), {"config": dataclasses.replace(config, audio=audio)})()
    mel = bench_speech.noise_mel(vocoder, 0.1)
    assert check_mel(mel, audio).shape == (audio.n_mels, 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "abacus"), "expected some of native,onnxruntime,torch,tensorrt,tensorrt-rtx,cuda,native-fp32"),
        (("--batch", "1,x"), "expected a positive integer"),
        (("--batch", "8:2"), "found '8:2', expected the smaller number first: 2:8"),
        (("--precision", "fp16"), "expected one on a GPU"),
        (("--price", "0"), "expected a positive number"),
        (("--currency", "EUR"), "--currency: found it without --price"),
        (("--scenario", "stream", "--price", "1"), "expected --scenario speed or --scenario batch"),
        (("--random", "huge"), "univoc-896"),
        (("--random", "univoc-896", "--model", "x"), "not allowed with"),
        (("--json", "."), "--json: found the folder ., expected a file's name"),
        (("--utterances", "5"), "--utterances: found it with --scenario speed, expected --scenario batch"),
        (("--scenario", "stream", "--plot", "x.png"), "--plot: found it with --scenario stream"),
        (("--scenario", "batch", "--batch", "4,8"), "--batch: found 4,8, expected one number"),
        (("--scenario", "batch", "--lengths", "2:1"), "expected seconds from the shortest to the longest"),
        (("--scenario", "batch", "--verify", "some"), "expected an integer from 0 on, or all"),
        (("--scenario", "batch", "--mels", "nowhere.npy"), "--mels: nowhere.npy: No such file"),
    ],
)
def test_wrong_usage_exits_2(bench: Bench, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("module", "package"), [("pynvml", "nvidia-ml-py"), ("psutil", "psutil")])
def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    code, out, err = bench(*SMALL)
    assert (code, out) == (2, "")
    assert f"bench needs {package}; install it with: pip install '.[bench]'" in err


@pytest.mark.parametrize(
    ("text", "batches"), [("1,8,32", (1, 8, 32)), ("3:20", (3, 6, 12, 20)), ("1,2:8,8", (1, 2, 4, 8))]
)
def test_batches_are_numbers_and_doubled_ranges(text: str, batches: tuple[int, ...]) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    assert parser.parse_args(["bench", "--batch", text]).batch == batches
