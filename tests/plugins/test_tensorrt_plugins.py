"""The plugins register and build plans in every installed TensorRT module, without a GPU.

`WAVERNN_TRT_BINDINGS` may name folders, each with the bindings of one regular TensorRT inside::

    pip install --no-deps --target build/tensorrt-11 tensorrt-cu13-bindings==11.4.0.106
    WAVERNN_TRT_BINDINGS=build/tensorrt-11 pytest tests/plugins
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavernn_trt.export.operators import PRECISIONS, Precision, SequenceShape
from wavernn_trt.plugins.operations import ATTRIBUTES, GruOperation, MaterialiseOperation, SequenceOperation

HERE = Path(__file__).resolve().parent
GRU, SEQUENCE, MATERIALISE = "CustomGRUPlugin", "WaveRNNSequencePlugin", "MaterialisePlugin"
TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
FATCHORD = SequenceShape(
    hidden_size=8,
    layers=2,
    fc_sizes=(7, 7),
    outputs=30,
    output="logistic_mixture",
    label_feedback=False,
    skip=True,
    group_columns=(32, 38),
    group_held=(False, True),
    place_groups=((0,), (0,), (1,), (1,), (1,)),
)
OPERATIONS = {
    GRU: GruOperation(hidden_size=8, input_size=3),
    SEQUENCE: SequenceOperation(FATCHORD),
    MATERIALISE: MaterialiseOperation(),
}
CASES: list[tuple[str, Precision]] = [
    *((operator, precision) for operator in (GRU, SEQUENCE) for precision in PRECISIONS),
    (MATERIALISE, "fp32"),  # it has no weights
]
Ask = Callable[..., list[dict[str, Any]]]

BINDINGS = [Path(folder).resolve() for folder in filter(None, os.environ.get("WAVERNN_TRT_BINDINGS", "").split(":"))]
MODULES = [
    pytest.param("tensorrt_rtx", id="rtx"),
    pytest.param("tensorrt", id="tensorrt"),
    *(pytest.param(folder, id=folder.name) for folder in BINDINGS or [Path("none")]),
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Ask]:
    """A function module -> a function that asks `plugin_process.py` about it."""

    def open_module(module: str | Path) -> Ask:
        folder = tmp_path_factory.mktemp("module")
        name, environment, defined = _environment(module, folder)

        def ask(*requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
            answers = folder / "answers.json"
            answers.unlink(missing_ok=True)
            request = {"module": name, "requests": requests, "answers": str(answers)}
            process = subprocess.run(
                [sys.executable, str(HERE / "plugin_process.py")],
                input=json.dumps(request),
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert process.returncode == 0, process.stderr[-3000:]
            found = json.loads(answers.read_text())
            assert found["version"].startswith(defined)
            return list(found["answers"])

        return ask

    return open_module


def _environment(module: str | Path, folder: Path) -> tuple[str, dict[str, str], str]:
    """The name to import, the environment to import it in, and how its version begins."""
    from wavernn_trt.engines.tensorrt_module import build_environment

    if module == "tensorrt_rtx":
        pytest.importorskip("tensorrt_rtx", reason="builds without a GPU; pip install tensorrt-rtx")
        return "tensorrt_rtx", build_environment("tensorrt_rtx", folder / "libraries"), "1."
    if module == "tensorrt":
        pytest.importorskip("tensorrt", reason="regular TensorRT, from NVIDIA's own index")
        return "tensorrt", dict(os.environ), "1"
    folders = list(Path(module).glob("tensorrt_*_bindings-*.dist-info"))
    if not folders:
        pytest.skip("needs the bindings of regular TensorRT in a folder that WAVERNN_TRT_BINDINGS names")
    major = folders[0].name.split("-")[1].split(".")[0]
    libraries = find_spec("tensorrt_rtx_libs")
    compiler = shutil.which("cc")
    if libraries is None or not libraries.submodule_search_locations or compiler is None:
        pytest.skip("needs tensorrt-rtx and a C compiler, to replace the bindings' libraries")
    environment = build_environment("tensorrt_rtx", folder / "libraries")
    rtx = Path(next(iter(libraries.submodule_search_locations)))
    links = folder / "libraries"
    (links / f"libnvonnxparser.so.{major}").symlink_to(rtx / "libtensorrt_onnxparser_rtx.so.1")
    (links / "libtensorrt_rtx.so.1").symlink_to(rtx / "libtensorrt_rtx.so.1")

    def replace_library(name: str, *options: str) -> None:
        source = ["-shared", "-fPIC", str(HERE / "stand_in.c"), *options]
        subprocess.run([compiler, *source, "-o", str(links / f"{name}.so.{major}")], check=True)

    replace_library("libnvinfer_plugin")
    if major == "10":
        replace_library("libnvinfer", "-DREGISTRY", "-Wl,--no-as-needed", str(rtx / "libtensorrt_rtx.so.1"))
    else:
        (links / f"libnvinfer.so.{major}").symlink_to(rtx / "libtensorrt_rtx.so.1")
    environment["PYTHONPATH"] = os.pathsep.join([str(module), *filter(None, [environment.get("PYTHONPATH")])])
    return "tensorrt_bindings", environment, f"{major}."


def input_types(operator: str, precision: Precision) -> list[str]:
    kinds = {"float32": "FLOAT", "int32": "INT32", "weight": TYPES[precision]}
    return [kinds[operand.kind] for operand in OPERATIONS[operator].inputs()]


@pytest.mark.parametrize("module", MODULES)
def test_all_operators_register_once(module: Any, ask: Callable[[Any], Ask]) -> None:
    (answer,) = ask(module)(("registered", {}))
    assert answer["names"] == [[GRU, SEQUENCE, MATERIALISE]] * 2
    assert sorted(answer["creators"]) == [[name, "1", "wavernn_trt"] for name in (GRU, MATERIALISE, SEQUENCE)]


@pytest.mark.parametrize("module", MODULES)
def test_a_plan_restores_the_plugin_that_was_built(module: Any, ask: Callable[[Any], Ask]) -> None:
    """Attributes go in, the weights' type is learnt, and what is kept makes the same plugin, in another process too."""
    requests: list[Any] = []
    for operator, precision in CASES:
        attributes = OPERATIONS[operator].attributes()
        types = input_types(operator, precision)
        requests.append(("instantiated", {"operator": operator, "attributes": attributes, "types": types}))
    answers = ask(module)(*requests)
    for (operator, precision), answer in zip(CASES, answers, strict=True):
        operation = OPERATIONS[operator]
        kinds = {"float32": "FLOAT", "int32": "INT32"}
        assert answer["output_types"] == [kinds[operand.kind] for operand in operation.outputs()]
        assert answer["asked_for"] == list(ATTRIBUTES[operator]) == list(operation.attributes())
        assert answer["kept"]["precision"] == [PRECISIONS.index(precision)]
        assert answer["same"] == [True, True]
        assert answer["kinds"] == [True, True, True]
        assert answer["identity"] == [operator, "1", "wavernn_trt", len(operation.outputs())]
    again: list[Any] = [
        ("restored", {"operator": operator, "fields": answer["kept"]})
        for (operator, _), answer in zip(CASES, answers, strict=True)
    ]
    for (operator, precision), answer in zip(CASES, ask(module)(*again), strict=True):
        assert answer["attributes"] == OPERATIONS[operator].attributes()
        assert answer["precision"] == precision


