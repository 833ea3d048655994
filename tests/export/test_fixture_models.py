"""The models in tests/fixtures are those that the exporter makes now."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="models are exported from PyTorch")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from wavernn_trt.export.acoustic.directory import open_acoustic_directory
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, open_model_directory

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NAMES = ("voice", "tiny", "univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian", "odd")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """tests/fixtures/make_models.py."""
    spec = importlib.util.spec_from_file_location("make_models", FIXTURES / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (*module.UNIVOC, *module.LAYOUTS) == NAMES
    return module


@pytest.fixture(scope="module")
def make(script: ModuleType) -> Callable[[str, Path], Path]:
    """`make` of tests/fixtures/make_models.py."""
    function: Callable[[str, Path], Path] = script.make
    return function


def test_every_model_has_a_layout() -> None:
    assert sorted(path.name for path in (FIXTURES / "models").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_is_what_its_script_makes(name: str, make: Callable[[str, Path], Path], tmp_path: Path) -> None:
    committed, made = open_model_directory(FIXTURES / "models" / name), open_model_directory(make(name, tmp_path))
    again = "python tests/fixtures/make_models.py makes them again"
    assert (committed.model, committed.audio, committed.decoder) == (made.model, made.audio, made.decoder), again
    files = sorted(path.name for path in committed.path.iterdir())
    assert files == sorted(path.name for path in made.path.iterdir()), again
    for file in files:
        if file.endswith((".safetensors", ".weights")):
            assert committed.file(file).read_bytes() == made.file(file).read_bytes(), f"{file}: {again}"
        elif file.endswith(".onnx"):
            assert content(committed, file) == content(made, file), f"{file}: {again}"
        elif file.endswith((".npy", ".npz")):
            same_arrays(committed.file(file), made.file(file))
        else:
            assert file in (MANIFEST, "config.json")


def test_the_acoustic_fixture_is_what_its_script_makes(script: ModuleType, tmp_path: Path) -> None:
    committed = open_acoustic_directory(FIXTURES / "acoustic")
    made = open_acoustic_directory(script.make_acoustic(tmp_path))
    assert (committed.acoustic, committed.audio) == (made.acoustic, made.audio)
    for name in ("encoder.onnx", "frames.onnx"):
        found, expected = (onnx.load_from_string(one.graph(name)).graph for one in (committed, made))
        assert _content(found) == _content(expected), f"{name}: python tests/fixtures/make_models.py makes it again"


def content(directory: ModelDirectory, file: str) -> tuple[Any, ...]:
    """A graph without what depends on the versions of packages: names and the producer."""
    return _content(onnx.load(directory.file(file)).graph)


def _content(graph: Any) -> tuple[Any, ...]:
    """Values are numbered in the order in which they are first seen."""
    numbers: dict[str, int] = {}

    def numbered(names: Any) -> tuple[int, ...]:
        return tuple(numbers.setdefault(name, len(numbers)) for name in names)

    constants = {one.name: one for one in graph.initializer}
    inputs = numbered(one.name for one in graph.input)
    nodes = []
    for node in graph.node:
        used = [onnx.numpy_helper.to_array(constants[name]) for name in node.input if name in constants]
        values = [(str(value.dtype), value.shape, value.tobytes()) for value in used]
        attributes = sorted((one.name, _attribute(one)) for one in node.attribute)
        nodes.append((node.domain, node.op_type, numbered(node.input), numbered(node.output), values, attributes))
    interface = [(one.name, str(one.type)) for one in (*graph.input, *graph.output)]
    return inputs, nodes, numbered(one.name for one in graph.output), interface


def _attribute(attribute: Any) -> str:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return str(_content(attribute.g)[:3])
    return str(onnx.helper.get_attribute_value(attribute))


def same_arrays(committed: Path, made: Path) -> None:
    one, other = np.load(committed), np.load(made)
    if committed.suffix == ".npy":
        one, other = {"": one}, {"": other}
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6, err_msg=f"{committed.name}: {name}")
