"""Engines of quantised model directories compute what the directory does, and TensorRT multiplies in eight bits."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from decoder_graphs import Values, chunk_of, run_graph

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.engines import plan_names
from wavernn_trt.engines.build import build_engine, describe_long_build
from wavernn_trt.engines.cache import EngineCache
from wavernn_trt.engines.graphs import engine_graph, product_weights
from wavernn_trt.engines.plan_names import plan_key, plan_stem
from wavernn_trt.engines.product_precisions import precisions_in_graph
from wavernn_trt.engines.spec import (
    FORMS,
    EngineSpec,
    EngineSpecError,
    Extent,
    able_targets,
    check_grids,
    default_form,
    default_steps,
    describe_rounding,
)
from wavernn_trt.engines.tensorrt_module import build_environment
from wavernn_trt.export.graph_files import write_models
from wavernn_trt.export.model_directory import DECODER, DECODER_LOOP, ModelDirectory, open_model_directory
from wavernn_trt.export.quantization import Grid, Product, Quantization, product_names
from wavernn_trt.runtime.vocoder import shipped_voice

STEPS = 8
CELL = EngineSpec(
    targets=(89, 120), form="cell", steps=STEPS, batch=Extent.of(2), frames=Extent.of("2:8:64"), precision="fp16"
)
NEEDS_RTX = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="plans are built by TensorRT-RTX"
)
Quantized = Callable[..., ModelDirectory]


@pytest.fixture(scope="session")
def quantized(small_directory: Callable[[str], ModelDirectory], tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """A function (layout or ``voice``, grid, names of products or all, weights only) -> a quantised directory."""
    folder = tmp_path_factory.mktemp("quantized")

    @functools.cache
    def written(layout: str, grid: Grid, names: tuple[str, ...], weights_only: bool) -> ModelDirectory:
        plain = open_model_directory(shipped_voice()) if layout == "voice" else small_directory(layout)
        bounds = dict.fromkeys(product_names(plain.model), 8.0) | {"recurrent_0": 1.0, "recurrent_1": 1.0}
        products = {
            name: Product(grid, None if weights_only else bounds[name], weights_only)
            for name in names or product_names(plain.model)
        }
        name = "-".join([layout, grid, *names, "weights" * weights_only])
        return quantize(plain, Quantization(products, "a" * 64), folder / name, steps=4, batch=2)

    def make(
        layout: str, grid: Grid = "int8", names: tuple[str, ...] = (), weights_only: bool = False
    ) -> ModelDirectory:
        return written(layout, grid, names, weights_only)

    return make


def chunk(directory: ModelDirectory) -> Values:
    return chunk_of(directory, steps=STEPS, batch=2)


def run(source: Any, values: Values) -> Values:
    """ONNX Runtime's optimiser removes a Relu in front of a QuantizeLinear of fp8, which has negative codes."""
    return run_graph(source, values, optimise=False)


@pytest.mark.parametrize("kind", [("int8", False), ("fp8", False), ("int8", True)])
@pytest.mark.parametrize("layout", ["univoc", "raw"])
def test_unrolled_for_tensorrt_it_is_the_directorys_decoder(
    quantized: Quantized, layout: str, kind: tuple[Grid, bool]
) -> None:
    directory = quantized(layout, kind[0], (), kind[1])
    values = chunk(directory)
    graph = engine_graph(directory, dataclasses.replace(CELL, precision="fp32"), "decoder")
    onnx.checker.check_model(graph, full_check=True)
    found, expected = run(graph, values), run(str(directory.file(DECODER_LOOP)), values)
    # Sums in another order may round an activation to its neighbour on the grid, and what follows moves by that.
    np.testing.assert_allclose(
        found["samples"], expected["samples"], atol=0 if directory.model.label_feedback else 0.02
    )
    np.testing.assert_allclose(found["hidden_out"], expected["hidden_out"], atol=0.02)
    assert np.abs(found["hidden_out"] - expected["hidden_out"]).mean() < 2e-3


