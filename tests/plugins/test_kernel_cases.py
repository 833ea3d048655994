"""Comparison of a kernel's chunk with the reference: allowed and wrong differences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kernel_cases import SequenceCase, small_shapes

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.scripts.gpu.cases import Arrays

MODELS = ("one layer, labels", "two layers, skip, values")
CASE = SequenceCase(small_shapes()["one layer, labels"], "bf16", batch=4, steps=12)


def at_an_edge(case: SequenceCase) -> tuple[Arrays, Arrays]:
    """Inputs whose first stream's third random number lies just below a label's end, and the chunk of a kernel that
    draws the next label there."""
    inputs = case.inputs()
    logits = case.expected(inputs)["logits"][0, 2].astype(np.float64)
    label = int(case.expected(inputs)["samples"][0, 2])
    label -= label == case.shape.outputs - 1
    likelihood = np.exp(logits - logits.max())
    edge = (np.cumsum(likelihood) / likelihood.sum())[label]
    inputs["uniforms"][0, 2, 0] = edge - 1e-5
    beyond = {**inputs, "uniforms": inputs["uniforms"].copy()}
    beyond["uniforms"][0, 2, 0] = edge + 1e-5
    return inputs, case.expected(beyond)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("model", MODELS)
def test_a_label_may_flip_where_the_random_number_lies_at_an_edge(model: str, precision: WeightPrecision) -> None:
    case = SequenceCase(small_shapes()[model], precision, batch=4, steps=12)
    inputs, found = at_an_edge(case)
    assert (found["samples"] != case.expected(inputs)["samples"]).any()
    assert case.excess(found, inputs) <= 1


@pytest.mark.parametrize("model", MODELS)
def test_a_label_may_not_flip_elsewhere(model: str) -> None:
    """In the middle of an interval, where the random numbers of a case lie."""
    case = dataclasses.replace(CASE, shape=small_shapes(classes=8)[model])
    inputs = case.inputs()
    found = case.expected(inputs)
    assert case.excess(found, inputs) == 0
    flipped = found["samples"].copy()
    flipped[1, 5] = (flipped[1, 5] + 1) % 8
    fed = flipped if case.shape.label_feedback else (2 * flipped.astype(np.float32) / np.float32(7) - 1)
    forced = np.concatenate([inputs["previous"][:, None], fed[:, :-1]], axis=1).astype(inputs["previous"].dtype)
    wrong = decode_sequence(case.shape, inputs, "bf16", forced)
    wrong["samples"][1, 5] = flipped[1, 5]
    assert case.excess(wrong, inputs) == np.inf


def test_values_after_a_flip_follow_from_the_label_that_was_drawn() -> None:
    inputs, found = at_an_edge(CASE)
    kept = CASE.expected(inputs)
    assert CASE.excess({**found, "hidden_out": kept["hidden_out"]}, inputs) > 1


def test_many_flips_are_wrong_even_at_edges() -> None:
    """Though each lies at an edge."""
    case = SequenceCase(small_shapes()["one layer, labels"], "bf16", batch=8, steps=1)
    inputs = case.inputs()
    expected = case.expected(inputs)
    logits = expected["logits"][:, 0].astype(np.float64)
    likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
    edges = np.cumsum(likelihood / likelihood.sum(axis=1, keepdims=True), axis=1)
    label = np.minimum(expected["samples"], case.shape.outputs - 2)
    edge = np.take_along_axis(edges, label, 1)[:, 0]
    inputs["uniforms"][:, 0, 0] = edge - 1e-5
    beyond = {**inputs, "uniforms": inputs["uniforms"].copy()}
    beyond["uniforms"][:, 0, 0] = edge + 1e-5
    assert case.excess(case.expected(beyond), inputs) == np.inf


@pytest.mark.parametrize("label", [-1, 37, -(2**31)])
def test_a_label_that_does_not_exist_is_wrong(label: int) -> None:
    inputs = CASE.inputs()
    found = CASE.expected(inputs)
    found["samples"][0, 0] = label
    assert CASE.excess(found, inputs) == np.inf
