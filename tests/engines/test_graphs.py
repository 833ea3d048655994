"""Graphs for TensorRT compute what the model directory's own decoder computes, in either form."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from decoder_graphs import Values, assert_close, chunk_of, evaluate_graph, run_graph

from wavernn_trt.engines.graphs import RefusedGraphError, engine_graph, refuse
from wavernn_trt.engines.spec import EngineSpec, Extent
from wavernn_trt.export.model_directory import DECODER_LOOP, ModelDirectory, ModelDirectoryError
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import PatternError, fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
from wavernn_trt.export.rewrite.precision import PrecisionError, lower_precision

LAYOUTS = ("univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian")
STEPS = 10
FP32 = EngineSpec(targets=(86,), precision="fp32", steps=STEPS, batch=Extent.of(3))
Directories = Callable[[str], ModelDirectory]


@pytest.fixture(params=LAYOUTS)
def directory(request: pytest.FixtureRequest, small_directory: Directories) -> ModelDirectory:
    return small_directory(request.param)


def chunk(directory: ModelDirectory, batch: int = 3) -> Values:
    return chunk_of(directory, steps=STEPS, batch=batch)


def loop(directory: ModelDirectory, values: Values) -> Values:
    return run_graph(str(directory.file(DECODER_LOOP)), values)


def test_the_unrolled_form_is_the_directorys_decoder(directory: ModelDirectory) -> None:
    values = chunk(directory)
    graph = engine_graph(directory, dataclasses.replace(FP32, form="cell"), "decoder")
    assert_close(run_graph(graph, values), loop(directory, values))


def test_the_sequence_form_is_the_directorys_decoder(directory: ModelDirectory) -> None:
    values = chunk(directory)
    graph = engine_graph(directory, FP32, "decoder")
    assert [node.op_type for node in graph.graph.node] == ["WaveRNNSequencePlugin"]
    assert_close(evaluate_graph(graph, values), loop(directory, values))


@pytest.mark.parametrize("form", ["cell", "sequence"])
def test_a_range_of_batches_is_one_graph(small_directory: Directories, form: Any) -> None:
    directory = small_directory("raw")
    graph = engine_graph(directory, dataclasses.replace(FP32, form=form, batch=Extent.of("1:2:7")), "decoder")
    for batch in (1, 7):
        values = chunk(directory, batch)
        assert_close((run_graph if form == "cell" else evaluate_graph)(graph, values), loop(directory, values))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("layout", ["univoc", "raw", "mol"])
def test_both_forms_round_the_same_operands(small_directory: Directories, layout: str, precision: Precision) -> None:
    """Only the unrolled products' results are rounded as well, as TensorRT's are."""
    directory = small_directory(layout)
    spec = dataclasses.replace(FP32, precision=precision)
    sequence = engine_graph(directory, spec, "decoder")
    cell = engine_graph(directory, dataclasses.replace(spec, form="cell"), "decoder")
    values = chunk(directory)
    first, other = (evaluate_graph(graph, values)["samples"][:, 0] for graph in (cell, sequence))
    np.testing.assert_allclose(first, other, atol=2e-2)  # later samples follow from these, and may part
    stored = {tensor.data_type for tensor in sequence.graph.initializer if len(tensor.dims) == 2}
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert stored == {low, onnx.TensorProto.FLOAT}  # matrices, and the feedback's table
    products = [node for node in cell.graph.node if node.op_type == "Gemm"]
    types = {tensor.name: tensor.data_type for tensor in cell.graph.initializer}
    assert {types[node.input[1]] for node in products} == {low}
    assert {types[node.input[2]] for node in cell.graph.node if node.op_type == "CustomGRUPlugin"} == {low}


def test_reading_back_gives_the_groups_that_feed_each_row(small_directory: Directories) -> None:
    networks = read_networks(small_directory("raw"))
    assert [(row.name, row.groups) for row in networks.rows] == [
        ("row_0", (0, 1)), ("row_1", (0, 1)), ("row_2", (1,)), ("row_3", (1,)), ("row_4", (1,)),
    ]  # fmt: skip


def test_a_loop_of_another_kind_is_refused(small_directory: Directories, tmp_path: Any) -> None:
    directory = small_directory("univoc")
    graph = onnx.load(str(directory.file(DECODER_LOOP)))
    del graph.graph.node[:]
    onnx.save(graph, str(tmp_path / DECODER_LOOP))
    with pytest.raises(ModelDirectoryError, match="found 0 Scan nodes, expected one"):
        read_networks(dataclasses.replace(directory, path=tmp_path))


def test_slices_of_a_column_become_gathers(small_directory: Directories) -> None:
    graph = engine_graph(small_directory("univoc"), dataclasses.replace(FP32, form="cell"), "decoder")
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["Slice"] == 0
    assert counts["CustomGRUPlugin"] == STEPS


def test_rows_that_are_sums_are_read_behind_a_plugin(directory: ModelDirectory) -> None:
    """TensorRT would compile nodes between a step and the chunk's inputs once for each step."""
    graph = engine_graph(directory, dataclasses.replace(FP32, form="cell"), "decoder")
    makers = {name: node for node in graph.graph.node for name in node.output}
    rows = len(read_networks(directory).rows)
    gathers = [node for node in graph.graph.node if node.op_type == "Gather" and node.input[1].startswith("step_")]
    assert len(gathers) == STEPS * (rows + 1)  # and the uniforms
    several = len(directory.model.groups) > 1  # else the rows are no sums, and are read where they lie
    assert ({makers[node.input[0]].op_type for node in gathers} == {"MaterialisePlugin"}) == several
    assert Counter(node.op_type for node in graph.graph.node)["MaterialisePlugin"] == several * (rows + 1)
    assert ({function.name for function in graph.functions} == {"CustomGRUPlugin", "MaterialisePlugin"}) == several


