"""The commands ``export`` and ``inspect``."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch's")
pytest.importorskip("onnx", reason="graphs are ONNX graphs")
load_file = pytest.importorskip("safetensors.torch", reason="model directories hold safetensors").load_file

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.model_directory import open_model_directory, write_manifest
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.cli import main

Command = Callable[..., tuple[int, str, str]]


def write_checkpoint(path: Path) -> Path:
    """A small univoc checkpoint without a configuration."""
    generator = torch.Generator().manual_seed(0)
    recurrent = {
        "rnn1": torch.nn.GRU(80, 3, num_layers=2, bidirectional=True).state_dict(),
        "rnn2": torch.nn.GRU(4 + 6, 8).state_dict(),
    }
    state = {f"{name}.{key}": value for name, values in recurrent.items() for key, value in values.items()}
    for name, shape in (("embedding.weight", (16, 4)), ("fc1.weight", (5, 8)), ("fc2.weight", (16, 5))):
        state[name] = torch.randn(shape, generator=generator)
    state |= {"fc1.bias": torch.zeros(5), "fc2.bias": torch.zeros(16)}
    torch.save({"model": state, "scaler": {}}, path)
    return path


@pytest.fixture
def univoc_file(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model-1.pt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that ``export`` made, and what it printed beside it, in a .json."""
    folder = tmp_path_factory.mktemp("exported")
    arguments = [str(write_checkpoint(folder / "model-1.pt")), "-o", str(folder / "v"), "--steps", "4", "--batch", "2"]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert main(["export", *arguments, "--set", "sample_rate=24000", "--json", "--quiet"]) == 0
    assert err.getvalue() == ""
    (folder / "v.json").write_text(out.getvalue())
    return folder / "v"