@pytest.mark.parametrize("module", MODULES)
def test_tensors_are_linear_and_of_the_operators_types(module: Any, ask: Callable[[Any], Ask]) -> None:
    requests: list[Any] = []
    for operator, precision in CASES:
        outputs = [{"float32": "FLOAT", "int32": "INT32"}[o.kind] for o in OPERATIONS[operator].outputs()]
        types = [*input_types(operator, precision), *outputs]
        arguments = {"operator": operator, "attributes": OPERATIONS[operator].attributes(), "types": types}
        requests.append(("formats", arguments))
    for (operator, precision), answer in zip(CASES, ask(module)(*requests), strict=True):
        operands = (*OPERATIONS[operator].inputs(), *OPERATIONS[operator].outputs())
        weights = [i for i, operand in enumerate(operands) if operand.kind == "weight"]
        assert answer["packed"] == 0
        for i, (operand, accepted) in enumerate(zip(operands, answer["accepted"], strict=True)):
            if weights[:1] == [i]:
                expected = list(TYPES.values())  # the first weight sets the type of all
            elif operand.kind == "weight":
                expected = [TYPES[precision]]
            else:
                expected = [{"float32": "FLOAT", "int32": "INT32"}[operand.kind]]
            assert accepted == expected, (operator, operand.name)


@pytest.mark.parametrize("module", MODULES)
def test_a_launch_gets_tensorrts_pointers_and_stream(module: Any, ask: Callable[[Any], Ask]) -> None:
    (answer,) = ask(module)(("enqueued", {"hidden_size": 7, "batches": [3, 5]}))
    launches = [
        ["launch", {"B": batch}, [first + 1, first + 2, first + 3, first + 4, first + 5], first + 6, first + 7]
        for batch in (3, 5)
        for first in (10, 20)
    ]
    calls = answer["calls"]
    assert [call for call in calls if call[0] == "launch"] == launches
    assert [call[1:] for call in calls if call[0] == "prepare"] == [["fp16", {"B": 3}], ["fp16", {"B": 5}]]


