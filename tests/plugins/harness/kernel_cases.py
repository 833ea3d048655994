"""Random cells and sequences to run kernels on, and how closely a kernel has to follow its numpy reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.reference import MIXTURES, decode_sequence, gru_cell
from wavernn_trt.plugins.resident import ResidentPlan
from wavernn_trt.plugins.sequence import SequencePlan
from wavernn_trt.plugins.targets import DeviceProperties
from wavernn_trt.scripts.gpu.cases import STANDARD, Arrays, CellCase, ChunkCase, random_operand, univoc_shape

TOLERANCE = 2e-5
"""Largest error in float32, as a share of the largest value (at least 1): sums in another order, and another tanh."""
LOW_TOLERANCE = 2.0
"""In low precision, the root of the mean square error as a share of what the precision itself changes. Now and then an
operand at the edge between two numbers is rounded to the other one; over the steps that spreads, until a kernel and its
reference are two runs with errors of the same size. In a single step they are far closer."""
SINGLE_STEP_EXCESS = 0.2
"""What `SequenceCase.excess` may be after one step. A kernel that rounded nothing would be at a half."""
MOST_FLIPS = 0.05
"""The share of a chunk's labels that may be the neighbour of the reference's; one label always may."""
GPUS = [
    DeviceProperties.of("A100", 80, 108),
    DeviceProperties.of("RTX 3090", 86, 82),
    DeviceProperties.of("L4", 89, 58),
    DeviceProperties.of("H100", 90, 132),
    DeviceProperties.of("B200", 100, 148),
    DeviceProperties.of("RTX 5090", 120, 170),
]
A100, _, L4, H100, B200, _ = GPUS
UNIVOC, FATCHORD = (STANDARD[name].shape for name in ("univoc-896", "fatchord-512"))


@dataclass(frozen=True)
class GruCase(CellCase):
    """A random cell and the tolerance of its result."""

    def excess(self, next_hidden: NDArray[np.float32]) -> float:
        """A kernel's largest error as a multiple of what is allowed: at most 1 where it is right."""
        gates, hidden, weight, bias = self.inputs().values()
        expected = gru_cell(gates, hidden, weight, bias, self.precision)
        return _excess({"next_hidden": next_hidden}, {"next_hidden": expected}, {"next_hidden": expected}, "fp32")


