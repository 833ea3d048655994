"""The probe: checks in a few dozen milliseconds that a loaded model computes what it was trained to.

A model directory contains a short mel and the PyTorch reference's output for it (`wavernn_trt.export.probe_record`).
Two things are compared:

1. The model: with the reference's samples as input, its logits and their bits equal the reference's.
2. The executor: every sample that it draws is the one that its random number selects from the model's distribution,
   given the samples drawn before. The displacement of a sample is the distance of the random number from the interval
   that selects the sample.

The second needs logits for the drawn samples. Engines give no logits, so ONNX Runtime computes them from the same
directory. Free-running outputs are not compared directly: two right implementations diverge after the first draw that
falls between their roundings. One voice diverges after 13 samples with weights rounded to bfloat16; another is equal
for 464 samples with two rows of a matrix swapped. The displacement uses every step.

Errors are measured in units of the error that products in bfloat16 cause in the model, which the record contains. Mean
displacement of the shipped voice in this unit (with the engines' arithmetic as in `wavernn_trt.plugins.reference`):

=========================================================  ================================================
right: ONNX Runtime, fp16, bf16                            0, 0.001, 0.17
two random rows swapped: recurrent, dense, embedding       from 1.8, except unused embeddings
two random rows swapped: output weights                    from 0.4, except rarely drawn classes
a matrix of zeros                                          from 80
one weight with another sign, or half or twice as large    0 … 0.5: detectable in float32 only
=========================================================  ================================================

The record is of the model before quantisation. The logits of a quantised model may differ from it by the error of its
rounding; the samples are compared with the quantised model's own logits. Error of the logits in the same unit, for the
shipped voice and a model of 1024 classes (turian's), with bounds calibrated by min-max, percentile and mse:

======================================================  ================================  =========================
logits                                                  all                               worst output
======================================================  ================================  =========================
right: int8                                             2.2 … 3.1, turian's 4.4 … 4.5     6.9, turian's 12
right: fp8                                              7.3 … 8.2, turian's 9.9 … 13.2    19, turian's 34
right: weights alone in int8, fp8                       2.0, 4.1, turian's 0.6, 1.3       4.1, 9.9
int8 with an output layer's bound at a third            25 … 50, turian's 4.5 … 11.5      45, turian's 12
two random rows of int8 swapped: dense, output          from 4.8                          from 26, except one of 7
two random rows of int8 swapped: recurrent              from 6.8                          from 14
an activation's scale halved, in int8                   from 13                           from 26
a matrix of zeros                                       from 185                          from 350
======================================================  ================================  =========================

The tolerance of fp8 is the largest: it does not detect two swapped rows of the dense layer, or half the scale of the
last activation. It detects shifted recurrent rows, swapped outputs, and half of any other scale.

Bounds that clip two thirds of a range may be reported as damage; they are as harmful to speech.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import CONFIG, ModelDirectoryError, read_listed
from wavernn_trt.export.probe_measures import bits_of_steps, displacements
from wavernn_trt.export.probe_record import ProbeRecord, read_probe
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.export.typed_json import from_json
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms, sampling_inputs
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model

EXACT = 1 / 500
"""Tolerance of float32 on a CPU, in units of bfloat16's error. Its rounding is 65,536 times finer, so any order of
sums is inside the tolerance; ONNX Runtime was observed to use a tenth of it."""
ENGINES: dict[WeightPrecision, float] = {"fp32": 1 / 8, "fp16": 1 / 8, "bf16": 3.0, "fp8": 48.0}
"""Tolerance on a GPU, in the same unit: the rounding of float16, and of TF32 (used by float32), is 8 times finer than
that of bfloat16; that of fp8 weights is 16 times coarser."""
QUANTISED: dict[str, float] = {
    "fp16": 1 / 4,
    "fp16 weights": 1 / 4,
    "bf16": 1.5,
    "bf16 weights": 1.5,
    "int8": 8.0,
    "int8 weights": 4.0,
    "fp8": 24.0,
    "fp8 weights": 8.0,
}
"""Tolerance of a quantised model's logits and bits, in the same unit: twice the error observed with good bounds."""
_WORST_OUTPUT = 2.5
"""Factor of the worst output's tolerance: rounding affects all outputs, a wrong row only one."""
KERNELS_ON_QUANTISED: dict[str, float] = {"bf16": 3.0, "int8": 8.0, "fp8": 48.0}
"""Additional tolerance on a GPU for rounded activations. Kernels (``cuda``, plans of form ``sequence``) do not round
activations, unlike ONNX Runtime, which computes the logits. 2.8 and 19 were observed in emulation."""
CELLS_ON_QUANTISED: dict[str, float] = {"bf16": 3.0, "int8": 6.5, "fp8": 32.0}
"""The same for plans of form ``cell``, which round activations as ONNX Runtime does. Another order of sums may round to
another number of the grid, and the state keeps the difference: up to 5.1 and 10 were observed with ONNX Runtime and the
graph of such an engine."""
_LEAST = {"logits": 1e-4, "bits": 1e-4, "displacement": 1e-6}
"""Minimum tolerances, for models on which rounding has almost no effect."""