@pytest.mark.parametrize("module", MODULES)
def test_wrong_attributes_and_types_are_named(module: Any, ask: Callable[[Any], Ask]) -> None:
    gru, sequence = OPERATIONS[GRU].attributes(), OPERATIONS[SEQUENCE].attributes()
    types = {name: input_types(name, "fp16") for name in OPERATIONS}
    mixed = list(types[SEQUENCE])
    mixed[len(mixed) - 2] = "FLOAT"
    wrong: list[tuple[str, dict[str, Any], list[str], str]] = [
        (GRU, {"hidden_size": 8}, types[GRU], "lacks the attribute input_size; export the model again"),
        (GRU, {**gru, "hidden_size": 0}, types[GRU], "attribute hidden_size is [0], expected a positive integer"),
        (GRU, gru, ["HALF", *types[GRU][1:]], "gates is HALF, expected FLOAT"),
        (GRU, gru, ["FLOAT", "FLOAT", "INT8", "FLOAT"], "recurrent_weight is INT8, expected FLOAT or HALF or BF16"),
        (GRU, gru, types[GRU][:3], "found 3 inputs, expected 4"),
        (MATERIALISE, {}, ["HALF"], "rows is HALF, expected FLOAT"),
        (MATERIALISE, {}, ["FLOAT", "FLOAT"], "found 2 inputs, expected 1"),
        (SEQUENCE, {**sequence, "layers": 3}, types[SEQUENCE], "layers is 3, expected 1 or 2"),
        (SEQUENCE, {**sequence, "distribution": 9}, types[SEQUENCE], "attribute distribution is 9, expected 0 to 2"),
        (SEQUENCE, sequence, mixed, "weights are FLOAT and HALF, expected one type for all"),
    ]
    requests: list[Any] = [
        ("instantiated", {"operator": operator, "attributes": attributes, "types": kinds})
        for operator, attributes, kinds, _ in wrong
    ]
    for (operator, _, _, message), answer in zip(wrong, ask(module)(*requests), strict=True):
        assert message in answer["error"]
        assert [text for text in answer["messages"] if operator in text and message in text]


# What follows builds: with TensorRT-RTX, and with bindings of regular TensorRT 11 on its library.


def builds(module: Any) -> bool:
    return module == "tensorrt_rtx" or (isinstance(module, Path) and bool(list(module.glob("*-11.*.dist-info"))))


BUILDERS = [param for param in MODULES if builds(param.values[0])]


