"""A probe passes what computes the model, in any precision, and finds what computes something else."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import wavernn_trt
from wavernn_trt.export.model_directory import (
    PROBE,
    WEIGHTS,
    ModelDirectory,
    ModelDirectoryError,
    open_model_directory,
    write_manifest,
)
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization
from wavernn_trt.runtime.health.probe import (
    CELLS_ON_QUANTISED,
    KERNELS_ON_QUANTISED,
    NoProbeError,
    ProbeFailedError,
    ProbeResult,
    probe,
    require_probe,
)
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import DEFAULT_LIMITS, Vocoder, shipped_voice

LAYOUTS = ("univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian")
Weights = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def shipped() -> Iterator[Vocoder]:
    with Vocoder.load(backend="onnxruntime", threads=1) as vocoder:
        yield vocoder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the shipped voice, to damage."""
    return Path(shutil.copytree(shipped_voice(), tmp_path / "voice"))


@pytest.fixture(scope="module")
def engine(faulty: ModuleType) -> ModuleType:
    """tests/runtime/low_precision_engine.py."""
    pytest.importorskip("onnx_graphsurgeon", reason="weights come out of the rewritten step's graph")
    import importlib.util
    import sys

    path = Path(__file__).with_name("low_precision_engine.py")
    spec = importlib.util.spec_from_file_location("low_precision_engine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def probed(path: Path, backend: str = "onnxruntime") -> ProbeResult:
    with Vocoder.load(path, backend, threads=1) as vocoder:
        return probe(vocoder)


def with_executor(directory: ModelDirectory, executor: Any, limits: SchedulerLimits = DEFAULT_LIMITS) -> Vocoder:
    return Vocoder(LoadedModel.of(directory, executor), limits=limits)


def test_the_shipped_voice_passes(shipped: Vocoder) -> None:
    result = probe(shipped)
    assert result.passed, result.reason
    assert result.reason == ""
    assert result.bits == pytest.approx(result.expected_bits, abs=1e-4)
    assert result.displacement < 1e-6
    assert 0 < result.logits_error < 1e-3
    assert result == dataclasses.replace(probe(shipped), seconds=result.seconds)  # on demand, as often as one likes


def test_the_reference_itself_passes() -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    result = probed(shipped_voice(), "torch")
    assert result.passed, result.reason


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_passes(layout: str, small_directory: Callable[[str], ModelDirectory]) -> None:
    result = probed(small_directory(layout).path)
    assert result.passed, result.reason


@pytest.mark.parametrize("layout", ["shipped", *LAYOUTS])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_engines_of_low_precision_pass(
    layout: str, precision: str, engine: ModuleType, voice: ModelDirectory, request: pytest.FixtureRequest
) -> None:
    directory = voice if layout == "shipped" else request.getfixturevalue("small_directory")(layout)
    with engine.vocoder(directory, precision) as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    if layout == "shipped":
        assert result.displacement > 0  # it is not float32


def zeroed(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: np.zeros_like(weights[name])}


def with_element(name: str, value: float) -> Callable[[Weights], Weights]:
    def damage(weights: Weights) -> Weights:
        changed = weights[name].copy()
        changed[changed.shape[0] // 2, changed.shape[1] // 2] = value
        return {**weights, name: changed}

    return damage


def swapped(name: str, one: int, other: int) -> Callable[[Weights], Weights]:
    def damage(weights: Weights) -> Weights:
        changed = weights[name].copy()
        changed[[one, other]] = changed[[other, one]]
        return {**weights, name: changed}

    return damage


def rolled(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: np.roll(weights[name], 1, axis=0)}


DAMAGED_ENGINES: dict[str, Callable[[Weights], Weights]] = {
    "recurrent weights of zeros": zeroed("recurrent_weight_0"),
    "output weights of zeros": zeroed("output_weight"),
    "a dense layer of zeros": zeroed("fc_weight_0"),
    "an embedding of zeros": zeroed("feedback"),
    "NaN among the recurrent weights": with_element("recurrent_weight_0", np.nan),
    "NaN among the output weights": with_element("output_weight", np.nan),
    "a weight as an exponent's high bit makes it": with_element("fc_weight_0", 1e38),
    "rows of a dense layer swapped": swapped("fc_weight_0", 3, 100),
    "outputs swapped": swapped("output_weight", 128, 150),
    "embeddings swapped": swapped("feedback", 120, 136),
    "recurrent rows off by one": rolled("recurrent_weight_0"),
    "output rows off by one": rolled("output_weight"),
    "an embedding off by one": rolled("feedback"),
}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", DAMAGED_ENGINES)
def test_a_damaged_engine_is_found(name: str, precision: str, engine: ModuleType, voice: ModelDirectory) -> None:
    """What a right engine's rounding does to the samples does not hide it."""
    with engine.vocoder(voice, precision, damage=DAMAGED_ENGINES[name]) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason
    assert "build the engine again" in result.reason


def largest_recurrent_weight(path: Path) -> int:
    """Where in the file of weights the float32 stands that counts most."""
    import onnx

    loop = onnx.load(path / "decoder_loop.onnx", load_external_data=False)
    graphs = [attribute.g for node in loop.graph.node for attribute in node.attribute if attribute.HasField("g")]
    (recurrent,) = (t for graph in graphs for t in graph.initializer if t.name.endswith("weight_hh_l0"))
    entry = {item.key: item.value for item in recurrent.external_data}
    offset, length = int(entry["offset"]), int(entry["length"])
    content = np.frombuffer((path / WEIGHTS).read_bytes()[offset : offset + length], np.float32)
    return offset + 4 * int(np.abs(content).argmax())


@pytest.mark.parametrize("bit", [7, 6, 4], ids=["sign", "highest of the exponent", "middle of the exponent"])
def test_a_flipped_bit_that_no_hash_tells_is_found(copy: Path, bit: int) -> None:
    pytest.importorskip("onnx", reason="the weight to flip is looked up in the graph")
    where = largest_recurrent_weight(copy) + 3
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[where] ^= 1 << bit
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelDirectoryError, match="SHA-256"):
        open_model_directory(copy)
    write_manifest(copy)
    result = probed(copy)
    assert not result.passed
    assert "copy the directory again" in result.reason


@pytest.mark.parametrize("damage", ["NaN", "zeros", "rows off by one"])
def test_damaged_weights_that_no_hash_tells_are_found(copy: Path, damage: str) -> None:
    weights = np.fromfile(copy / WEIGHTS, np.float32)
    if damage == "NaN":
        weights[len(weights) // 2] = np.nan
    elif damage == "zeros":
        weights[: len(weights) // 4] = 0
    else:
        weights = np.roll(weights, 256)
    weights.tofile(copy / WEIGHTS)
    write_manifest(copy)
    assert not probed(copy).passed


def test_a_damaged_conditioner_is_found(copy: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the conditioner's weights stand in its graph")
    model = onnx.load(copy / "conditioner.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, copy / "conditioner.onnx")
    write_manifest(copy)
    result = probed(copy)
    assert not result.passed
    assert "logits differ by" in result.reason


def test_a_decoder_that_is_another_than_what_scores_is_found(copy: Path) -> None:
    """Logits are right, and what is drawn is not: the loop that speaks has lost its last layer's bias."""
    onnx = pytest.importorskip("onnx", reason="the decoder's graph is edited")
    model = onnx.load(copy / "decoder_loop.onnx", load_external_data=False)
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    bias = next(t for t in (*model.graph.initializer, *body.initializer) if list(t.dims) == [256])
    values = np.roll(onnx.numpy_helper.to_array(bias, str(copy)), 40)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, copy / "decoder_loop.onnx")
    write_manifest(copy)
    result = probed(copy)
    assert not result.passed
    assert result.bits == pytest.approx(result.expected_bits, abs=1e-4)
    assert "onnxruntime draws samples that its random numbers do not select" in result.reason


@pytest.mark.parametrize("name", [WEIGHTS, "decoder_loop.onnx", PROBE])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_plain_damage_is_found_before_anything_runs(copy: Path, name: str, damage: str) -> None:
    content = bytearray((copy / name).read_bytes())
    if damage == "missing":
        (copy / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content[: -1 if damage == "truncated" else None])
    with pytest.raises(ModelDirectoryError, match=r"missing|bytes|SHA-256"):
        wavernn_trt.load(copy, "onnxruntime")


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ("univoc", "constant_from"),
        ("univoc", "raises_at"),
        ("mol", "constant_from"),
        ("mol", "nan_from"),
        ("mol", "raises_at"),
    ],
)
def test_an_executor_that_goes_wrong_is_found(
    layout: str, fault: str, faulty: ModuleType, small_directory: Callable[[str], ModelDirectory]
) -> None:
    directory = small_directory(layout)
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, **{fault: 0}
    )
    with with_executor(directory, executor) as vocoder:
        result = probe(vocoder)
        assert not result.passed
        if fault == "nan_from":
            assert "drew nan as sample 0, expected a number from -1 to 1" in result.reason
        if fault == "raises_at":
            assert "told to fail" in result.reason
        executor.repair()
        if fault != "raises_at":
            assert probe(vocoder).passed


@pytest.mark.parametrize("where", ["conditioner", "decoder"])
def test_an_executor_that_hangs_fails_its_probe(
    where: str, faulty: ModuleType, small_directory: Callable[[str], ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = small_directory("univoc")
    executor = faulty.FaultyExecutor(load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor)
    if where == "decoder":
        executor.hangs_at = 0
    else:
        monkeypatch.setattr(executor, "condition", lambda mel: executor.released.wait())
    results: list[ProbeResult] = []
    with with_executor(directory, executor, SchedulerLimits(hang_seconds=0.2)) as vocoder:
        thread = threading.Thread(target=lambda: results.append(probe(vocoder)), daemon=True)
        thread.start()
        thread.join(60)
        executor.repair()
    (result,) = results
    assert not result.passed
    assert "does not answer; it had 0.2 s" in result.reason


def test_a_class_that_the_model_does_not_have_is_found(
    faulty: ModuleType, small_directory: Callable[[str], ModelDirectory]
) -> None:
    directory = small_directory("univoc")
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, constant_from=0, constant=99
    )
    with with_executor(directory, executor) as vocoder:
        assert "drew 99 as sample 0, expected a class from 0 to 15" in probe(vocoder).reason
        with pytest.raises(ProbeFailedError, match="drew 99"):
            require_probe(vocoder)
        executor.repair()
        assert require_probe(vocoder).passed


def test_a_record_damaged_while_the_model_is_in_use_is_found(copy: Path) -> None:
    with Vocoder.load(copy, "onnxruntime", threads=1) as vocoder:
        assert probe(vocoder).passed
        (copy / PROBE).write_bytes(b"")
        result = probe(vocoder)
    assert not result.passed
    assert "SHA-256" in result.reason
    assert np.isnan(result.bits)


def test_an_engine_whose_directory_was_damaged_since_is_not_passed(copy: Path, engine: ModuleType) -> None:
    """What scores an engine is loaded from the directory, which is checked as on any loading."""
    with engine.vocoder(open_model_directory(copy), "fp16") as vocoder:
        assert probe(vocoder).passed
        (copy / WEIGHTS).write_bytes(b"")
        assert "decoder.weights is damaged" in probe(vocoder).reason


def test_a_directory_of_an_earlier_version_speaks_and_says_that_it_cannot_be_probed(copy: Path) -> None:
    (copy / PROBE).unlink()
    write_manifest(copy)
    with Vocoder.load(copy, "onnxruntime", threads=1) as vocoder:
        assert len(vocoder.vocode(np.full((80, 2), -0.5, np.float32))) == 400
        with pytest.raises(NoProbeError, match=r"wavernn-trt export .* --overwrite"):
            probe(vocoder)


BOUNDS = {"recurrent_0": 1.0, "fc_0": 1.0, "output": 28.0}
"""What the shipped voice's products read: states, and what a rectified layer gives."""
KINDS: tuple[tuple[Grid, bool], ...] = (("int8", False), ("int8", True), ("fp8", False), ("fp8", True), ("bf16", False))


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Grid, bool], ModelDirectory]:
    """A function (grid, weights only) -> the shipped voice in it, made once."""
    pytest.importorskip("onnx_graphsurgeon", reason="graphs are rewritten")
    from wavernn_trt.calibration.quantize import quantize

    folder = tmp_path_factory.mktemp("quantised")

    @functools.cache
    def make(grid: Grid, weights_only: bool) -> ModelDirectory:
        scaled = grid in LARGEST and not weights_only
        products = {name: Product(grid, bound if scaled else None, weights_only) for name, bound in BOUNDS.items()}
        out = folder / f"{grid}-{weights_only}"
        return quantize(open_model_directory(shipped_voice()), Quantization(products), out, steps=4)

    return make


