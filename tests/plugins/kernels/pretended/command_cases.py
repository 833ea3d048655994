"""What ``python -m wavernn_trt.scripts.gpu`` launches, on small models, with the driver that pretends.

../test_pretended_driver.py runs this in a process that finds that driver. Times mean nothing here; what is asked of the
driver does, and what is written down of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavernn_trt.plugins.choice_table import FILE, read_rows
from wavernn_trt.plugins.device_kernels import primary_context
from wavernn_trt.plugins.forms import KERNELS
from wavernn_trt.plugins.kernel_cases import SequenceCase
from wavernn_trt.runtime.executors import cuda_executor
from wavernn_trt.runtime.executors.cuda_executor import CudaWish
from wavernn_trt.scripts.gpu import backend, correctness, measuring, speed
from wavernn_trt.scripts.gpu.models import STANDARD, fatchord_shape, univoc_shape
from wavernn_trt.scripts.gpu.tasks import Gate, Outcome, Settings, Task
from wavernn_trt.scripts.gpu.worker import run

BATCH = 8


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and chunks that a few threads compute in no time."""
    shapes = {"univoc-896": univoc_shape(16, 24, 64), "fatchord-512": fatchord_shape(12, 16, 32)}
    for name, shape in shapes.items():
        monkeypatch.setitem(STANDARD, name, dataclasses.replace(STANDARD[name], shape=shape))
    monkeypatch.setattr(correctness, "CHUNK_STEPS", 8)
    monkeypatch.setattr(correctness, "SHORT", 3)
    monkeypatch.setattr(correctness, "SHORT_BATCHES", (3,))
    for name, steps in (("CHUNK_STEPS", 4), ("LESS_STEPS", 3), ("SHORT_STEPS", 2), ("SHORT_RUNS", 1)):
        monkeypatch.setattr(speed, name, steps)
    monkeypatch.setattr(measuring, "RUNS", 1)
    monkeypatch.setattr(measuring, "WARM_UP", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def context() -> Iterator[None]:
    with primary_context():
        yield


def run_all(tasks: list[Task]) -> list[tuple[Task, Outcome]]:
    return [(task, run(task, float("inf"), Gate())) for task in tasks]


def wrong(found: list[tuple[Task, Outcome]]) -> list[str]:
    return [f"{task.subject}, {task.line} {task.name}: {one.text}" for task, one in found if one.status == "failed"]


@pytest.mark.usefixtures("context")
def test_every_kernel_is_launched_first_where_it_is_simplest(folder: Path) -> None:
    tasks = [task for task in correctness.tasks(Settings(folder)) if task.line == correctness.FIRST]
    first = tasks[: len(tasks) // 4]
    assert {task.kernel for task in first} == set(KERNELS)
    assert all(", 7 units, batch 1, 1 steps" in task.name for task in first)
    found = run_all(first)
    assert [outcome.status for _, outcome in found] == ["passed"] * len(first), wrong(found)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_chunks_of_full_size_follow_the_reference(folder: Path, precision: str) -> None:
    kernels = ("resident_stamped_8", "resident_stamped_16")
    lines = ("long chunks", "full sizes")
    every = correctness.tasks(Settings(folder, kernels=kernels))
    tasks = [one for one in every if one.line in lines and one.subject.endswith(precision) and "univoc" in one.name]
    found = run_all(tasks)
    assert not wrong(found)
    passed = {task.kernel for task, outcome in found if outcome.status == "passed"}
    assert passed == set(kernels)


@pytest.mark.usefixtures("context")
def test_the_fastest_kernels_are_found_and_kept(folder: Path) -> None:
    proved = tuple(f"{kernel} fp16" for kernel in KERNELS)
    tasks = speed.tasks(Settings(folder, proved=proved))
    line = f"univoc-896, batch {BATCH}"
    chosen = [one for one in tasks if one.line == line and one.subject.endswith(" fp16")]
    assert [one.kernel for one in chosen] == [*KERNELS, ""]
    found = run_all(chosen)
    assert not wrong(found)
    best = found[-1][1]
    assert best.numbers["kernel"] in KERNELS
    assert best.numbers["step_us"] > 0
    rows = json.loads((folder / "choices.json").read_text())
    assert {row["steps"] for row in rows} == {2, 4}
    (row,) = read_rows(folder / "kernels" / FILE)
    assert (row.sm, row.precisions, row.batch) == ((90, 90), ("fp16",), (BATCH, BATCH))
    assert row.kernel in KERNELS


@pytest.mark.usefixtures("context")
def test_a_wrong_kernel_is_not_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SequenceCase.expected

    def other(case: SequenceCase, inputs: object) -> object:
        found = expected(case, inputs)  # type: ignore[arg-type]
        return {**found, "samples": found["samples"] ^ 1}

    monkeypatch.setattr(SequenceCase, "expected", other)
    tasks = speed.tasks(Settings(folder, proved=("sequence fp16",), kernels=("sequence",)))
    line = f"univoc-896, batch {BATCH}"
    outcome = run(next(one for one in tasks if (one.kernel, one.line) == ("sequence", line)), float("inf"))
    assert outcome.status == "failed"
    assert f"{BATCH} of {BATCH} labels of the first step are wrong" in outcome.text


def test_models_are_loaded_as_users_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx_graphsurgeon", "onnxruntime", "platformdirs"):
        pytest.importorskip(module, reason="a model is opened as users do")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(cuda_executor, "CudaWish", functools.partial(CudaWish, steps=40))
    for name, value in (("frames", 1), ("together", 2), ("batch", 2), ("precision", "fp32")):
        monkeypatch.setattr(backend.Models, name, value)
    monkeypatch.setattr(backend, "REPEATS", 1)
    tasks = [one for one in backend.tasks(Settings(folder)) if one.subject == "shipped voice fp32"]
    found = run_all([one for one in tasks if one.line != "probe and labels"])
    assert [outcome.status for _, outcome in found] == ["passed", "passed", "noted"], wrong(found)