@dataclass(frozen=True)
class SequenceCase(ChunkCase):
    """A random chunk of a random model, its reference, and the tolerance of its results."""

    def inputs(self) -> Arrays:
        """By the names of ``shape.inputs()``; weights as they are stored.

        The random numbers that choose a class are in the middle of its interval, so that rounding cannot move a sample.
        """
        random = np.random.default_rng(self.shape.hidden_size)
        sizes: dict[int | str, int] = {"B": self.batch, "T": self.steps, "W": self.window}
        inputs = {
            operand.name: random_operand(self.shape, operand, sizes, random, self.precision)
            for operand in self.shape.inputs()
        }
        self.centre(inputs)
        return inputs

    def expected(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """What the reference gives."""
        return decode_sequence(self.shape, inputs, self.precision)

    def excess(self, found: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> float:
        """A kernel's largest error as a multiple of what is allowed.

        Where labels differ, the reference is fed with the kernel's own labels, and each of those must be one that the
        reference draws with logits inside their tolerance; else the error is infinite. So it is where more than
        `MOST_FLIPS` of the labels differ.
        """
        expected = self.expected(inputs)
        forced = None
        drawn = found.get("samples") if self.shape.output == "categorical" else None
        if drawn is not None and (drawn != expected["samples"]).any():
            if not ((drawn >= 0) & (drawn < self.shape.outputs)).all():
                return np.inf
            forced = self._fed(drawn, inputs)
            expected = decode_sequence(self.shape, inputs, self.precision, forced[:, :-1])
        plain = expected
        if self.precision != "fp32":
            plain = decode_sequence(self.shape, inputs, "fp32", None if forced is None else forced[:, :-1])
        if forced is not None:
            if not self._may_flip(found["samples"], expected, plain, inputs):
                return np.inf
            expected = {**expected, "samples": found["samples"], "previous_out": forced[:, -1]}
        labels = [name for name, value in found.items() if value.dtype != np.float32]
        if any((found[name] != expected[name]).any() for name in labels):
            return np.inf
        values = {name: value for name, value in found.items() if name not in labels}
        return _excess(values, expected, plain, self.precision)

    def _fed(self, labels: NDArray[np.int32], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """What each step and the one behind the chunk are fed with, [B, T + 1], where labels [B, T] are drawn."""
        previous = inputs["previous"]
        drawn: NDArray[Any] = labels
        if not self.shape.label_feedback:
            drawn = 2 * labels.astype(np.float32) / np.float32(self.shape.outputs - 1) - 1
        return np.concatenate([previous[:, None], drawn.astype(previous.dtype)], axis=1)

    def _may_flip(
        self, labels: NDArray[np.int32], expected: Arrays, plain: Arrays, inputs: Mapping[str, NDArray[Any]]
    ) -> bool:
        """Whether the random number of each label lies in its interval, widened by what the logits may be off.

        Logits that are each off by up to e move a cumulative probability F by up to 2 e F (1 - F).
        """
        if (labels != expected["samples"]).sum() > max(1, MOST_FLIPS * labels.size):
            return False
        logits = expected["logits"].astype(np.float64)
        allowed = _allowed(expected["logits"], plain["logits"], self.precision)
        likelihood = np.exp(logits - logits.max(axis=2, keepdims=True))
        edges = np.pad(np.cumsum(likelihood / likelihood.sum(axis=2, keepdims=True), axis=2), ((0, 0), (0, 0), (1, 0)))
        reach = 2 * allowed * edges * (1 - edges) + TOLERANCE
        lower, upper = (
            np.take_along_axis(one, labels[..., None] + side, 2)[..., 0]
            for side, one in enumerate((edges - reach, edges + reach))
        )
        uniforms = inputs["uniforms"][:, :, 0]
        return bool(((lower <= uniforms) & (uniforms <= upper)).all())

    def centre(self, inputs: Arrays) -> None:
        """Moves the random numbers that choose a class to the middle of its interval."""
        if self.shape.output == "gaussian":
            return
        classes = MIXTURES if self.shape.output == "logistic_mixture" else self.shape.outputs
        axes = {"frame_index": 1, "interpolation": 2, "uniforms": 1}
        state = {name: inputs[name] for name in ("previous", "hidden")}
        for step in range(self.steps):
            one = {name: np.take(inputs[name], [step], axis) for name, axis in axes.items() if name in inputs}
            logits = decode_sequence(self.shape, {**inputs, **one, **state}, self.precision)["logits"][:, 0, :classes]
            inputs["uniforms"][:, step, 0] = _middle(logits, inputs["uniforms"][:, step, 0])
            one["uniforms"] = inputs["uniforms"][:, step : step + 1]
            found = decode_sequence(self.shape, {**inputs, **one, **state}, self.precision)
            state = {"previous": found["previous_out"], "hidden": found["hidden_out"]}


def _middle(logits: NDArray[np.float32], uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    likelihood = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(likelihood / likelihood.sum(axis=1, keepdims=True), axis=1)
    edges = np.pad(cumulative, ((0, 0), (1, 0)))
    chosen = np.argmax(cumulative > uniforms[:, None], axis=1)[:, None]
    both = np.take_along_axis(edges, chosen, 1) + np.take_along_axis(edges, chosen + 1, 1)
    return np.asarray(both[:, 0] / 2, np.float32)


def _allowed(expected: NDArray[np.float32], plain: NDArray[np.float32], precision: WeightPrecision) -> float:
    """The error that a kernel's values may have: the largest one in ``fp32``, else the root of the mean square."""
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if precision == "fp32":
        return allowed
    return allowed + LOW_TOLERANCE * float(np.sqrt(np.square(plain - expected).mean()))


def _excess(found: Mapping[str, Any], expected: Arrays, plain: Arrays, precision: WeightPrecision) -> float:
    worst = 0.0
    for name, value in found.items():
        difference = np.abs(value - expected[name])
        error = difference.max() if precision == "fp32" else np.sqrt(np.square(difference).mean())
        share = error / _allowed(expected[name], plain[name], precision)
        worst = max(worst, float(np.nan_to_num(share, nan=np.inf)))
    return worst


def small_shapes(hidden_size: int = 7, fc_size: int = 10, classes: int = 37) -> dict[str, SequenceShape]:
    """A model of every kind that a sequence kernel computes.

    Args:
        hidden_size: H.
        fc_size: width of the fully connected layers; a second one is one narrower.
        classes: outputs of the categorical ones.
    """
    wide = 3 * hidden_size
    one = univoc_shape(hidden_size, fc_size, classes)
    both = (0, 1)
    columns = (wide + hidden_size, 2 * wide + hidden_size + 2 * fc_size - 1)
    two = SequenceShape(
        hidden_size=hidden_size,
        layers=2,
        fc_sizes=(fc_size, fc_size - 1),
        outputs=classes,
        output="categorical",
        label_feedback=False,
        skip=True,
        group_columns=columns,
        group_held=(False, True),
        place_groups=(both, both, (1,), (1,), (1,)),
    )
    return {
        "one layer, labels": one,
        "two layers, skip, values": two,
        "mixture": dataclasses.replace(two, outputs=3 * MIXTURES, output="logistic_mixture"),
        "gaussian": dataclasses.replace(two, outputs=2, output="gaussian", group_held=(False, False)),
        "one group, interpolated": dataclasses.replace(
            two,
            group_columns=(wide + hidden_size,),
            group_held=(False,),
            place_groups=((0,), (0,), (), (), ()),
        ),
        "two layers, no skip": dataclasses.replace(
            one,
            layers=2,
            group_columns=(2 * wide + fc_size,),
            group_held=(True,),
            place_groups=((0,), (0,), (0,)),
        ),
        "one layer, skip": dataclasses.replace(
            one,
            label_feedback=False,
            skip=True,
            group_columns=(wide + hidden_size,),
            place_groups=((0,), (0,), ()),
        ),
    }


def resident_share(plan: SequencePlan | ResidentPlan) -> float:
    """The part of the weights that stays in shared memory, 0 to 1; of the block with the largest share."""
    kept = sum(matrix.resident * matrix.set_bytes for matrix in plan.matrices.values())
    return kept / sum(matrix.sets * matrix.set_bytes for matrix in plan.matrices.values())