@pytest.fixture(scope="module")
def of_the_voice(shipped: Vocoder) -> ProbeResult:
    """What the voice that the quantised ones are made from gives."""
    return probe(shipped)


def test_a_quantised_directory_without_a_record_is_not_to_be_exported_in_its_place(
    tmp_path: Path, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    """Its trained weights are not quantised: what comes out is not what was there."""
    path = Path(shutil.copytree(quantised("int8", False).path, tmp_path / "voice"))
    (path / PROBE).unlink()
    write_manifest(path)
    with (
        Vocoder.load(path, "onnxruntime", threads=1) as vocoder,
        pytest.raises(NoProbeError, match=r"export the model that it was quantised from .*, and quantise that again$"),
    ):
        probe(vocoder)


@pytest.mark.parametrize(
    "content", ["", "[]", "\xff", '{"quantization": 3}', '{"quantization": {"products": {"a": 1}}}']
)
def test_a_configuration_damaged_while_the_model_is_in_use_is_found(copy: Path, content: str) -> None:
    with Vocoder.load(copy, "onnxruntime", threads=1) as vocoder:
        (copy / "config.json").write_text(content, encoding="latin-1")
        write_manifest(copy)
        result = probe(vocoder)
    assert not result.passed
    assert "config.json is damaged" in result.reason


@pytest.mark.parametrize(("grid", "weights_only"), KINDS)
def test_a_quantised_voice_passes(
    grid: Grid, weights_only: bool, quantised: Callable[[Grid, bool], ModelDirectory], of_the_voice: ProbeResult
) -> None:
    path = quantised(grid, weights_only).path
    result = probed(path)
    assert result.passed, result.reason
    assert result.displacement < 1e-6  # it draws what its own logits say
    assert result.logits_error > of_the_voice.logits_error * 10  # it is not the voice that it was made from
    Vocoder.load(path, "onnxruntime", threads=1, probe=True).close()


def test_the_reference_of_a_quantised_voice_passes(quantised: Callable[[Grid, bool], ModelDirectory]) -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    result = probed(quantised("int8", False).path, "torch")
    assert result.passed, result.reason
    assert result.logits_error > 0.1


def test_a_voice_that_is_not_quantised_is_not_allowed_what_a_quantised_one_is(
    copy: Path, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    """The quantised files, under a configuration that does not say so."""
    shutil.copyfile(shipped_voice() / "config.json", copy / "config.json")
    for name in ("decoder_loop.onnx", "teacher_forced.onnx", "decoder.onnx", WEIGHTS):
        shutil.copyfile(quantised("int8", False).file(name), copy / name)
    write_manifest(copy)
    result = probed(copy)
    assert not result.passed
    assert "logits differ by" in result.reason


def edit_initializer(path: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Changes a constant of both loops, as if it had been written so."""
    import onnx

    for file in ("decoder_loop.onnx", "teacher_forced.onnx"):
        model = onnx.load(path / file, load_external_data=False)
        graphs = [model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))]
        (tensor,) = (one for graph in graphs for one in graph.initializer if one.name == name)
        values = onnx.numpy_helper.to_array(tensor, str(path))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(values)), name))
        onnx.save(model, path / file)
    write_manifest(path)


def exchanged(one: int, other: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(codes: NDArray[Any]) -> NDArray[Any]:
        codes = codes.copy()
        codes[:, [one, other]] = codes[:, [other, one]]  # an output's codes stand in a column
        return codes

    return change


def of_zeros(codes: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(codes, 128)  # they are stored 128 higher


def halved(values: NDArray[Any]) -> NDArray[Any]:
    return values / values.dtype.type(2)


DAMAGED_CODES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "recurrent codes of zeros": ("step.rnn2.weight_hh_l0.uint8", of_zeros),
    "dense codes of zeros": ("step.fc1.weight.uint8", of_zeros),
    "output codes of zeros": ("step.fc2.weight.uint8", of_zeros),
    "recurrent rows off by one": ("step.rnn2.weight_hh_l0.uint8", lambda codes: np.roll(codes, 1, axis=1)),
    "rows of a dense layer swapped": ("step.fc1.weight.uint8", exchanged(20, 60)),
    "outputs swapped": ("step.fc2.weight.uint8", exchanged(80, 180)),
    "the state's scale halved": ("node_linear_1.activation_scale", halved),
    "a dense layer's scale halved": ("node_linear_2.activation_scale", halved),
    "the last layer's scale halved": ("node_linear_3.activation_scale", halved),
    "all scales of the recurrent weights halved": ("step.rnn2.weight_hh_l0.scales", halved),
    "all scales of the output weights halved": ("step.fc2.weight.scales", halved),
}


@pytest.mark.parametrize("name", DAMAGED_CODES)
def test_a_damaged_quantised_voice_is_found(
    name: str, tmp_path: Path, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    path = Path(shutil.copytree(quantised("int8", False).path, tmp_path / "voice"))
    edit_initializer(path, *DAMAGED_CODES[name])
    result = probed(path)
    assert not result.passed
    assert "copy the directory again" in result.reason


@pytest.mark.parametrize("grid", ["int8", "fp8"])
def test_kernels_that_leave_activations_as_they_are_pass(
    grid: Grid, engine: ModuleType, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    directory = quantised(grid, False)
    with engine.vocoder(directory, "fp16") as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    assert result.displacement > 1e-5
    with engine.vocoder(directory, "fp16", damage=rolled("output_weight")) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason


@pytest.mark.parametrize("grid", ["int8", "fp8"])
def test_cells_that_round_activations_are_held_closer(
    grid: Grid, engine: ModuleType, tmp_path: Path, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    assert CELLS_ON_QUANTISED[grid] < KERNELS_ON_QUANTISED[grid]
    directory = quantised(grid, False)
    with engine.running(engine.CellEngine(directory, "fp16"), directory) as vocoder:
        result = probe(vocoder)
    assert result.passed, result.reason
    path = Path(shutil.copytree(directory.path, tmp_path / "voice"))
    weight = {"int8": "step.fc2.weight.uint8", "fp8": "step.fc2.weight.fp8_values"}[grid]
    edit_initializer(path, weight, lambda values: np.roll(values, 1, axis=1 if grid == "int8" else 0))
    with engine.running(engine.CellEngine(open_model_directory(path), "fp16"), directory) as vocoder:
        result = probe(vocoder)
    assert not result.passed
    assert "tensorrt_rtx draws samples" in result.reason


DAMAGED_FP8: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "recurrent rows off by one": ("step.rnn2.weight_hh_l0.fp8_values", lambda values: np.roll(values, 1, axis=0)),
    "outputs swapped": (
        "step.fc2.weight.fp8_values",
        lambda values: values[[*range(80), 180, *range(81, 180), 80, *range(181, 256)]],
    ),
    "the state's scale halved": ("node_linear_1.activation_scale", halved),
    "a dense layer's scale halved": ("node_linear_2.activation_scale", halved),
}


@pytest.mark.parametrize("name", DAMAGED_FP8)
def test_a_damaged_voice_in_fp8_is_found(
    name: str, tmp_path: Path, quantised: Callable[[Grid, bool], ModelDirectory]
) -> None:
    path = Path(shutil.copytree(quantised("fp8", False).path, tmp_path / "voice"))
    edit_initializer(path, *DAMAGED_FP8[name])
    result = probed(path)
    assert not result.passed
    assert "copy the directory again" in result.reason


def test_a_checkpoint_cannot_be_probed(tiny_vocoder: Vocoder, tmp_path: Path) -> None:
    loaded = dataclasses.replace(tiny_vocoder.loaded, path=tmp_path / "checkpoint.pt")
    with Vocoder(loaded) as vocoder, pytest.raises(NoProbeError, match="not a model directory"):
        probe(vocoder)


def test_what_is_decoded_beside_a_probe_is_not_touched(shipped: Vocoder) -> None:
    mel = np.random.default_rng(0).uniform(-1, -0.3, (80, 12)).astype(np.float32)
    alone = shipped.vocode(mel, seed=5)
    tickets = [shipped.submit(wavernn_trt.Request(mel, seed=5)) for _ in range(3)]
    assert probe(shipped).passed
    for ticket in tickets:
        np.testing.assert_array_equal(ticket.result(timeout=60), alone)
