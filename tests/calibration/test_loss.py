"""The loss of rounding, and the products that a budget leaves in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from small_voice import SMALL_VOICE

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.loss import LossMeter, keep_within, measurements, rounded_model
from wavernn_trt.calibration.precisions import PRECISIONS, quantization_of
from wavernn_trt.calibration.quantize import quantize
from wavernn_trt.calibration.score import Speech, analyse, fit_speech
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.export.quantization import Product, Quantization

BOUNDS = {"recurrent_0": 1.0, "fc_0": 1.0, "output": 16.0}
INT8 = Quantization({name: Product("int8", bound) for name, bound in BOUNDS.items()})


class Losses(LossMeter):
    """Given losses: of a set of products the sum of its members' or, where given, another value."""

    def __init__(self, alone: Mapping[str, float], together: Mapping[str, float] | None = None) -> None:
        self.bits = 4.0
        self.measured: list[str] = []
        self._alone, self._together = alone, together or {}

    def loss(self, quantization: Quantization) -> float:
        names = " ".join(quantization.products)
        self.measured.append(names)
        return self._together.get(names, sum(self._alone[name] for name in quantization.products))


@pytest.fixture(scope="module")
def directory() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture(scope="module")
def speech(directory: ModelDirectory) -> list[Speech]:
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.1, samples).astype(np.float32) for samples in (900, 1400)]
    return [analyse(directory.audio, waveform, 16000) for waveform in noise]


def test_without_a_budget_all_products_are_rounded_and_each_is_measured() -> None:
    reported: list[tuple[str, float]] = []
    meter = Losses({"recurrent_0": 0.002, "fc_0": 0.001, "output": 0.3})
    choice = keep_within(meter, INT8, None, lambda name, loss: reported.append((name, loss)))
    assert choice.quantization == INT8
    assert choice.loss == pytest.approx(0.303)
    assert list(choice.sensitivity) == ["output", "recurrent_0", "fc_0"]
    assert choice.kept == ()
    assert [name for name, _ in reported] == ["recurrent_0", "fc_0", "output", "recurrent_0, fc_0, output"]
    assert len(meter.measured) + 1 == measurements(INT8, None)


def test_products_of_the_largest_loss_are_excluded_until_the_rest_is_within_the_budget() -> None:
    meter = Losses({"recurrent_0": 0.02, "fc_0": 0.001, "output": 0.3})
    for budget, kept in ((0.4, ()), (0.03, ("output",)), (0.01, ("output", "recurrent_0"))):
        choice = keep_within(meter, INT8, budget)
        assert choice.kept == kept
        assert set(choice.quantization.products) == {*BOUNDS} - {*kept}
        assert choice.loss <= budget


def test_the_loss_of_several_products_is_measured_not_added_up() -> None:
    alone = {"recurrent_0": 0.004, "fc_0": 0.003, "output": 0.005}
    worse = Losses(alone, {"recurrent_0 fc_0 output": 0.02, "recurrent_0 fc_0": 0.011})
    choice = keep_within(worse, INT8, 0.01)
    assert choice.kept == ("output", "recurrent_0")
    assert choice.loss == alone["fc_0"]


def test_no_product_is_rounded_where_none_is_within_the_budget() -> None:
    choice = keep_within(Losses(dict.fromkeys(BOUNDS, 0.5)), INT8, 0.01)
    assert choice.quantization.products == {}
    assert choice.loss == 0.0
    assert set(choice.kept) == {*BOUNDS}


def test_the_number_of_measurements_is_known_before() -> None:
    for products in (("output",), ("fc_0", "output"), tuple(BOUNDS)):
        quantization = INT8.without({*BOUNDS} - {*products})
        for budget in (None, 0.01):
            meter = Losses(dict.fromkeys(BOUNDS, 0.5))  # the worst case: none can be rounded
            keep_within(meter, quantization, budget)
            measured = [names for names in meter.measured if names]
            assert len(measured) + 1 == measurements(quantization, budget)


def test_a_quantised_directory_is_refused(directory: ModelDirectory, tmp_path: Path) -> None:
    rounded = quantize(directory, INT8, tmp_path / "rounded", steps=1)
    with pytest.raises(CalibrationError, match="quantised already"):
        LossMeter(rounded, [])


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_an_invalid_budget_is_refused(budget: float) -> None:
    with pytest.raises(CalibrationError, match="expected a positive number of bits"):
        keep_within(Losses(dict.fromkeys(BOUNDS, 0.5)), INT8, budget)


def test_the_loss_is_the_difference_of_the_models_bits(directory: ModelDirectory, speech: list[Speech]) -> None:
    done: list[int] = []
    meter = LossMeter(directory, speech, threads=1, progress=done.append)
    with rounded_model(directory, INT8, threads=1) as loaded:
        fits = [fit for _, fit in fit_speech(loaded, speech)]
    assert sum(done) == sum(fit.samples for fit in fits)
    bits = sum(fit.bits for fit in fits) / sum(fit.samples for fit in fits)
    assert meter.loss(INT8) == pytest.approx(bits - meter.bits, abs=1e-12)
    assert meter.loss(Quantization({})) == 0.0
    narrow = Quantization({"recurrent_0": Product("int8", 0.25)})
    assert meter.loss(narrow) > 10 * abs(meter.loss(Quantization({"recurrent_0": Product("int8", 1.0)})))


def test_finer_grids_have_smaller_losses(directory: ModelDirectory, speech: list[Speech]) -> None:
    meter = LossMeter(directory, speech, threads=1)
    fp16, bf16 = (abs(meter.loss(quantization_of(name, directory.model))) for name in ("fp16", "bf16"))
    weights = abs(meter.loss(quantization_of("int8-weights", directory.model)))
    assert fp16 < bf16 < weights < abs(meter.loss(INT8)) + 0.1
    assert fp16 < 1e-3


def test_names_of_precisions_become_quantisations(directory: ModelDirectory) -> None:
    model = directory.model
    assert quantization_of("fp32", model).products == {}
    assert {str(p) for p in quantization_of("fp8-weights", model).products.values()} == {"fp8 weights"}
    assert set(quantization_of("bf16", model, kept=["output"]).products) == {"recurrent_0", "fc_0"}
    for name in PRECISIONS:
        if name in ("int8", "fp8"):
            with pytest.raises(CalibrationError, match="wavernn-trt calibrate"):
                quantization_of(name, model)
        else:
            quantization_of(name, model)
    with pytest.raises(CalibrationError, match=r"found 'int4', expected one of fp32, .*int8"):
        quantization_of("int4", model)
    with pytest.raises(CalibrationError, match="found 'fc_2', expected some of recurrent_0, fc_0, output"):
        quantization_of("int8-weights", model, kept=["fc_2"])