def test_export_reports_its_steps_checks_and_assumptions(univoc_file: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command("export", univoc_file, "-o", tmp_path / "v", "--steps", 8, "--verify")
    assert code == 0, err
    assert "assumed: sample_rate = 16000" in out
    for line in ("fold the embedding", "hoist the conditioning", "fuse the gates", "unroll", "loop", "decoder.onnx"):
        assert line in out
    assert "8 of 8 samples equal" in out
    bars = re.findall(r"\|(.*?)\|", err)
    assert set(bars[-1]) in ({"█"}, {"#"}), "the progress bar ends full"


def test_export_takes_averaged_weights_and_names_the_option_for_the_others(
    univoc_file: Path, tmp_path: Path, command: Command
) -> None:
    weights = torch.load(univoc_file, weights_only=True)["model"]
    averaged = {f"module.{name}": value + 0.01 for name, value in weights.items()}
    torch.save({"model": weights, "ema": {"shadow": averaged}, "scaler": {}}, univoc_file)
    code, out, err = command("export", univoc_file, "-o", tmp_path / "v", "--steps", 2, "-q")
    assert code == 0, err
    assert "averaged weights taken from 'ema.shadow'; --entry model takes the others" in out
    exported = load_file(tmp_path / "v" / "checkpoint.safetensors")
    assert torch.equal(exported["fc1.bias"], weights["fc1.bias"] + 0.01)


def test_export_and_inspect_print_json(exported: Path, command: Command) -> None:
    made = json.loads(exported.with_suffix(".json").read_text())
    assert (made["family"], made["steps"], made["batch"]) == ("univoc", 4, 2)
    assert {check["what"] for check in made["checks"]} >= {"fold the embedding", "unroll", "loop"}
    code, out, _ = command("inspect", exported, "--json")
    assert code == 0
    assert json.loads(out)["audio"]["sample_rate"] == 24000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "sample_rate"], "expected NAME=VALUE"),
        (["--set", "colour=red"], "unknown setting 'colour'"),
        (["--set", "fmin=1", "--set", "fmin=2"], "--set: fmin is given twice"),
        (["--set", "temperature=1", "--temperature", "2"], "--set temperature and --temperature are both given"),
        (["--set", "mode=" + "[" * 9999], "mode: found"),
        (["--set", "sample_rate=-3"], "sample_rate"),
        (["--family", "fatchord"], "fatchord"),
        (["--steps", "0"], "--steps: found '0', expected a positive integer"),
        (["--batch", "-1"], "--batch: found '-1'"),
        (["--temperature", "0"], "temperature"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--entry", "ema"], "entry: found no 'ema', expected one of model ("),
    ],
)
def test_wrong_usage_of_export_is_one_line(
    univoc_file: Path, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    code, out, err = command("export", univoc_file, "-o", tmp_path / "v", "--quiet", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("wavernn-trt: error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "v").exists()


def test_inspect_shows_the_shipped_voice(command: Command) -> None:
    code, out, _ = command("inspect", shipped_voice())
    assert code == 0
    for text in ("univoc", "1.212 MFLOP", "CustomGRUPlugin", "1024", "PluginV3", "no violations", "16000", "SHA-256"):
        assert text in out
    code, out, _ = command("inspect", shipped_voice(), "--json")
    values = json.loads(out)
    assert values["nodes"]["decoder.onnx"]["CustomGRUPlugin"] == 1024
    assert values["compatibility"]["decoder.onnx"]["violations"] == []
    assert values["work"]["mflop_per_sample"] == pytest.approx(2 * (3 * 384**2 + 384 * 256 + 256 * 256) / 1e6)
    assert set(values["files"]) >= {"decoder.onnx", "conditioner.onnx", "decoder.weights"}


def test_inspect_lists_the_products_of_a_quantised_model(tmp_path: Path, command: Command) -> None:
    products = {
        "recurrent_0": Product("int8", 1.0),
        "fc_0": Product("fp8", weights_only=True),
        "output": Product("bf16"),
    }
    plain = open_model_directory(shipped_voice())
    directory = quantize(plain, Quantization(products, "b" * 64), tmp_path / "v", steps=2).path
    code, out, _ = command("inspect", directory, "--json")
    values = json.loads(out)["quantization"]
    assert (code, values["table"]) == (0, "b" * 64)
    found = {
        name: (product["grid"], product["bound"], product["decoder"]) for name, product in values["products"].items()
    }
    assert found == {
        "recurrent_0": ("int8", 1.0, "int8"), "fc_0": ("fp8", None, "fp8 weights"), "output": ("bf16", None, "fp32"),
    }  # fmt: skip
    code, out, _ = command("inspect", directory)
    printed = [line.split() for line in out.partition("products of a step")[2].splitlines()[1:5]]
    assert code == 0
    assert printed == [
        ["recurrent_0", "int8,", "activations", "up", "to", "1", "int8"],
        ["fc_0", "fp8", "weights", "fp8", "weights"],
        ["output", "bf16", "no:", "the", "engine's", "precision"],
        ["calibration", "table", "SHA-256", "b" * 64],
    ]
    code, out, _ = command("inspect", shipped_voice(), "--json")
    assert json.loads(out)["quantization"] is None


def test_inspect_refuses_a_folder_without_a_model(tmp_path: Path, command: Command) -> None:
    code, out, err = command("inspect", tmp_path)
    assert (code, out) == (2, "")
    assert "is not a model directory" in err


def test_inspect_runs_the_probe_of_a_model(tmp_path: Path, command: Command) -> None:
    code, out, _ = command("inspect", shipped_voice(), "--probe", "--json")
    probe = json.loads(out)["probe"]
    assert (code, probe["passed"], probe["backend"]) == (0, True, "onnxruntime")
    assert probe["bits"] == pytest.approx(probe["expected_bits"], abs=1e-3)
    damaged = shutil.copytree(shipped_voice(), tmp_path / "damaged")
    weights = damaged / "decoder.weights"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    weights.write_bytes(content)
    write_manifest(damaged)  # so that the hashes match
    code, out, _ = command("inspect", damaged, "--probe")
    assert code == 1
    assert "bits" in out.split("probe on onnxruntime")[1]


def test_the_probe_of_a_plan_is_refused(command: Command) -> None:
    code, out, err = command("inspect", "decoder.plan", "--probe")
    assert (code, out) == (2, "")
    assert "--probe: found a plan, expected the model directory that it was built from" in err


def test_lint_passes_an_export_and_names_a_node_that_cannot_run(
    exported: Path, tmp_path: Path, command: Command
) -> None:
    pytest.importorskip("polygraphy", reason="lint is polygraphy's")
    import onnx

    shutil.copytree(exported, tmp_path / "v")
    code, out, _ = command("inspect", tmp_path / "v", "--lint", "--json")
    assert (code, json.loads(out)["lint"]) == (0, {"decoder.onnx": [], "conditioner.onnx": []})
    graph = onnx.load(tmp_path / "v" / "conditioner.onnx")
    node = next(node for node in graph.graph.node if node.op_type == "Transpose")
    node.attribute[0].ints[:] = [0, 1, 2, 3, 4, 5]
    onnx.save(graph, tmp_path / "v" / "conditioner.onnx")
    write_manifest(tmp_path / "v")
    code, out, _ = command("inspect", tmp_path / "v", "--lint")
    assert code == 1
    assert re.search(rf"exception: {re.escape(node.name)}: .*perm", out)
