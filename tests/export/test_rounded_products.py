"""Quantised products in ONNX Runtime: exact integers on any CPU, and restored to plain products."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")
gs = pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs quantised products")

from small_voice import SMALL_VOICE

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.grids import encode_weight, round_weight
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import PatternError
from wavernn_trt.export.rewrite.products import find_products
from wavernn_trt.export.rewrite.rounded_products import INTEGER_OPERATOR, restore_products, round_products
from wavernn_trt.runtime.executors.onnx_runtime import open_session

BOUNDS = {"recurrent_0": 1.0, "fc_0": 1.0, "output": 28.0}
KINDS: dict[str, tuple[Grid, bool]] = {
    "int8": ("int8", False),
    "int8 weights": ("int8", True),
    "fp8": ("fp8", False),
    "fp8 weights": ("fp8", True),
    "fp16": ("fp16", False),
    "bf16": ("bf16", False),
}


@pytest.fixture(scope="module")
def voice() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture(scope="module")
def networks(voice: ModelDirectory) -> Networks:
    return read_networks(voice)


def quantization(kind: str) -> Quantization:
    grid, weights_only = KINDS[kind]
    scaled = grid in LARGEST and not weights_only
    return Quantization({name: Product(grid, b if scaled else None, weights_only) for name, b in BOUNDS.items()})


def weights(step: Any, voice: ModelDirectory) -> dict[str, NDArray[np.float32]]:
    return {name: node.inputs[1].values for name, node in find_products(step, voice.model).items()}


def one_product(weight: NDArray[np.float32], bias: NDArray[np.float32] | None, product: Product, folder: Path) -> Any:
    """A session, opened as an executor opens it, of one quantised product x [B, K] -> y [B, N]."""
    outputs, inputs = weight.shape
    x = gs.Variable("hidden_0", np.float32, ("batch", inputs))
    operands = [x, gs.Constant("w", weight), *([] if bias is None else [gs.Constant("b", bias)])]
    y = gs.Variable("y", np.float32, ("batch", outputs))
    # A step has more than one product; the one after this is not tested.
    last = gs.Variable("z", np.float32, ("batch", 1))
    one = gs.Constant("one", np.ones((1, outputs), np.float32))
    nodes = [
        gs.Node("Gemm", "product", {"transB": 1}, operands, [y]),
        gs.Node("Gemm", "last", {"transB": 1}, [y, one], [last]),
    ]
    step = gs.Graph(nodes, inputs=[x], outputs=[y, last], opset=18)
    model = cast(Any, SimpleNamespace(layers=1, fc_sizes=()))
    rounded = round_products(Networks(step, step, (), ()), model, Quantization({"recurrent_0": product}))
    onnx.save(to_model(rounded.step), folder / "product.onnx")
    directory = cast(Any, SimpleNamespace(file=lambda name: folder / name))
    return open_session(directory, "product.onnx", threads=1)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 5), (64, 33), (256, 768), (897, 130)])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_integer_products_are_exact_at_the_extremes(inputs: int, outputs: int, batch: int, tmp_path: Path) -> None:
    """Sums of two neighbouring products do not fit in 16 bits here; where they saturate, thousands are lost."""
    random = np.random.default_rng(inputs + batch)
    codes = random.choice([-127, 127], (outputs, inputs))
    codes[0] = 127
    activations = random.choice([-128, 127], (batch, inputs))
    activations[0] = 127
    bias = random.integers(-9, 9, outputs).astype(np.float32)
    # Scales of one: the numbers are the codes, and sums below 2^24 are exact in float32.
    session = one_product(codes.astype(np.float32), bias, Product("int8", 127.0), tmp_path)
    found = session.run(["y"], {"hidden_0": activations.astype(np.float32)})[0]
    np.testing.assert_array_equal(found, activations @ codes.T + bias)


def test_a_product_without_a_bias_stays_without(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (6, 10))
    codes[:, 0] = 127
    session = one_product(codes.astype(np.float32), None, Product("int8", 127.0), tmp_path)
    x = np.arange(-10, 10).reshape(2, 10)
    np.testing.assert_array_equal(session.run(["y"], {"hidden_0": x.astype(np.float32)})[0], x @ codes.T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_of_zeros_gives_its_bias(kind: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32)
    weight[2] = 0
    bias = np.array([1, -2, 3.5, 0], np.float32)
    grid, weights_only = KINDS[kind]
    product = Product(grid, 2.0 if grid in LARGEST and not weights_only else None, weights_only)
    session = one_product(weight, bias, product, tmp_path)
    x = np.random.default_rng(2).standard_normal((3, 9)).astype(np.float32)
    found = session.run(["y"], {"hidden_0": x})[0]
    np.testing.assert_array_equal(found[:, 2], np.full(3, 3.5))
    assert np.isfinite(found).all()


def test_integers_are_multiplied_as_integers(networks: Networks, voice: ModelDirectory) -> None:
    def operators(kind: str) -> Counter[str]:
        return Counter(node.op for node in round_products(networks, voice.model, quantization(kind)).step.nodes)

    counts = operators("int8")
    assert (counts[INTEGER_OPERATOR], counts["QuantizeLinear"], counts["Gemm"]) == (3, 3, 0)
    for kind in set(KINDS) - {"int8"}:
        assert operators(kind)[INTEGER_OPERATOR] == 0
        assert operators(kind)["Gemm"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_gives_plain_products_of_rounded_weights(
    kind: str, networks: Networks, voice: ModelDirectory
) -> None:
    rounding = quantization(kind)
    rounded = round_products(networks, voice.model, rounding).step
    restore_products(rounded)
    rounded.cleanup().toposort()
    before = find_products(networks.step, voice.model)
    for name, node in find_products(rounded, voice.model).items():
        expected = round_weight(before[name].inputs[1].values, rounding.products[name])
        np.testing.assert_array_equal(node.inputs[1].values, expected)
        assert node.inputs[0].name == before[name].inputs[0].name
        np.testing.assert_array_equal(node.inputs[2].values, before[name].inputs[2].values)
    assert Counter(node.op for node in rounded.nodes) == Counter(node.op for node in networks.step.nodes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_directory_read_back_can_be_quantised_to_the_same_codes(
    kind: str, voice: ModelDirectory, tmp_path: Path
) -> None:
    rounding = quantization(kind)
    out = quantize(voice, rounding, tmp_path / "one", steps=2)
    read = weights(read_networks(out).step, voice)
    trained = weights(read_networks(voice).step, voice)
    assert list(read) == list(BOUNDS)
    for name, weight in read.items():
        np.testing.assert_array_equal(weight, round_weight(trained[name], rounding.products[name]))
        grid = rounding.products[name].grid
        if grid in LARGEST:
            again, codes = encode_weight(weight, grid)[0], encode_weight(trained[name], grid)[0]
            np.testing.assert_array_equal(again.astype(np.float32), codes.astype(np.float32))


def test_passes_leave_the_graph_that_they_are_given_unchanged(networks: Networks, voice: ModelDirectory) -> None:
    before = to_model(networks.step).SerializeToString()
    for kind in KINDS:
        round_products(networks, voice.model, quantization(kind))
    assert to_model(networks.step).SerializeToString() == before


def without_a_product(step: Any) -> None:
    next(node for node in step.nodes if node.op == "Gemm").op = "MatMul"


def with_a_scaled_product(step: Any) -> None:
    next(node for node in step.nodes if node.op == "Gemm").attrs["alpha"] = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_a_product, r"expected 1 and 2: recurrent_0, fc_0, output"), (with_a_scaled_product, "not scaled")],
)
def test_a_step_of_another_form_is_refused(
    change: Callable[[Any], None], message: str, networks: Networks, voice: ModelDirectory
) -> None:
    other = dataclasses.replace(networks, step=networks.step.copy())
    change(other.step)
    with pytest.raises(PatternError, match=message):
        round_products(other, voice.model, quantization("int8"))
