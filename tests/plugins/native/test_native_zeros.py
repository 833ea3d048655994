"""Blocks of zeros that are skipped change no bits, except that 1 x 4 blocks have an order of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kernel_cases import small_shapes
from native_cases import BLOCKS, Arithmetic, Arrays, Blocks, NativeCase, some_streams

from wavernn_trt.plugins.cpu.decoder import Zeros
from wavernn_trt.plugins.cpu.library import NativeLibrary

MODELS = ["one layer, labels", "two layers, skip, values", "two layers, no skip"]
SIZES = [(7, 10, 37), (50, 130, 30), (129, 65, 200)]
"""Hidden units, width of fully connected layers, classes: not multiples of blocks of weights or of rows."""
WITHOUT_SKIPPING: dict[Zeros, Zeros] = {"16x1": "dense", "4x1": "dense", "1x4": "keep 1x4"}
"""The same order of sums, of all weights."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("model", MODELS)
def test_skipping_zeros_changes_no_bits(
    library: NativeLibrary, model: str, blocks: Blocks, size: tuple[int, int, int]
) -> None:
    """Also of blocks that the model's zeros do not have, and where all of a matrix is zero."""
    case = NativeCase(small_shapes(*size)[model], batch=13, steps=2, blocks=blocks)
    case.inputs["fc_weight_0"][:] = 0
    for zeros, all_weights in WITHOUT_SKIPPING.items():
        expected = case.open(library, "plain", all_weights).decode(case.inputs, logits=True)
        for path in library.paths:
            decoder = case.open(library, path, zeros)
            for streams, threads in ((1, 1), (2, 3), (13, 2), (13, 7)):
                found = decoder.decode(first_streams(case.inputs, streams), threads=threads, logits=True)
                for name, value in found.items():
                    kept = expected[name][:, :streams] if name == "hidden_out" else expected[name][:streams]
                    np.testing.assert_array_equal(value, kept, err_msg=f"{name}, {zeros}, {path}, {streams} streams")


@pytest.mark.parametrize("arithmetic", ["fp32", "int8"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_zeros_are_found_and_skipped_in_float32(library: NativeLibrary, blocks: Blocks, arithmetic: Arithmetic) -> None:
    """Every operation is as documented, and so near to the reference."""
    for model in MODELS:
        case = NativeCase(small_shapes(90, 70, 60)[model], arithmetic, steps=2, blocks=blocks)
        found = case.open(library).decode(case.inputs, logits=True)
        expected = dataclasses.replace(case.exact(library), precisions={}).decode(case.inputs)
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{model}: {name}")
        assert case.excess(found) <= 1


def first_streams(inputs: Arrays, streams: int) -> Arrays:
    return some_streams(inputs, list(range(streams)))