def test_quantised_products_stand_outside_of_cells_and_others_inside(quantized: Quantized) -> None:
    for names, cells in (((), 0), (("fc_0",), STEPS), (("recurrent_0", "output"), 0)):
        graph = engine_graph(quantized("univoc", "fp8", names), CELL, "decoder")
        run(graph, chunk(quantized("univoc", "fp8", names)))  # the function of the cells is of another opset
        counts = Counter(node.op_type for node in graph.graph.node)
        assert counts["CustomGRUPlugin"] == cells
        assert counts["QuantizeLinear"] == STEPS * (len(names) or 3)


def test_the_precision_of_each_product_is_read_from_the_graph(quantized: Quantized) -> None:
    directory = quantized("raw", "int8", ("recurrent_0", "fc_1"))
    graph = engine_graph(directory, CELL, "decoder")
    others = {"input_1": "fp16", "recurrent_1": "fp16", "fc_0": "fp16", "output": "fp16"}
    found = precisions_in_graph(graph, product_weights(directory, "cell"))
    assert found == {"recurrent_0": "int8", "fc_1": "int8", **others}
    assert list(found) == list(product_names(directory.model))
    sequence = engine_graph(directory, dataclasses.replace(CELL, form="sequence", precision="bf16"), "decoder")
    assert set(precisions_in_graph(sequence, product_weights(directory, "sequence")).values()) == {"bf16"}
    own = onnx.load(str(directory.file(DECODER)), load_external_data=False)
    assert precisions_in_graph(own, product_weights(directory)) == found | dict.fromkeys(others, "fp32")


@pytest.mark.parametrize("grid", ["int8", "fp8"])
def test_weights_alone_are_not_products_in_eight_bits(quantized: Quantized, grid: Grid) -> None:
    directory = quantized("univoc", grid, ("fc_0",), True)
    found = precisions_in_graph(engine_graph(directory, CELL, "decoder"), product_weights(directory, "cell"))
    assert found == {"recurrent_0": "fp16", "fc_0": f"{grid} weights", "output": "fp16"}
    own = onnx.load(str(directory.file(DECODER)), load_external_data=False)
    assert precisions_in_graph(own, product_weights(directory))["fc_0"] == f"{grid} weights"


def test_a_step_that_differs_from_the_others_is_reported(quantized: Quantized) -> None:
    graph = engine_graph(quantized("univoc", "int8", ("output",)), CELL, "decoder")
    node = next(node for node in graph.graph.node if node.op_type == "Gemm" and ".activations." in node.input[0])
    node.input[0] = next(one.input[0] for one in graph.graph.node if one.op_type == "QuantizeLinear")
    weights = product_weights(quantized("univoc", "int8", ("output",)), "cell")
    assert precisions_in_graph(graph, weights)["output"] == "int8 and int8 weights"


