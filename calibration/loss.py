"""Measures the loss of rounding a model's products, in bits per sample, and selects products to keep in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.quantize import check_unquantized, quantize
from wavernn_trt.calibration.score import Progress, Speech, fit_speech
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model

Report = Callable[[str, float], None]
"""Called with the measured products and their loss in bits."""


@contextmanager
def rounded_model(
    directory: ModelDirectory, quantization: Quantization, *, batch: int | None = None, threads: int | None = None
) -> Iterator[LoadedModel]:
    """Loads a model with rounded products, from a temporary model directory, in ONNX Runtime.

    Args:
        directory: a verified model directory, not quantised.
        quantization: the rounded products; without any it is the model itself.
        batch: streams decoded together.
        threads: CPU threads per lane.
    """
    with tempfile.TemporaryDirectory(prefix="wavernn-trt-") as folder:
        path = directory.path
        if quantization.products:
            path = quantize(directory, quantization, Path(folder) / "rounded", steps=1, batch=1).path
        yield load_model(path, LoadOptions("onnxruntime", batch, threads))


class LossMeter:
    """Measures quantisations of one model on the same speech."""

    def __init__(
        self,
        directory: ModelDirectory,
        speech: Sequence[Speech],
        *,
        batch: int | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Measures the unrounded model.

        Args:
            directory: a verified model directory, not quantised.
            speech: recordings from `wavernn_trt.calibration.score.analyse`, with this model's audio settings; not
                those that it was trained or calibrated on.
            batch: recordings at a time.
            threads: CPU threads.
            progress: called with the number of samples done, in every measurement.

        Raises:
            CalibrationError: the directory is quantised.
        """
        check_unquantized(directory)
        self._directory = directory
        self._speech = speech
        self._batch, self._threads, self._progress = batch, threads, progress
        self.bits = self._bits(Quantization({}))
        """Bits per sample of the model in float32."""

    def loss(self, quantization: Quantization) -> float:
        """Returns the loss of a quantisation in bits per sample; may be negative."""
        return self._bits(quantization) - self.bits if quantization.products else 0.0

    def _bits(self, quantization: Quantization) -> float:
        with rounded_model(self._directory, quantization, batch=self._batch, threads=self._threads) as loaded:
            fits = [fit for _, fit in fit_speech(loaded, self._speech, self._progress)]
        return sum(fit.bits for fit in fits) / sum(fit.samples for fit in fits)


@dataclass(frozen=True)
class Choice:
    """Result of `keep_within`."""

    quantization: Quantization
    """The products that are rounded; possibly none."""
    loss: float
    """Its loss in bits per sample."""
    sensitivity: dict[str, float]
    """Loss of each product when only that one is rounded, the largest first."""
    kept: tuple[str, ...]
    """Products that stay in float32 for the budget, in that order."""


def measurements(quantization: Quantization, budget: float | None) -> int:
    """Returns the largest number of runs over the speech in `keep_within`, including that of the `LossMeter`."""
    products = len(quantization.products)
    together = 0 if products < 2 else 1 if budget is None else products - 1
    return 1 + products + together


def keep_within(
    meter: LossMeter, quantization: Quantization, budget: float | None, report: Report | None = None
) -> Choice:
    """Keeps the most sensitive products in float32 until the loss of the others is within a budget.

    Losses are not additive, since errors of products may cancel. Each product is measured alone, which gives the order;
    then the remaining ones are measured together after each removal.

    Args:
        meter: the meter of the model.
        quantization: all products to round.
        budget: allowed loss in bits per sample; ``None`` only measures.
        report: called for each measurement.

    Raises:
        CalibrationError: the budget is not positive.
    """
    if budget is not None and not budget > 0:
        raise CalibrationError(f"budget: found {budget}, expected a positive number of bits a sample")
    report = report or (lambda name, loss: None)
    alone: dict[str, float] = {}
    for name in quantization.products:
        alone[name] = meter.loss(quantization.without(set(quantization.products) - {name}))
        report(name, alone[name])
    order = sorted(alone, key=lambda name: -alone[name])
    sensitivity = {name: alone[name] for name in order}
    kept: list[str] = []
    while True:
        rounded = quantization.without(kept)
        loss = alone[order[-1]] if len(rounded.products) == 1 else meter.loss(rounded)
        if rounded.products:
            report(", ".join(rounded.products), loss)
        if budget is None or loss <= budget or not rounded.products:
            return Choice(rounded, loss, sensitivity, tuple(kept))
        kept.append(order[len(kept)])