class Probed(Protocol):
    """The part of a `Vocoder` that a probe uses."""

    @property
    def loaded(self) -> LoadedModel: ...

    def labels(self, mel: ArrayLike, *, seed: int, urgency: Literal["interactive", "batch"]) -> NDArray[Any]:
        """Samples that the executor draws, int32 labels or float32 values [n]."""


class NoProbeError(VocoderError):
    """The model cannot be probed; it may be right nevertheless."""


class ProbeFailedError(ExecutorError):
    """The executor does not compute the model."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of a probe. Figures that were not computed are NaN."""

    passed: bool
    reason: str
    """Why the probe failed, with figures; empty if it passed."""
    seconds: float
    """Duration of the probe."""
    bits: float = math.nan
    """Negative log-likelihood of the reference's samples, in bits per sample."""
    expected_bits: float = math.nan
    """The reference's value of ``bits``."""
    logits_error: float = math.nan
    """Root mean square error of the recorded steps' logits."""
    displacement: float = math.nan
    """Mean over the drawn samples; see `wavernn_trt.export.probe_measures.displacements`."""


def probe(vocoder: Probed) -> ProbeResult:
    """Runs the model directory's probe.

    The mel is decoded as an interactive request, which delays other requests slightly. An executor that hangs fails the
    probe after `SchedulerLimits.hang_seconds`. The record and the configuration are read from the disk and their hashes
    checked; for an engine also the rest of the directory, which is loaded with ONNX Runtime.

    Raises:
        NoProbeError: the model was not loaded from a directory with a record, or the engine does not accept short mels.
    """
    began, loaded = time.perf_counter(), vocoder.loaded

    def result(reason: str, **figures: float) -> ProbeResult:
        return ProbeResult(not reason, reason, time.perf_counter() - began, **figures)

    try:
        record = _record(loaded)
        rounding = _rounding(loaded)
    except ModelDirectoryError as error:
        return result(str(error))
    figures: dict[str, float] = {"expected_bits": record.bits}
    try:
        samples = vocoder.labels(record.mel, seed=record.seed, urgency="interactive")
        if reason := _no_samples(loaded, samples):
            return result(reason, **figures)
        forced, own = _logits(loaded, record, samples)
    except ModelDirectoryError as error:
        return result(str(error), **figures)
    except VocoderError as error:
        raise NoProbeError(f"{loaded.path} cannot be probed on {loaded.executor.name}: {error}") from error
    except Exception as error:  # a broken executor may raise anything
        return result(f"{loaded.executor.name} failed: {type(error).__name__}: {error}", **figures)
    with np.errstate(all="ignore"):  # damaged logits may overflow
        return result(_compare(loaded, record, rounding, samples, forced, own, figures), **figures)


def require_probe(vocoder: Probed) -> ProbeResult:
    """Runs the probe, and raises an error if it fails.

    Raises:
        ProbeFailedError: the probe failed.
        NoProbeError: as for `probe`.
    """
    result = probe(vocoder)
    if not result.passed:
        raise ProbeFailedError(f"the probe failed: {result.reason}")
    return result


def _record(loaded: LoadedModel) -> ProbeRecord:
    if not loaded.path.is_dir():
        raise NoProbeError(
            f"{loaded.path} cannot be probed: it is not a model directory; make one with wavernn-trt export"
        )
    record = read_probe(loaded.path, loaded.model, loaded.audio)
    if record is None:
        way = f"wavernn-trt export {loaded.path} -o {loaded.path} --overwrite"
        if _quantised(loaded.path):  # a new export would undo the quantisation
            way = "export the model that it was quantised from again (wavernn-trt export), and quantise that again"
        raise NoProbeError(
            f"{loaded.path} cannot be probed: an earlier version exported it, without a record. To give it one: {way}"
        )
    return record


