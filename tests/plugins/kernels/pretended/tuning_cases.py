"""A kernel that fails when it is timed is named, noted, and left out from then on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wavernn_trt.plugins import driver, tuning
from wavernn_trt.plugins.choice_table import ChoiceTable
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_kernels import primary_context
from wavernn_trt.plugins.device_stream import on_device
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_cases import SequenceCase, small_shapes
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.stepped_form import SteppedForm
from wavernn_trt.plugins.stored_weights import store_operands

CASE = SequenceCase(small_shapes()["two layers, skip, values"], "fp16", 3, steps=4)


@pytest.fixture
def weights() -> Iterator[list[int]]:
    """Device addresses."""
    with primary_context():
        values, _ = store_operands(CASE.shape.weight_inputs(), CASE.inputs(), "fp16")
        with on_device(values) as (addresses, _):
            yield addresses


def measure(kernel: SequenceKernel, weights: list[int]) -> Any:
    return tuning.measure_kernels(kernel, CASE.batch, weights, window=CASE.window, steps=4, repeats=1)


def test_a_kernel_that_writes_nothing_does_not_win(
    weights: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even behind others, whose samples lie where its own should."""
    monkeypatch.setattr(tuning, "PRUNED", math.inf)
    monkeypatch.setattr(SteppedForm, "launch", lambda *_: None)
    kernel = SequenceKernel(CASE.shape, "fp16", KernelCache(tmp_path))
    with pytest.raises(KernelError, match=r"stepped, 1 group of blocks failed when it was timed: its chunk has"):
        measure(kernel, weights)
    assert not tuning.is_measured(kernel, CASE.batch)
    assert all(choice.kernel != "stepped" for choice in measure(kernel, weights))
    assert tuning.is_measured(kernel, CASE.batch)
    _, device = driver.current_device()
    table = ChoiceTable(tmp_path).find(CASE.shape, "fp16", CASE.batch, device)
    assert [choice.kernel for choice, time in table.items() if math.isinf(time)] == ["stepped"]


def test_what_failed_is_not_decoded_with(weights: list[int], tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    kernel = SequenceKernel(CASE.shape, "fp16", cache)
    _, device = driver.current_device()
    best = kernel.choice(CASE.batch)
    ChoiceTable(tmp_path).keep(CASE.shape, "fp16", CASE.batch, device, {best: math.inf})
    assert SequenceKernel(CASE.shape, "fp16", cache).choice(CASE.batch) != best
    kernel.learn(device, CASE.batch, {best: math.inf})
    assert kernel.choice(CASE.batch) != best


def test_who_waited_for_another_process_takes_what_it_measured(
    weights: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KernelCache(tmp_path)
    kernel = SequenceKernel(CASE.shape, "fp16", cache)
    before = kernel.choice(CASE.batch)
    _, device = driver.current_device()
    other = next(choice for choice in measure(SequenceKernel(CASE.shape, "fp16", cache), weights) if choice != before)
    ChoiceTable(tmp_path).keep(CASE.shape, "fp16", CASE.batch, device, {other: 1.0})
    with tuning.measuring_alone(kernel):
        assert tuning.is_measured(kernel, CASE.batch)
        kernel.forget()
    assert kernel.choice(CASE.batch) == other