def test_conditioner_takes_one_mel_of_any_length(directory: ModelDirectory) -> None:
    graph = engine_graph(directory, FP32, "conditioner")
    batch, mels, frames = graph.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_value, mels.dim_value, frames.dim_param != "") == (1, directory.audio.n_mels, True)


def test_a_node_that_tensorrt_refuses_is_named_before_any_build(small_directory: Directories) -> None:
    graph = engine_graph(small_directory("univoc"), dataclasses.replace(FP32, form="cell"), "decoder")
    graph.graph.node[-1].CopyFrom(
        onnx.helper.make_node("Multinomial", list(graph.graph.node[-1].input), graph.graph.node[-1].output, name="draw")
    )
    with pytest.raises(RefusedGraphError, match=r"would refuse 1 nodes.*draw \(Multinomial\): TensorRT has no layer"):
        refuse(graph, static=False)


def test_weights_that_fp16_cannot_hold_are_named(small_directory: Directories) -> None:
    directory = small_directory("univoc")
    networks = fuse_gates(read_networks(directory), directory.model.input_sizes)
    cell = next(node for node in networks.step.nodes if node.op == "CustomGRUPlugin")
    cell.inputs[2].values = cell.inputs[2].values * np.float32(1e6)
    with pytest.raises(PrecisionError, match=r"weight_hh_l0: .*fp16 ends at 65504; use bf16 or fp32"):
        lower_precision(networks, "fp16")
    assert lower_precision(networks, "bf16").step is not networks.step


@pytest.mark.parametrize(
    ("operator", "other", "message"),
    [("Relu", "Elu", "products, expected one|is read behind"), ("Add", "Sub", "does not take|also sums|sums 0")],
)
def test_a_step_of_another_layout_is_not_fused(
    small_directory: Directories, operator: str, other: str, message: str
) -> None:
    directory = small_directory("raw")
    networks = fuse_gates(read_networks(directory), directory.model.input_sizes)
    next(node for node in networks.step.nodes if node.op == operator).op = other
    with pytest.raises(PatternError, match=message):
        fuse_sequence(networks, directory.model)
