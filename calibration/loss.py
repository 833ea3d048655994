"""What rounding a model's products costs, in bits a sample, and which of them to leave alone."""

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

Tell = Callable[[str, float], None]
"""Called with the products that were measured, and their loss in bits."""


@contextmanager
def rounded_model(
    directory: ModelDirectory, quantization: Quantization, *, batch: int | None = None, threads: int | None = None
) -> Iterator[LoadedModel]:
    """Loads a model with rounded products, from a temporary model directory, in ONNX Runtime.

    Args:
        directory: a verified model directory, not quantised.
        quantization: which products, and how; none at all is the model itself.
        batch: streams decoded together.
        threads: CPU threads of a lane.
    """
    with tempfile.TemporaryDirectory(prefix="wavernn-trt-") as folder:
        path = directory.path
        if quantization.products:
            path = quantize(directory, quantization, Path(folder) / "rounded", steps=1, batch=1).path
        yield load_model(path, LoadOptions("onnxruntime", batch, threads))


class LossMeter:
    """Measures roundings of one model on the same speech."""

    def __init__(
        self,
        directory: ModelDirectory,
        speech: Sequence[Speech],
        *,
        batch: int | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Measures the model as it is.

        Args:
            directory: a verified model directory, not quantised.
            speech: recordings of this model, from `wavernn_trt.calibration.score.analyse`; none that it was
                calibrated or trained on.
            batch: recordings at a time.
            threads: CPU threads.
            progress: called with the number of samples done, in every measurement.

        Raises:
            CalibrationError: a directory that is quantised.
        """
        check_unquantized(directory)
        self._directory = directory
        self._speech = speech
        self._batch, self._threads, self._progress = batch, threads, progress
        self.bits = self._bits(Quantization({}))
        """Of the model in float32, a sample."""

    def loss(self, quantization: Quantization) -> float:
        """What a rounding costs, in bits a sample; below zero where it happens to help."""
        return self._bits(quantization) - self.bits if quantization.products else 0.0

    def _bits(self, quantization: Quantization) -> float:
        with rounded_model(self._directory, quantization, batch=self._batch, threads=self._threads) as loaded:
            fits = [fit for _, fit in fit_speech(loaded, self._speech, self._progress)]
        return sum(fit.bits for fit in fits) / sum(fit.samples for fit in fits)


@dataclass(frozen=True)
class Choice:
    """Which products are rounded."""

    quantization: Quantization
    """What is left to round; no products where none may be."""
    loss: float
    """Of that, in bits a sample."""
    sensitivity: dict[str, float]
    """What each product costs where it alone is rounded, the most harmful first."""
    kept: tuple[str, ...]
    """Products that were left in float32 for the budget, in that order."""


def measurements(quantization: Quantization, budget: float | None) -> int:
    """How many times at most `keep_within` has the speech run, that of the `LossMeter` itself included."""
    products = len(quantization.products)
    together = 0 if products < 2 else 1 if budget is None else products - 1
    return 1 + products + together


def keep_within(meter: LossMeter, quantization: Quantization, budget: float | None, tell: Tell | None = None) -> Choice:
    """Leaves the most harmful products in float32 until what the others cost is within a budget.

    Harms are not sums: products' errors add up or cancel. So each is measured alone, which gives the order, and what is
    left is measured together after each that is taken out.

    Args:
        meter: measures.
        quantization: all that is to be rounded.
        budget: bits a sample that may be lost; ``None`` keeps none and only measures.
        tell: called for each measurement.

    Raises:
        CalibrationError: a budget that is not positive.
    """
    if budget is not None and not budget > 0:
        raise CalibrationError(f"budget: found {budget}, expected a positive number of bits a sample")
    report = tell or (lambda name, loss: None)
    harm: dict[str, float] = {}
    for name in quantization.products:
        harm[name] = meter.loss(quantization.without(set(quantization.products) - {name}))
        report(name, harm[name])
    order = sorted(harm, key=lambda name: -harm[name])
    sensitivity = {name: harm[name] for name in order}
    kept: list[str] = []
    while True:
        rounded = quantization.without(kept)
        loss = harm[order[-1]] if len(rounded.products) == 1 else meter.loss(rounded)
        if rounded.products:
            report(", ".join(rounded.products), loss)
        if budget is None or loss <= budget or not rounded.products:
            return Choice(rounded, loss, sensitivity, tuple(kept))
        kept.append(order[len(kept)])
