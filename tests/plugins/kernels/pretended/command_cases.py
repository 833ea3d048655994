"""Launches of the timing parts of ``wavernn_trt.scripts.gpu``, on small models and the pretended driver.

../test_pretended_driver.py runs this in a process that finds that driver. Times have no meaning here: tested are the
calls of the driver, and what is recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.scripts.gpu import speed, timed_chunks
from wavernn_trt.scripts.gpu.cases import STANDARD, kernels_with, univoc_shape
from wavernn_trt.scripts.gpu.findings import FindingsFile
from wavernn_trt.scripts.gpu.results import timed_rows

MODEL = "univoc-896"
BATCHES = (1, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models and chunks that a few threads compute in milliseconds; a current context."""
    monkeypatch.setitem(STANDARD, MODEL, dataclasses.replace(STANDARD[MODEL], shape=univoc_shape(16, 24, 64)))
    for name, value in (("CHUNK_STEPS", 4), ("LESS_STEPS", 3), ("SHORT_STEPS", 2), ("SHORT_RUNS", 1), ("RUNS", 2)):
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(timed_chunks, "WARM_UP", 0)
    monkeypatch.setattr(speed, "PATIENCE", 600.0)
    with primary_context():
        yield


@pytest.fixture
def findings(tmp_path: Path) -> FindingsFile:
    return FindingsFile(tmp_path / "findings.jsonl", "speed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(tmp_path_factory.mktemp("cubins"))


@pytest.mark.parametrize("kernel", kernels_with("fp16"))
def test_the_best_number_of_groups_is_found(findings: FindingsFile, cache: KernelCache, kernel: str) -> None:
    speed.time_kernel(findings, cache, kernel, MODEL, "fp16", BATCHES, kernel)
    found = findings.read()
    assert [one.status for one in found] == ["noted"] * len(BATCHES), [one.text for one in found]
    assert [(one.kernel, one.numbers["batch"], one.numbers["steps"]) for one in timed_rows(found)] == [
        (kernel, batch, 4) for batch in BATCHES
    ]
    for one in found:
        assert len(one.numbers["repeats"]) == 2
        assert one.numbers["samples_per_second"] > 0


def test_a_wrong_kernel_is_not_timed(
    findings: FindingsFile, cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = timed_chunks.decode_sequence

    def other(*arguments: object) -> dict[str, np.ndarray]:
        found = decode(*arguments)  # type: ignore[arg-type]
        return {**found, "samples": found["samples"] ^ 1}

    monkeypatch.setattr(timed_chunks, "decode_sequence", other)
    speed.time_kernel(findings, cache, "stepped", MODEL, "fp16", (8,), "stepped")
    (found,) = findings.read()
    assert (found.status, found.kernel) == ("failed", "stepped")
    assert "8 of 8 labels of the first step are wrong" in found.text


@pytest.mark.parametrize(
    ("kernel", "cycles"),
    [("resident_stamped_8", {"layer 0": 10.0, "draw": 10.0, "step": 40960.0}), ("stepped", {"layer 0": 10.0})],
)
def test_the_trace_build_is_read(
    findings: FindingsFile, cache: KernelCache, kernel: str, cycles: dict[str, float]
) -> None:
    speed.trace(findings, cache, kernel, MODEL, (1,))
    (found,) = findings.read()
    assert (found.status, found.kernel) == ("noted", f"{kernel} trace"), found.text
    assert cycles.items() <= found.numbers["cycles"].items()


def test_a_chunk_is_launched_for_a_profiler(cache: KernelCache) -> None:
    speed.launch_once(cache, "stepped", MODEL, "fp16", 8)
