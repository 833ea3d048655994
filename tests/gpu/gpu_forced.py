"""Compares long chunks with a teacher-forced reference: the numpy decoder fed with the kernel's own samples.

Free-running, two correct kernels diverge at the first random number that falls between their roundings. Fed with the
same samples, the reference's distribution shows for every sample how far its random number lies outside of the interval
that draws it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from gpu_comparisons import steps_of
from kernel_cases import LOW_TOLERANCE, TOLERANCE, SequenceCase
from numpy.typing import NDArray

from wavernn_trt.export.probe_measures import displacements
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.scripts.gpu.cases import Arrays

DISPLACED = 2e-6
"""Mean displacement of a sample allowed in float32: sums in another order."""
STATES = 5 * TOLERANCE
"""Error of a long chunk's states allowed in float32: errors of many steps."""
COST_STEPS = 64
"""Steps over which the effect of the precision itself is measured."""


@dataclass(frozen=True)
class Forced:
    """Differences of a kernel's chunk from the forced reference."""

    displaced: float
    """Mean displacement of the samples."""
    states: float
    """Root mean square error of the last states."""
    equal: float
    """Share of samples that the reference draws as well."""
    excess: float
    """The larger of both errors as a multiple of what is allowed: at most 1 where the kernel is right."""


@dataclass
class ForcedReference:
    """A chunk and its outputs by kernel; the reference is computed in one pass for those not compared yet."""

    case: SequenceCase
    inputs: Arrays
    found: dict[str, Arrays] = field(default_factory=dict)
    """Outputs by kernel."""
    compared: dict[str, Forced] = field(default_factory=dict)
    """Results by kernel."""
    allowed: tuple[float, float] | None = None
    """Mean displacement and error of states that are allowed."""

    def compare(self, kernel: str) -> Forced:
        """Returns the comparison of a kernel in ``found``."""
        if kernel not in self.compared:
            _compare(self, [name for name in self.found if name not in self.compared])
        return self.compared[kernel]


def _compare(reference: ForcedReference, kernels: list[str]) -> None:
    case, inputs = reference.case, reference.inputs
    batch, outputs = case.batch, [reference.found[kernel] for kernel in kernels]
    repeated = _repeated(case, inputs, len(kernels))
    samples = np.concatenate([one["samples"] for one in outputs])
    written = samples if samples.dtype == np.float32 else np.clip(samples, 0, case.shape.outputs - 1)
    expected = decode_sequence(case.shape, repeated, case.precision, _fed(case, repeated, written))
    if reference.allowed is None:
        reference.allowed = _allowed(reference)
    for i, kernel in enumerate(kernels):
        here = slice(i * batch, (i + 1) * batch)
        displaced = _displaced(case, expected["logits"][here], inputs["uniforms"], written[here])
        if (samples[here] != written[here]).any():
            displaced = np.inf  # labels that do not exist
        difference = outputs[i]["hidden_out"] - expected["hidden_out"][:, here]
        states = float(np.sqrt(np.square(difference).mean()))
        equal = float((samples[here] == expected["samples"][here]).mean())
        excess = max(displaced / reference.allowed[0], states / reference.allowed[1])
        excess = float(np.nan_to_num(excess, nan=np.inf))
        reference.compared[kernel] = Forced(displaced, states, equal, excess)


def _allowed(reference: ForcedReference) -> tuple[float, float]:
    """Returns the allowed effect of another order of sums, plus twice the measured effect of the precision."""
    case = reference.case
    if case.precision == "fp32":
        return DISPLACED, STATES
    inputs = steps_of(case, reference.inputs, 0, min(case.steps, COST_STEPS))
    low = decode_sequence(case.shape, inputs, case.precision)
    plain = decode_sequence(case.shape, inputs, "fp32", _fed(case, inputs, low["samples"]))
    displaced = _displaced(case, plain["logits"], inputs["uniforms"], low["samples"])
    states = float(np.sqrt(np.square(low["hidden_out"] - plain["hidden_out"]).mean()))
    return DISPLACED + LOW_TOLERANCE * displaced, STATES + LOW_TOLERANCE * states


def _displaced(
    case: SequenceCase, logits: NDArray[np.float32], uniforms: NDArray[np.float32], samples: NDArray[Any]
) -> float:
    flat = (logits.reshape(-1, logits.shape[-1]), uniforms.reshape(-1, uniforms.shape[-1]), samples.reshape(-1))
    return float(displacements(cast(Any, case.shape), *flat).mean())  # it reads only how the model draws


def _fed(case: SequenceCase, inputs: Arrays, samples: NDArray[Any]) -> NDArray[Any]:
    """Returns the input of each step, [B, T]: the previous sample, as the decoder takes it."""
    fed = samples[:, :-1]
    if case.shape.output == "categorical" and not case.shape.label_feedback:
        fed = (2 * fed.astype(np.float32) / np.float32(case.shape.outputs - 1) - 1).astype(np.float32)
    return np.concatenate([inputs["previous"][:, None], fed], axis=1)


def _repeated(case: SequenceCase, inputs: Arrays, times: int) -> Arrays:
    found = dict(inputs)
    for operand in case.shape.inputs():
        if "B" in operand.shape:
            found[operand.name] = np.concatenate([inputs[operand.name]] * times, axis=operand.shape.index("B"))
    return found
