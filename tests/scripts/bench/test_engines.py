"""Engines in ``bench``: the batches that they support, and the reasons why one is not measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.engines.gpu import driver_state

Bench = Callable[..., tuple[int, str, str]]
SMALL = ("--seconds", "0.04", "--repeats", "1", "--threads", "1", "--peers", "none", "-q", "--model", SMALL_VOICE)


@pytest.fixture
def reported(bench: Bench, tmp_path: Path) -> Callable[..., tuple[int, Any, str]]:
    """A function (arguments of ``bench``) -> the exit code, the report as JSON and as text."""

    def run(*arguments: object) -> tuple[int, Any, str]:
        file = tmp_path / "bench.json"
        code, out, err = bench(*arguments, "--json", file)
        assert err == "" or code
        return code, json.loads(file.read_text()), out

    return run


@pytest.fixture
def machine(simulated_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a simulated GPU, whose engine cache is that of ``store``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_an_engine_is_measured_with_the_batches_that_it_supports(
    reported: Callable[..., tuple[int, Any, str]],
    store: Callable[..., None],
) -> None:
    store(batch=(2, 3, 4))
    code, report, out = reported(*SMALL, "--backend", "onnxruntime,tensorrt-rtx", "--batch", "1,2,4")
    assert code == 0
    measured = [(result["subject"], result["batch"]) for result in report["results"]]
    assert [batch for subject, batch in measured if subject == "onnxruntime"] == [1, 2, 4]
    assert [batch for subject, batch in measured if subject == "tensorrt-rtx"] == [2, 4]
    assert "not for a batch of 1" in report["missing"]["tensorrt-rtx, batch 1"]
    assert "tensorrt-rtx, batch 1  not measured: no engine of" in out
    held = {result["subject"]: result for result in report["results"]}
    assert (held["tensorrt-rtx"]["place"], held["tensorrt-rtx"]["precision"]) == ("gpu", "fp16")
    assert held["tensorrt-rtx"]["weight_bytes_a_step"] == held["onnxruntime"]["weight_bytes_a_step"] / 2
    assert held["onnxruntime"]["engine"] is None
    assert f"tensorrt-rtx, batch 4: {held['tensorrt-rtx']['engine']}" in out
    assert "tensorrt-rtx (GPU fp16)" in out
    assert held["tensorrt-rtx"]["share_of_limit"] is held["tensorrt-rtx"]["share_of_copy"] is None
    assert report["missing"]["gpu limit"].startswith("not measured: torch")
    assert {result["chunk_samples"] for result in report["results"] if result["subject"] == "tensorrt-rtx"} == {40}
    assert len(report["loads"]["tensorrt-rtx"]["repeats"]) == len(report["loads"]["onnxruntime"]["repeats"])


@pytest.mark.usefixtures("machine")
def test_an_engine_that_supports_none_of_the_batches_is_measured_with_its_own(
    reported: Callable[..., tuple[int, Any, str]],
    store: Callable[..., None],
) -> None:
    store(batch=(3, 3, 3))
    _, report, _ = reported(*SMALL, "--backend", "tensorrt-rtx", "--batch", "1,2")
    assert [result["batch"] for result in report["results"] if result["subject"] == "tensorrt-rtx"] == [3]
    assert all(
        len(rounds[0]) == len({r["batch"] for r in report["results"]}) for rounds in report["limit"]["repeats"].values()
    )


@pytest.mark.usefixtures("machine")
def test_a_job_fills_the_slots_of_an_engine(
    reported: Callable[..., tuple[int, Any, str]],
    store: Callable[..., None],
) -> None:
    store(batch=(3, 3, 3), steps=80)
    options = ("--scenario", "batch", "--utterances", "9", "--lengths", "0.03:0.1", "-q", "--model", SMALL_VOICE)
    code, report, out = reported(*options, "--backend", "tensorrt-rtx")
    assert code == 0, out
    (result,) = report["results"]
    assert (result["slots"], result["chunk"], result["lanes"]) == (3, 80, 1)
    assert result["engine"] is not None
    assert f"tensorrt-rtx ({result['engine']}): 3 slots" in out
    assert result["alone"] == {"compared": 9, "beginnings": 0, "different": []}


@pytest.mark.slow
@pytest.mark.skipif(driver_state().reason is None, reason="this machine has a GPU")
def test_without_a_gpu_its_backends_are_reported_with_the_reason(
    reported: Callable[..., tuple[int, Any, str]],
) -> None:
    code, report, out = reported(*SMALL, "--backend", "onnxruntime,tensorrt-rtx", "--batch", "1")
    assert code == 0
    assert report["missing"]["tensorrt-rtx"].startswith("not measured: no GPU: ")
    assert "vocode" not in report["missing"]["tensorrt-rtx"]
    assert "tensorrt-rtx  not measured: no GPU" in out
    code, report, out = reported("--scenario", "stream", "--backend", "tensorrt", "-q")
    assert code == 1
    assert report["results"] == []
    assert "tensorrt: not measured: no GPU" in out

    code, report, _ = reported(*SMALL, "--backend", "onnxruntime,cuda", "--precision", "fp16", "--batch", "1")
    assert code == 0
    assert report["missing"]["cuda"].startswith("not measured: ")
    assert [result["subject"] for result in report["results"]] == ["onnxruntime"]
    assert report["precision"] == "fp16"
    code, report, _ = reported(*SMALL, "--backend", "cuda", "--batch", "1")
    assert (code, report["results"]) == (1, [])
