"""The checks of kernels on a GPU, run on the host build: correct kernels pass, wrong ones fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_checks import Checks, HostRunner, small_model
from kernel_cases import GruCase, SequenceCase, small_shapes

from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.scripts.gpu.cases import STANDARD, Arrays, kernels_with

CASE = SequenceCase(small_shapes()["one layer, labels"], "fp16", 9, steps=6)


class FaultyRunner(HostRunner):
    """Host build with one injected fault."""

    captures = True
    fault = ""

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> Any:
        found = super().gru_cell(case, inputs)
        if self.fault == "cell":
            found[-1, -1] = np.nan
        return found

    def sequence(self, case: SequenceCase, inputs: Any, *, choice: Choice, captured: bool = False) -> Arrays:
        found = super().sequence(case, inputs, choice=choice)
        if self.fault == "graph" and captured:
            found["hidden_out"] = np.nextafter(found["hidden_out"], np.float32(2))
        if self.fault == "batch" and case.batch == 1:
            found["hidden_out"] = np.nextafter(found["hidden_out"], np.float32(2))
        if self.fault == "chunk" and case.steps == 3:
            found["previous_out"] = (found["previous_out"] + 1) % case.shape.outputs
        return found


@pytest.fixture(scope="module")
def faulty(host_build: Path) -> FaultyRunner:
    return FaultyRunner(host_build)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("", ""),
        ("cell", "of the tolerance"),
        ("graph", "a CUDA graph: "),
        ("batch", r"streams \[0\]: "),
        ("chunk", "two chunks: "),
    ],
)
def test_a_wrong_kernel_fails_the_check(
    faulty: FaultyRunner, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    checks, kernel = Checks(faulty), kernels_with("fp16")[0]
    monkeypatch.setattr(faulty, "fault", fault)
    calls: dict[str, Callable[[], object]] = {
        "cell": lambda: checks.cell(GruCase(3, 7)),
        "graph": lambda: checks.chunk(kernel, CASE),
        "batch": lambda: checks.chunk_slots(kernel, CASE),
        "chunk": lambda: checks.chunk_cuts(kernel, CASE),
    }
    if not fault:
        for call in calls.values():
            call()
        return
    with pytest.raises(AssertionError, match=words):
        calls[fault]()


@pytest.mark.parametrize("kernel", kernels_with("fp16"))
def test_the_host_build_passes_every_check(host_build: Path, kernel: str) -> None:
    checks, second = Checks(HostRunner(host_build)), HostRunner(host_build)
    assert checks.chunk(kernel, CASE) <= 1
    checks.chunk_slots(kernel, CASE)
    checks.chunk_cuts(kernel, CASE)
    assert checks.chunk_beside(second, kernel, CASE) == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", STANDARD)
def test_a_long_chunk_follows_the_reference_that_is_fed_with_its_samples(
    faulty: FaultyRunner, name: str, precision: Any
) -> None:
    checks, steps = Checks(faulty), 100
    case = (small_model(name), precision, 2, steps)
    kernels = kernels_with(precision)[:2]
    for kernel in kernels:
        checks.full_cuts(kernel, *case)
    for kernel in kernels:
        assert checks.full(kernel, *case).excess <= 1
    reference = checks._reference(*case)
    samples = reference.found[kernels[0]]["samples"].copy()
    assert samples.shape == (2, steps)
    reference.found["other"] = {**reference.found[kernels[0]], "samples": np.roll(samples, 1, axis=1)}
    with pytest.raises(AssertionError, match="displaced"):
        checks.full("other", *case)


def test_the_small_graphs_compute_what_the_references_do() -> None:
    pytest.importorskip("onnx", reason="graphs are ONNX graphs")
    pytest.importorskip("onnxruntime", reason="a plan is compared with ONNX Runtime")
    from gpu_graphs import cell_graph, onnx_runtime, sequence_graph
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator
    from onnx_reference import OPERATORS

    from wavernn_trt.plugins.reference import gru_cell

    graph, inputs = cell_graph()
    weights = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    gates = inputs["x"] @ weights["input_weight"]
    expected = gru_cell(gates, inputs["hidden"], weights["recurrent_weight"], weights["recurrent_bias"])
    np.testing.assert_allclose(onnx_runtime(graph.SerializeToString(), inputs), expected, atol=1e-5)

    case = SequenceCase(small_shapes()["one layer, labels"], steps=5)
    values = case.inputs()
    graph, inputs = sequence_graph(case, values)
    found = ReferenceEvaluator(graph, new_ops=list(OPERATORS)).run(None, inputs)
    reference = case.expected(values)
    for operand, value in zip(case.shape.outputs_of_node(), found, strict=True):
        np.testing.assert_array_equal(value, reference[operand.name])
