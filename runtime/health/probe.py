"""Does a loaded model still compute what it was trained to? A few dozen milliseconds tell.

A model directory holds a short mel and what the PyTorch reference made of it (`wavernn_trt.export.probe_record`). Two
things are compared:

1. The model: fed with the reference's samples, its logits and their bits are the reference's.
2. The executor: every sample that it draws by itself is the one that its random number picks from the model's
   distribution, given the samples that it drew before. How far the number lies outside of what would have picked the
   sample is its displacement.

The second needs logits for samples that nobody knew before. An engine gives none, so ONNX Runtime computes them, from
the same directory. Free-running outputs themselves are not compared: two right implementations part after the first
draw between their roundings, one voice's after 13 samples where its weights are rounded to bfloat16, while another's
agree for 464 with two rows of a matrix swapped. The displacement has no such accidents: every step counts.

Differences are measured in what products in bfloat16 cost the model, which the record says. For the shipped voice, the
mean displacement in that unit (the engines' arithmetic as `wavernn_trt.plugins.reference` has it):

=========================================================  ================================================
right: ONNX Runtime, fp16, bf16                            0, 0.001, 0.17
two rows swapped, at random: recurrent, dense, embedding   from 1.8, but for embeddings that are not used
two rows swapped, at random: output weights                from 0.4, but for classes that are hardly drawn
a matrix of zeros                                          from 80
one weight with another sign, or half or twice as large    0 … 0.5: only float32 can be held to that
=========================================================  ================================================

The record is of the model before its products were rounded. A quantised one lies from it what its rounding costs, which
is allowed; what it draws is held to its own logits as closely as ever. Logits in the same unit, of the shipped voice
and of a model of 1024 classes (turian's), with the bounds that calibration finds by min-max, percentile and mse:

======================================================  ================================  =========================
logits                                                  all of them                       the output worst off
======================================================  ================================  =========================
right: int8                                             2.2 … 3.1, turian's 4.4 … 4.5     6.9, turian's 12
right: fp8                                              7.3 … 8.2, turian's 9.9 … 13.2    19, turian's 34
right: weights alone in int8, fp8                       2.0, 4.1, turian's 0.6, 1.3       4.1, 9.9
int8 with an output layer's bound at a third            25 … 50, turian's 4.5 … 11.5      45, turian's 12
two rows of int8 swapped, at random: dense, output      from 4.8                          from 26, but for one of 7
two rows of int8 swapped, at random: recurrent          from 6.8                          from 14
an activation's scale halved, in int8                   from 13                           from 26
a matrix of zeros                                       from 185                          from 350
======================================================  ================================  =========================

Of fp8, whose rounding costs the most, more is let pass: two rows of the dense layer swapped, or the last activation's
scale halved. Recurrent rows off by one, outputs swapped and the other scales halved are found.

So bounds that clip two thirds of a range can be found as damage is, and are as bad for speech.
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

from wavernn_trt.export.model_directory import CONFIG, ModelDirectoryError, read_listed
from wavernn_trt.export.probe_measures import bits_of_steps, displacements
from wavernn_trt.export.probe_record import ProbeRecord, read_probe
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.export.typed_json import from_json
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms, sampling_inputs
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model

EXACT = 1 / 500
"""Allowed to float32 on a CPU, in units of bfloat16's cost. It rounds 65,536 times finer: there is room for any order
of sums, and ONNX Runtime was seen to take a tenth of it."""
ENGINES: dict[WeightPrecision, float] = {"fp32": 1 / 8, "fp16": 1 / 8, "bf16": 3.0, "fp8": 48.0}
"""Allowed on a GPU, in the same unit: float16 rounds 8 times finer than bfloat16, and so does the TF32 of float32; the
weights of fp8 are rounded 16 times more coarsely."""
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
"""Allowed to the logits and bits of a quantised model, in the same unit: about twice what was seen of sound bounds."""
_WORST_OUTPUT = 2.5
"""How much more the output may be off that is worst off: rounding spreads over all of them, a wrong row does not."""
KERNELS_ON_QUANTISED: dict[str, float] = {"bf16": 3.0, "int8": 8.0, "fp8": 48.0}
"""Allowed on a GPU besides, where activations are rounded: kernels (of ``cuda``, and of plans of form ``sequence``)
leave them as they are, ONNX Runtime, which scores, does not. Kernels were seen to take 2.8 and 19, emulated."""
CELLS_ON_QUANTISED: dict[str, float] = {"bf16": 3.0, "int8": 3.0, "fp8": 32.0}
"""The same of plans of form ``cell``, which round activations as ONNX Runtime does. But sums in another order take one
to the next number of its grid now and then, and the state remembers it: ONNX Runtime, with such an engine's graph, was
seen to take 1.1 and 10."""
_LEAST = {"logits": 1e-4, "bits": 1e-4, "displacement": 1e-6}
"""Allowed in any case: of models that no rounding touches, the unit is almost nothing."""


class Probed(Protocol):
    """What is probed: a `Vocoder`."""

    @property
    def loaded(self) -> LoadedModel:
        """The model and its executor."""

    def labels(self, mel: ArrayLike, *, seed: int, urgency: Literal["interactive", "batch"]) -> NDArray[Any]:
        """Samples that the executor draws, int32 labels or float32 values [n]."""


class NoProbeError(VocoderError):
    """The model cannot be probed, which does not say that anything is wrong with it."""


class ProbeFailedError(ExecutorError):
    """The executor does not compute the model; says what was found."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found. Figures that were not reached are NaN."""

    passed: bool
    reason: str
    """What is wrong, with the figures; empty if nothing is."""
    seconds: float
    """That the probe took."""
    bits: float = math.nan
    """Of the reference's samples, in bits a sample."""
    expected_bits: float = math.nan
    """What the reference found for them."""
    logits_error: float = math.nan
    """Root mean square difference of the recorded steps' logits."""
    displacement: float = math.nan
    """Mean over the samples that the executor drew; see `wavernn_trt.export.probe_measures.displacements`."""