def test_keys_tell_a_directory_from_its_quantised_copies(
    quantized: Quantized,
    small_directory: Callable[[str], ModelDirectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_names, "tensorrt_version", lambda backend: "1.7.1.116")
    plain, spec = small_directory("univoc"), CELL
    copies = [quantized("univoc"), quantized("univoc", "fp8"), quantized("univoc", "int8", ("fc_0",))]
    other_bound = quantize(plain, Quantization({"fc_0": Product("int8", 4.0)}), tmp_path / "other", steps=4, batch=2)
    everything = (plain, *copies, other_bound)
    assert len({plan_key(one, spec, "decoder") for one in everything}) == 5
    assert len({plan_stem(one, spec, "decoder") for one in everything}) == 5


def test_the_form_follows_from_the_grids(quantized: Quantized) -> None:
    in_halves = Quantization({"output": Product("fp16")})
    weights_only = quantized("univoc", "fp8", ("fc_0",), True).quantization
    for without in (None, in_halves, weights_only):
        assert default_form(without) == "sequence"
        assert [default_steps(form, without) for form in FORMS] == [1024, 1024]
        assert describe_rounding(dataclasses.replace(CELL, form="sequence"), without) is None
        assert able_targets((80, 89, 120), "sequence", without) == (80, 89, 120)
    quantization = quantized("univoc").quantization
    assert default_form(quantization) == "cell"
    assert [default_steps(form, quantization) for form in FORMS] == [1024, 64]
    assert describe_rounding(CELL, quantization) is None
    text = describe_rounding(dataclasses.replace(CELL, form="sequence"), quantization)
    assert text is not None
    assert "products run in fp16 with the rounded weights" in text


def test_fp8_is_refused_where_no_gpu_has_it(quantized: Quantized, tmp_path: Path) -> None:
    directory = quantized("univoc", "fp8")
    spec = dataclasses.replace(CELL, targets=(80, 86, 89))
    with pytest.raises(
        EngineSpecError, match=r"fp8, which TensorRT multiplies in the form cell from .* 89 on; found 80, 86\."
    ):
        build_engine(directory, spec, EngineCache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    assert able_targets((80, 89, 120), "cell", directory.quantization) == (89, 120)
    check_grids(dataclasses.replace(spec, form="sequence"), directory.quantization)  # it computes in fp16 there
    check_grids(spec, quantized("univoc").quantization)


def test_weights_of_fp8_in_cells_are_refused_where_no_gpu_has_it(quantized: Quantized) -> None:
    """TensorRT-RTX 1.7 compiles no model that has any, for targets that multiply none."""
    quantization = quantized("univoc", "fp8", ("fc_0",), True).quantization
    with pytest.raises(EngineSpecError, match=r"weights are fp8, which TensorRT reads in the form cell .*; found 80\."):
        check_grids(dataclasses.replace(CELL, targets=(80, 89)), quantization)
    assert able_targets((80, 89), "cell", quantization) == (89,)


def test_a_build_that_would_take_long_is_warned_of(quantized: Quantized) -> None:
    spec = dataclasses.replace(CELL, steps=1024)
    text = describe_long_build(quantized("univoc"), spec)
    assert text is not None
    assert "building 1024 unrolled steps with products in eight bits may take long: 64 of a univoc of 896" in text
    for weights_only, changes in ((False, {"steps": 64}), (False, {"form": "sequence"}), (True, {})):
        directory = quantized("univoc", "int8", ("fc_0",) if weights_only else (), weights_only)
        assert describe_long_build(directory, dataclasses.replace(spec, **changes)) is None  # type: ignore[arg-type]


@NEEDS_RTX
def test_the_shipped_voice_is_built_in_eight_bits(quantized: Quantized, tmp_path: Path) -> None:
    """In int8; tests/scripts/test_build.py builds it in fp8."""
    directory, grid = quantized("voice", "int8"), "int8"
    spec = dataclasses.replace(CELL, steps=2)
    record = build_engine(directory, spec, EngineCache(tmp_path / "cache")).decoder.record
    assert record.targets == ("sm89", "sm120")
    assert record.products == {"recurrent_0": grid, "fc_0": grid, "output": grid}
    assert record.layers["QUANTIZE"] >= 3 * spec.steps - 1
    assert record.plan_bytes < 10e6


@NEEDS_RTX
def test_products_of_several_precisions_are_built(quantized: Quantized, tmp_path: Path) -> None:
    spec = dataclasses.replace(CELL, targets=(89,))
    engine = build_engine(quantized("raw", "int8", ("recurrent_0", "fc_1")), spec, EngineCache(tmp_path / "cache"))
    mixed = engine.decoder.record
    assert engine.conditioner.record.products is None
    assert mixed.products is not None
    assert Counter(mixed.products.values()) == {"int8": 2, "fp16": 4}
    assert {plugin.name: plugin.count for plugin in mixed.plugins}["CustomGRUPlugin"] == STEPS


@NEEDS_RTX
@pytest.mark.parametrize(("grid", "kind", "target"), [("int8", "Int8", "89"), ("fp8", "FP8", "120")])
def test_tensorrt_keeps_the_products_in_eight_bits(
    quantized: Quantized, tmp_path: Path, grid: Grid, kind: str, target: str
) -> None:
    """After all of its fusions, as its log lists the plan's layers."""
    graph = engine_graph(quantized("univoc", grid), dataclasses.replace(CELL, steps=4), "decoder")
    write_models(tmp_path, {"graph.onnx": graph}, "graph.weights")
    program = Path(__file__).with_name("layers_of_plan.py")
    environment = build_environment("tensorrt_rtx", tmp_path / "lib")
    command = [sys.executable, str(program), str(tmp_path / "graph.onnx"), target]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    products = [line for line in found.stdout.splitlines() if "LayerType: gemm" in line]
    assert len(products) == 3 * 4  # each product of each step
    for line in products:
        assert re.findall(r"Datatype: (\w+)", line)[:2] == [kind, kind]
