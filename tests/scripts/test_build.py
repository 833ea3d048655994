"""The commands ``build``, and ``inspect`` of a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="graphs are ONNX graphs")
pytest.importorskip("tensorrt_rtx", reason="plans are built by TensorRT-RTX")

from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped voice, built by the README's command."""
    cache = tmp_path_factory.mktemp("cache") / "plans"
    assert main(["build", "--sm", "80,86,89,120", "-o", str(cache), "-q"]) == 0
    return cache


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped voice, with all products but the last in fp8."""
    products = {"recurrent_0": Product("fp8", 1.0), "fc_0": Product("fp8", 8.0)}
    folder = tmp_path_factory.mktemp("quantized") / "voice"
    return quantize(open_model_directory(shipped_voice()), Quantization(products), folder, steps=2).path


def test_a_quantised_directory_is_built_with_its_products(quantized: Path, tmp_path: Path, capsys: Capture) -> None:
    cache = ["-o", str(tmp_path / "cache"), "-q"]
    assert main(["build", str(quantized), "--steps", "2", *cache]) == 0
    assert "; products in fp8: recurrent_0, fc_0; fp16: output\n" in capsys.readouterr().out
    assert main(["build", str(quantized), "--steps", "2", "--sm", "89,120", *cache, "--json"]) == 0
    decoder = json.loads(capsys.readouterr().out)[1]
    assert (decoder["form"], decoder["targets"]) == ("cell", ["sm89", "sm120"])
    assert not decoder["built"]  # without a GPU, those are the targets that have fp8
    assert decoder["products"] == {"recurrent_0": "fp8", "fc_0": "fp8", "output": "fp16"}
    assert main(["inspect", decoder["plan"]]) == 0
    printed = capsys.readouterr().out.partition("products of a step")[2]
    assert [line.split() for line in printed.splitlines()[1:4]] == [[*pair] for pair in decoder["products"].items()]


def test_the_form_sequence_multiplies_fp8_products_in_fp16_and_reports_it(
    quantized: Path, tmp_path: Path, capsys: Capture
) -> None:
    build = ["build", str(quantized), "--sm", "86", "-o", str(tmp_path / "cache"), "-q"]
    assert main(build) == 2
    assert (
        "fp8, which TensorRT multiplies in the form cell from compute capability 89 on; found 86"
        in capsys.readouterr().err
    )
    assert main([*build, "--form", "sequence"]) == 0
    captured = capsys.readouterr()
    assert "form sequence: products run in fp16 with the rounded weights" in captured.err
    assert "; products in fp16\n" in captured.out


def test_the_shipped_voice_is_built_for_four_generations(plans: Path, capsys: Capture) -> None:
    assert main(["engines", "list", "--cache", str(plans), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["plans"]
    assert {plan["manifest"]["role"] for plan in listed} == {"conditioner", "decoder"}
    for plan in listed:
        assert plan["manifest"]["targets"] == ["sm80", "sm86", "sm89", "sm120"]


def test_a_second_build_takes_the_plans_of_the_cache(plans: Path, capsys: Capture) -> None:
    assert main(["build", "--sm", "120,89,86,80", "-o", str(plans), "--memory-limit", "1e300"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("in the cache; took") == 2
    assert "engine ready after" in captured.err
    assert captured.err.rstrip().endswith(f"in {plans}")


def test_inspect_lays_out_a_plan_and_names_what_needs_a_gpu(plans: Path, capsys: Capture) -> None:
    from wavernn_trt.engines.gpu import driver_state

    (plan,) = plans.glob("*_decoder_*/*.plan")
    assert main(["inspect", str(plan)]) == 0
    printed = capsys.readouterr().out
    for words in ("sm80, sm86, sm89, sm120", "WaveRNNSequencePlugin version 1", "PLUGIN_V3", "float32   [8, 1024, 1]"):
        assert words in printed
    if not driver_state().devices:
        assert "not known: TensorRT-RTX opens a plan on a GPU only, and" in printed
    assert main(["inspect", str(plan), "--json"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (values["layers_of_plan"] is None) == (values["layers_unknown"] is not None)


def test_inspect_of_a_damaged_plan_exits_with_1(plans: Path, tmp_path: Path, capsys: Capture) -> None:
    (plan,) = plans.glob("*_conditioner_*/*.plan")
    (tmp_path / plan.name).write_bytes(plan.read_bytes()[:-1])
    (tmp_path / plan.with_suffix(".json").name).write_bytes(plan.with_suffix(".json").read_bytes())
    assert main(["inspect", str(tmp_path / plan.name)]) == 1
    assert "not known: the plan is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sm", "90"], "does not build for 90, only for 75, 80, 86, 89, 120, 121; for an H100 or H200 build with"),
        (["--sm", "ampere"], "found 'ampere', expected compute capabilities, as in 86,89"),
        (["--batch", "8:4:2"], "expected 1 <= minimum <= optimum <= maximum"),
        (["--batch", "5000"], "batch: found 5000, expected at most 4096"),
        (["--steps", "100000"], "steps: found 100000, expected 1 to 65536"),
        (["--backend", "tensorrt", "--sm", "86"], "regular TensorRT builds for the GPU it runs on"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(
    tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(["build", "-o", str(tmp_path / "cache"), *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "cache").exists()


def test_inspect_of_a_path_without_a_plan_exits_2(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tmp_path / "nothing.plan")]) == 2
    assert "found no plan with its .json beside it; build one with: wavernn-trt build DIR" in capsys.readouterr().err
    (tmp_path / "voice.plan").mkdir()
    assert main(["inspect", str(tmp_path / "voice.plan")]) == 2
    assert "is not a model directory. Make one" in capsys.readouterr().err
