"""Long chunks beside the reference: fed with the samples of all kernels at once, it says how far each is off.

Free-running, two right kernels part at the first random number that falls between their roundings. Fed with the same
samples, the reference's distribution says of every sample how far its random number lies outside of what draws it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.probe_measures import displacements
from wavernn_trt.plugins.kernel_cases import LOW_TOLERANCE, TOLERANCE, Arrays, SequenceCase
from wavernn_trt.plugins.sequence_reference import decode_sequence
from wavernn_trt.scripts.gpu.comparisons import steps_of
from wavernn_trt.scripts.gpu.tasks import Outcome

DISPLACED = 2e-6
"""Of a sample in float32, on average: sums in another order."""
STATES = 5 * TOLERANCE
"""Of a long chunk's states in float32: errors of many steps."""
COST_STEPS = 64
"""Over which it is measured what the precision itself changes."""


@dataclass
class ForcedReference:
    """A chunk, and what kernels made of it."""

    case: SequenceCase
    inputs: Arrays
    found: dict[str, Arrays] = field(default_factory=dict)
    """Outputs by kernel."""
    compared: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """By kernel: mean displacement of samples, error of states, share of equal samples."""
    allowed: tuple[float, float] | None = None
    """Mean displacement, and error of states."""


def compare_forced(reference: ForcedReference, kernel: str) -> Outcome:
    """A kernel's chunk beside the reference that is fed with its samples; others that wait are compared with it."""
    if kernel not in reference.compared:
        waiting = [name for name in reference.found if name not in reference.compared]
        _compare(reference, waiting)
    displaced, states, equal = reference.compared[kernel]
    allowed = reference.allowed or _allowed(reference)
    excess = max(displaced / allowed[0], states / allowed[1])
    text = f"{equal:.2%} of the samples equal, displaced by {displaced:.2g} on average, states by {states:.2g}"
    numbers = {"excess": min(float(np.nan_to_num(excess, nan=1e9)), 1e9), "equal_samples": equal}
    return Outcome("passed" if excess <= 1 else "failed", text, {**numbers, "displaced": displaced, "states": states})


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
        states = outputs[i]["hidden_out"] - expected["hidden_out"][:, here]
        equal = float((samples[here] == expected["samples"][here]).mean())
        reference.compared[kernel] = displaced, float(np.sqrt(np.square(states).mean())), equal


def _allowed(reference: ForcedReference) -> tuple[float, float]:
    """Twice what the precision itself changes, measured over a few steps, and what sums in another order may."""
    case = reference.case
    if case.precision == "fp32":
        return DISPLACED, STATES
    steps = min(case.steps, COST_STEPS)
    inputs = steps_of(case, reference.inputs, 0, steps)
    low = decode_sequence(case.shape, inputs, case.precision)
    plain = decode_sequence(case.shape, inputs, "fp32", _fed(case, inputs, low["samples"]))
    displaced = _displaced(case, plain["logits"], inputs["uniforms"], low["samples"])
    states = float(np.sqrt(np.square(low["hidden_out"] - plain["hidden_out"]).mean()))
    return DISPLACED + LOW_TOLERANCE * displaced, STATES + LOW_TOLERANCE * states


def _displaced(
    case: SequenceCase, logits: NDArray[np.float32], uniforms: NDArray[np.float32], samples: NDArray[Any]
) -> float:
    flat = (logits.reshape(-1, logits.shape[-1]), uniforms.reshape(-1, uniforms.shape[-1]), samples.reshape(-1))
    return float(displacements(cast(Any, case.shape), *flat).mean())  # of a model, it asks only what it draws


def _fed(case: SequenceCase, inputs: Arrays, samples: NDArray[Any]) -> NDArray[Any]:
    """What each step is fed with, [B, T]: the sample before it, as the decoder takes it."""
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