@pytest.mark.parametrize("module", BUILDERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_unrolled_decoder_becomes_a_plan(
    module: Any, precision: Precision, ask: Callable[[Any], Ask], small_decoder: Callable[[str], Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="TensorRT parses ONNX files")
    from wavernn_trt.export.graph_files import to_model
    from wavernn_trt.export.rewrite.precision import lower_precision
    from wavernn_trt.export.rewrite.unroll import unroll

    decoder = small_decoder("raw")
    graph = unroll(lower_precision(decoder.fused, precision), decoder.model, steps=2, batch=3, window=5)
    path = tmp_path / "decoder.onnx"
    path.write_bytes(to_model(graph).SerializeToString())
    answer = build(ask(module), module, path)
    assert answer["outputs"] == {
        "samples": [[3, 2], "INT32"],
        "previous_out": [[3], "FLOAT"],
        "hidden_out": [[2, 3, 8], "FLOAT"],
    }
    assert answer["kept"] == {"hidden_size": [8], "input_size": [8], "precision": [PRECISIONS.index(precision)]}
    assert answer["calls"]["clone"] > 0
    targets = 2 if module == "tensorrt_rtx" else 1
    assert Path(answer["plan"]).read_bytes().count(GRU.encode()) >= 4 * targets


@pytest.mark.parametrize("module", BUILDERS)
@pytest.mark.parametrize("batch", [3, "batch"])
def test_rows_are_materialised_in_a_plan(
    module: Any, batch: int | str, ask: Callable[[Any], Ask], small_decoder: Callable[[str], Any], tmp_path: Path
) -> None:
    """Static, and with a profile from 1 to 5 streams: the copy is as large as what it copies."""
    pytest.importorskip("onnx", reason="TensorRT parses ONNX files")
    from wavernn_trt.export.graph_files import to_model
    from wavernn_trt.export.rewrite.materialise_rows import materialise_rows
    from wavernn_trt.export.rewrite.unroll import unroll

    decoder = small_decoder("raw")
    graph = materialise_rows(unroll(decoder.fused, decoder.model, steps=2, batch=batch, window=5))
    path = tmp_path / "decoder.onnx"
    path.write_bytes(to_model(graph).SerializeToString())
    answer = build(ask(module), module, path, profile=[1, 2, 5] if batch == "batch" else None)
    streams = -1 if batch == "batch" else 3
    assert answer["outputs"]["samples"] == [[streams, 2], "INT32"]
    assert answer["outputs"]["hidden_out"] == [[2, streams, 8], "FLOAT"]
    targets = 2 if module == "tensorrt_rtx" else 1
    assert Path(answer["plan"]).read_bytes().count(MATERIALISE.encode()) >= 6 * targets  # five rows, the uniforms


@pytest.mark.parametrize("module", BUILDERS)
@pytest.mark.parametrize("batch", [3, "batch"])
@pytest.mark.parametrize(("layout", "precision"), [("univoc", "bf16"), ("mol", "fp16"), ("turian", "fp32")])
def test_sequence_becomes_a_plan(
    module: Any,
    layout: str,
    precision: Precision,
    batch: int | str,
    ask: Callable[[Any], Ask],
    small_decoder: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    """Static, and with a profile from 1 to 5 streams."""
    path = write_sequence(small_decoder(layout), tmp_path, precision, batch)
    answer = build(ask(module), module, path, profile=[1, 2, 5] if batch == "batch" else None)
    shape = small_decoder(layout).sequence.shape
    streams = -1 if batch == "batch" else 3
    sizes = {"B": streams, "T": 4}
    for operand in shape.outputs_of_node():
        dims, kind = answer["outputs"][operand.name]
        assert dims == [sizes.get(str(size), size) for size in operand.shape]
        assert kind == {"float32": "FLOAT", "int32": "INT32"}[operand.kind]
    kept = dict(answer["kept"])
    assert kept.pop("precision") == [PRECISIONS.index(precision)]
    assert SequenceShape.from_attributes(kept) == shape
    assert answer["calls"]["get_workspace_size"] > 0
    assert SEQUENCE.encode() in Path(answer["plan"]).read_bytes()


@pytest.mark.parametrize("module", BUILDERS)
def test_a_node_that_contradicts_itself_stops_the_build_with_a_reason(
    module: Any, ask: Callable[[Any], Ask], small_decoder: Callable[[str], Any], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="TensorRT parses ONNX files")
    decoder = small_decoder("univoc")

    def without_attribute(model: Any) -> None:
        node = model.graph.node[0]
        node.attribute.remove(next(a for a in node.attribute if a.name == "fc_sizes"))

    def other_shape(model: Any) -> None:
        bias = next(t for t in model.graph.initializer if t.name.startswith("output_bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(15, np.float32), bias.name))

    def other_type(model: Any) -> None:
        bias = next(t for t in model.graph.initializer if t.name.startswith("output_bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(16, np.float16), bias.name))

    def other_precision(model: Any) -> None:
        weight = next(t for t in model.graph.initializer if t.name.startswith("output_weight"))
        weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((16, 5), np.float32), weight.name))

    wrong = {
        without_attribute: "lacks the attribute fc_sizes; export the model again",
        other_shape: "output_bias has shape [15], expected [16]",
        other_type: "output_bias is HALF, expected FLOAT",
        other_precision: "weights are FLOAT and HALF, expected one type for all",
    }
    requests: list[Any] = []
    for change in wrong:
        folder = tmp_path / change.__name__
        folder.mkdir()
        path = write_sequence(decoder, folder, "fp16", 2)
        model = onnx.load(str(path))
        change(model)
        onnx.save(model, str(path))
        requests.append(("built", {"onnx": str(path), "targets": targets(module)}))
    for message, answer in zip(wrong.values(), ask(module)(*requests), strict=True):
        assert not answer["parsed"]
        assert any(SEQUENCE in error for error in answer["errors"])
        assert any(message in text for text in answer["messages"]), answer["messages"]


def write_sequence(decoder: Any, folder: Path, precision: Precision, batch: int | str) -> Path:
    pytest.importorskip("onnx", reason="TensorRT parses ONNX files")
    from wavernn_trt.export.graph_files import to_model
    from wavernn_trt.export.rewrite.fuse_sequence import sequence_decoder

    sizes: Any = {"steps": 4, "batch": batch, "window": 5}
    graph = sequence_decoder(decoder.sequence, decoder.fused, decoder.model, **sizes, precision=precision)
    path = folder / "sequence.onnx"
    path.write_bytes(to_model(graph).SerializeToString())
    return path


def targets(module: Any) -> list[str]:
    return ["SM86", "SM89"] if module == "tensorrt_rtx" else []


def build(ask: Ask, module: Any, path: Path, profile: list[int] | None = None) -> dict[str, Any]:
    (answer,) = ask(("built", {"onnx": str(path), "profile": profile, "targets": targets(module)}))
    assert answer["parsed"], answer
    assert answer["messages"] == []
    assert answer["bytes"] > 1000
    return answer