def _logits(loaded: LoadedModel, record: ProbeRecord, samples: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """The model's logits with the reference's samples as input, and with the executor's samples."""
    scorer = loaded if loaded.engine is None else load_model(loaded.path, LoadOptions("onnxruntime"))
    logits: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for piece in scorer.forced_pieces([(record.mel, record.samples), (record.mel, samples)]):
        logits[piece.stream].append(piece.logits)
    return np.concatenate(logits[0]), np.concatenate(logits[1])


def _no_samples(loaded: LoadedModel, samples: NDArray[Any]) -> str:
    """The error in samples that are invalid and cannot be scored; empty if all are valid."""
    model = loaded.model
    if model.output == "categorical":
        valid = (samples >= 0) & (samples < model.outputs)
        expected = f"a class from 0 to {model.outputs - 1}"
    else:
        valid = np.abs(samples) <= 1.0  # False for NaN
        expected = "a number from -1 to 1"
    if valid.all():
        return ""
    wrong = int(np.argmin(valid))
    return f"{loaded.executor.name} drew {samples[wrong]} as sample {wrong}, expected {expected}"


def _compare(
    loaded: LoadedModel,
    record: ProbeRecord,
    rounding: set[str],
    samples: NDArray[Any],
    forced: FloatArray,
    own: FloatArray,
    figures: dict[str, float],
) -> str:
    """Adds the figures; returns the reason of a failure, or an empty text."""
    model = loaded.model
    numbers = sampling_inputs(model, SeededUniforms(model, record.seed).draw(len(samples)))
    difference = forced[record.steps].astype(np.float64) - record.logits
    figures["logits_error"] = float(np.sqrt(np.square(difference).mean()))
    figures["bits"] = float(bits_of_steps(model, forced, record.samples).mean())
    figures["displacement"] = float(displacements(model, own, numbers, samples).mean())
    # Logits are always computed in float32 (those of an engine by ONNX Runtime), with rounded operands if quantised.
    where = f"{loaded.path}: with the reference's samples"
    mend = _REMEDY_QUANTISED if rounding else _REMEDY
    exactness = max([EXACT, *(QUANTISED[product] for product in rounding)])
    allowed = max(exactness * record.bfloat16.logits, _LEAST["logits"])
    if not figures["logits_error"] <= allowed:
        return f"{where}, logits differ by {figures['logits_error']:.3g}, expected at most {allowed:.3g}; {mend}"
    if rounding:
        by_output = np.sqrt(np.square(difference).mean(axis=0))
        worst, allowed = int(by_output.argmax()), _WORST_OUTPUT * allowed
        if not by_output[worst] <= allowed:
            return (
                f"{where}, logits of output {worst} differ by {by_output[worst]:.3g}, expected at most {allowed:.3g}; "
                + mend
            )
    allowed = max(exactness * record.bfloat16.bits, _LEAST["bits"])
    if not abs(figures["bits"] - record.bits) <= allowed:
        return f"{where}, found {figures['bits']:.4f} bits a sample, expected {record.bits:.4f}; {mend}"
    # bf16 is assumed for an engine that has no attribute ``precision``.
    factor = EXACT
    if loaded.engine is not None:
        factor = ENGINES[getattr(loaded.executor, "precision", "bf16")]
        cells = getattr(loaded.executor, "form", None) == "cell"
        additional = CELLS_ON_QUANTISED if cells else KERNELS_ON_QUANTISED
        factor += max([0.0, *(additional.get(product, 0.0) for product in rounding)])
    allowed = max(factor * record.bfloat16.displacement, _LEAST["displacement"])
    if not figures["displacement"] <= allowed:
        return (
            f"{loaded.executor.name} draws samples that its random numbers do not select: displaced by "
            f"{figures['displacement']:.3g} on average, expected at most {allowed:.3g}; "
            + (_REMEDY if loaded.engine is None else _REMEDY_ON_A_GPU)
        )
    return ""


def _rounding(loaded: LoadedModel) -> set[str]:
    """The precisions of rounded products, as text: of a quantised model, and of the native decoder's weights.

    The native decoder's int16 activations are far finer than its int8 weights.
    """
    rounded = _quantised(loaded.path)
    if loaded.executor.name == "native" and loaded.precision in ("bf16", "int8"):
        rounded.add(f"{loaded.precision} weights")
    return rounded


def _quantised(path: Path) -> set[str]:
    """The precisions of a quantised model's products, as text; see `wavernn_trt.export.quantization.Product`."""
    content = read_listed(path, CONFIG)
    try:
        values = json.loads(content).get("quantization")
        quantization = Quantization({}) if values is None else from_json(Quantization, values, "quantization")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelDirectoryError(f"{path / CONFIG} is damaged: {error}; copy the directory again") from None
    return {str(product) for product in quantization.products.values()}


_REMEDY = "the weights or the executor are damaged: copy the directory again, or export the checkpoint again"
_REMEDY_QUANTISED = (
    "the weights or the executor are damaged, or the bounds clip too much: copy the directory again, or quantise the "
    "model again, with other bounds"
)
_REMEDY_ON_A_GPU = "build the engine again, if it is one, or use --backend onnxruntime"
