"""ONNX's reference evaluator runs decoders through the numpy references, and agrees with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the evaluator is ONNX's")

from decoder_graphs import assert_close, evaluate_graph, run_graph
from onnx.reference import ReferenceEvaluator
from onnx_reference import OPERATORS

from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.operators import DOMAIN, GRU_OPERATOR, PRECISIONS, SEQUENCE_OPERATOR, Precision
from wavernn_trt.export.rewrite.fuse_sequence import sequence_decoder
from wavernn_trt.export.rewrite.unroll import unroll
from wavernn_trt.plugins.reference import decode_sequence, gru_cell

LAYOUTS = ("univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian")
NAMES = ["samples", "previous_out", "hidden_out"]
SIZES = {"steps": 6, "batch": 3, "window": 5}


@pytest.fixture(scope="module", params=LAYOUTS)
def decoder(request: pytest.FixtureRequest, small_decoder: Callable[[str], Any]) -> Any:
    return small_decoder(request.param)


def unrolled(decoder: Any) -> Any:
    model = to_model(unroll(decoder.fused, decoder.model, **SIZES))
    onnx.checker.check_model(model, full_check=True)
    return model


def sequence(decoder: Any, precision: Precision) -> Any:
    graph = sequence_decoder(decoder.sequence, decoder.fused, decoder.model, **SIZES, precision=precision)
    return to_model(graph)


def test_unrolled_decoder_gives_onnx_runtimes_samples(decoder: Any) -> None:
    model, chunk = unrolled(decoder), decoder.chunk(**SIZES)
    found, expected = evaluate_graph(model, chunk), run_graph(model, chunk)
    assert_close(found, expected)
    assert {name: found[name].dtype for name in expected} == {name: value.dtype for name, value in expected.items()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sequence_node_is_the_numpy_sequence(decoder: Any, precision: Precision) -> None:
    chunk = decoder.chunk(**SIZES)
    found = evaluate_graph(sequence(decoder, precision), chunk)
    expected = decode_sequence(decoder.sequence.shape, decoder.operands(chunk), precision)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_sequence_node_gives_onnx_runtimes_samples_of_the_unrolled_decoder(decoder: Any) -> None:
    chunk = decoder.chunk(**SIZES)
    assert_close(evaluate_graph(sequence(decoder, "fp32"), chunk), run_graph(unrolled(decoder), chunk))


def test_the_evaluator_uses_the_numpy_cell_instead_of_the_models_function(
    small_decoder: Callable[[str], Any],
) -> None:
    decoder = small_decoder("raw")
    model = unrolled(decoder)
    assert [function.name for function in model.functions] == [GRU_OPERATOR]
    cells = []

    class Counting(OPERATORS[0]):  # type: ignore[misc]
        def _run(self, *arrays: Any, **attributes: Any) -> Any:
            cells.append(arrays[0].shape)
            return super()._run(*arrays, **attributes)

    Counting.__name__ = GRU_OPERATOR  # the evaluator goes by a class's name
    evaluate_graph(model, decoder.chunk(**SIZES), (Counting,))
    assert cells == [(3, 24)] * SIZES["steps"] * 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cell_computes_in_the_precision_of_its_weight(precision: Precision) -> None:
    random = np.random.default_rng(0)
    gates, hidden, weight, bias = (random.standard_normal(s).astype("f") for s in ((2, 21), (2, 7), (21, 7), (21,)))
    kinds = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    stored = onnx.helper.make_tensor("recurrent_weight", kinds[precision], weight.shape, weight.ravel())
    values = [onnx.helper.make_tensor_value_info(n, 1, a.shape) for n, a in (("g", gates), ("h", hidden), ("b", bias))]
    node = onnx.helper.make_node(
        GRU_OPERATOR, ["g", "h", "recurrent_weight", "b"], ["next"], domain=DOMAIN, hidden_size=7, input_size=3
    )
    output = onnx.helper.make_tensor_value_info("next", 1, hidden.shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "cell", values, [output], [stored]),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)],
    )
    (found,) = ReferenceEvaluator(model, new_ops=list(OPERATORS)).run(None, {"g": gates, "h": hidden, "b": bias})
    np.testing.assert_array_equal(found, gru_cell(gates, hidden, weight, bias, precision))


def test_a_node_that_contradicts_itself_is_refused(small_decoder: Callable[[str], Any]) -> None:
    decoder = small_decoder("turian")
    model, chunk = sequence(decoder, "fp32"), decoder.chunk(**SIZES)
    (node,) = model.graph.node
    assert node.op_type == SEQUENCE_OPERATOR
    hidden = next(attribute for attribute in node.attribute if attribute.name == "hidden_size")
    node.attribute.remove(hidden)
    with pytest.raises(ValueError, match="lacks the attribute hidden_size; export the model again"):
        evaluate_graph(model, chunk)
    node.attribute.append(hidden)
    del node.input[-1]
    with pytest.raises(ValueError, match=r"found \d+ operands, expected \d+: conditioning, .*output_bias"):
        evaluate_graph(model, chunk)