def probe(vocoder: Probed) -> ProbeResult:
    """Runs the model directory's probe.

    It is decoded as an interactive request: what is decoded beside it waits a little longer, and an executor that does
    not return fails the probe after `SchedulerLimits.hang_seconds`. Nothing is read from the disk but the record and
    the configuration, whose hashes are checked; for an engine, the whole directory, from which ONNX Runtime is loaded.

    Args:
        vocoder: a loaded model.

    Raises:
        NoProbeError: it was not loaded from a model directory with a record, or the engine takes no mel so short.
    """
    began, loaded = time.perf_counter(), vocoder.loaded

    def result(reason: str, **figures: float) -> ProbeResult:
        return ProbeResult(not reason, reason, time.perf_counter() - began, **figures)

    try:
        record = _record(loaded)
        rounding = _rounding(loaded.path)
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
    except Exception as error:  # whatever a broken executor raises is what the probe is to find
        return result(f"{loaded.executor.name} failed: {type(error).__name__}: {error}", **figures)
    with np.errstate(all="ignore"):  # damaged logits overflow anything
        return result(_compare(loaded, record, rounding, samples, forced, own, figures), **figures)


def require_probe(vocoder: Probed) -> ProbeResult:
    """Runs the probe, which has to pass.

    Args:
        vocoder: a loaded model.

    Raises:
        ProbeFailedError: it did not.
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
        if _rounding(loaded.path):  # which that would undo
            way = "export the model that it was quantised from again (wavernn-trt export), and quantise that again"
        raise NoProbeError(
            f"{loaded.path} cannot be probed: an earlier version exported it, without a record. To give it one: {way}"
        )
    return record


def _logits(loaded: LoadedModel, record: ProbeRecord, samples: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """The model's logits, fed with the reference's samples and with the executor's own."""
    scorer = loaded if loaded.engine is None else load_model(loaded.path, LoadOptions("onnxruntime"))
    logits: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for piece in scorer.forced_pieces([(record.mel, record.samples), (record.mel, samples)]):
        logits[piece.stream].append(piece.logits)
    return np.concatenate(logits[0]), np.concatenate(logits[1])


def _no_samples(loaded: LoadedModel, samples: NDArray[Any]) -> str:
    """What is wrong with samples that cannot even be scored."""
    model = loaded.model
    if model.output == "categorical":
        right = (samples >= 0) & (samples < model.outputs)
        expected = f"a class from 0 to {model.outputs - 1}"
    else:
        right = np.abs(samples) <= 1.0  # not of NaN
        expected = "a number from -1 to 1"
    if right.all():
        return ""
    wrong = int(np.argmin(right))
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
    """Fills in the figures; returns what is wrong."""
    model = loaded.model
    numbers = sampling_inputs(model, SeededUniforms(model, record.seed).draw(len(samples)))
    difference = forced[record.steps].astype(np.float64) - record.logits
    figures["logits_error"] = float(np.sqrt(np.square(difference).mean()))
    figures["bits"] = float(bits_of_steps(model, forced, record.samples).mean())
    figures["displacement"] = float(displacements(model, own, numbers, samples).mean())
    # The logits are float32's, but for rounded operands, on every backend that has any: an engine's come from ONNX
    # Runtime.
    where = f"{loaded.path}: with the reference's samples"
    mend = _MEND_QUANTISED if rounding else _MEND
    exactness = max([EXACT, *(QUANTISED[one] for one in rounding)])
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
    # Of an engine that does not say, the coarsest is assumed.
    factor = EXACT
    if loaded.engine is not None:
        factor = ENGINES[getattr(loaded.executor, "precision", "bf16")]
        cells = getattr(loaded.executor, "form", None) == "cell"
        besides = CELLS_ON_QUANTISED if cells else KERNELS_ON_QUANTISED
        factor += max([0.0, *(besides.get(one, 0.0) for one in rounding)])
    allowed = max(factor * record.bfloat16.displacement, _LEAST["displacement"])
    if not figures["displacement"] <= allowed:
        return (
            f"{loaded.executor.name} draws samples that its random numbers do not pick: displaced by "
            f"{figures['displacement']:.3g} on average, expected at most {allowed:.3g}; "
            + (_MEND if loaded.engine is None else _MEND_ON_A_GPU)
        )
    return ""


def _rounding(path: Path) -> set[str]:
    """What a model's products are rounded to, as `wavernn_trt.export.quantization.Product` names it."""
    content = read_listed(path, CONFIG)
    try:
        values = json.loads(content).get("quantization")
        quantization = Quantization({}) if values is None else from_json(Quantization, values, "quantization")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelDirectoryError(f"{path / CONFIG} is damaged: {error}; copy the directory again") from None
    return {str(product) for product in quantization.products.values()}


_MEND = "the weights are damaged, or what computes with them: copy the directory again, or export the checkpoint again"
_MEND_QUANTISED = (
    "the weights are damaged, or what computes with them, or too much is clipped: copy the directory again, or "
    "quantise the model again, with other bounds"
)
_MEND_ON_A_GPU = "build the engine again, if it is one, or use --backend onnxruntime"
