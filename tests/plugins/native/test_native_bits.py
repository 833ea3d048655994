"""A stream's bits depend on its inputs only: not on the path, its neighbours, the chunks or the threads."""

from __future__ import annotations

import gc
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import small_shapes
from native_cases import ARITHMETICS, Arithmetic, Arrays, NativeCase, some_steps, some_streams

from wavernn_trt.plugins.cpu.decoder import NativeDecoder
from wavernn_trt.plugins.cpu.library import NativeLibrary

SIZES = [(7, 10, 37), (30, 5, 300), (70, 210, 12)]
"""Hidden units, width of fully connected layers, classes: one to many blocks of every path."""


@given(data=st.data())
def test_bits_are_equal(library: NativeLibrary, data: st.DataObject) -> None:
    draw = data.draw
    shapes = small_shapes(*draw(st.sampled_from(SIZES), "size"))
    case = NativeCase(
        shapes[draw(st.sampled_from(sorted(shapes)), "model")],
        draw(st.sampled_from(ARITHMETICS), "arithmetic"),
        batch=draw(st.integers(1, 33), "batch"),
        steps=6,
    )
    expected = case.open(library, "plain").decode(case.inputs, logits=True)
    path = draw(st.sampled_from(library.paths), "path")
    decoder = case.open(library, path)
    streams = draw(st.permutations(range(case.batch)), "streams")[: draw(st.integers(1, case.batch), "taken")]
    cuts = draw(st.sets(st.integers(1, 5)), "cuts")
    found = in_chunks(
        decoder, some_streams(case.inputs, streams), [0, *sorted(cuts), 6], draw(st.integers(1, 5), "threads")
    )
    assert_equal(found, expected, streams)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("model", ["one layer, labels", "two layers, skip, values"])
def test_every_number_of_streams_and_threads_has_the_same_bits(
    library: NativeLibrary, model: str, arithmetic: Arithmetic
) -> None:
    """Products are unrolled for each number of streams; with 20 threads, most have no block."""
    case = NativeCase(small_shapes(100, 210)[model], arithmetic, batch=33, steps=2)
    decoders = [case.open(library, path) for path in library.paths]
    expected = decoders[-1].decode(case.inputs, logits=True)
    for streams in range(1, 34):
        chosen = list(range(streams))
        for decoder in decoders[:-1] if streams > 4 else decoders:
            found = decoder.decode(some_streams(case.inputs, chosen), threads=1 + streams % 3, logits=True)
            assert_equal(found, expected, chosen)
    for decoder in decoders:
        for stream in (0, 32):
            assert_equal(decoder.decode(some_streams(case.inputs, [stream]), logits=True), expected, [stream])
        assert_equal(decoder.decode(case.inputs, threads=20, logits=True), expected, list(range(33)))


def test_calls_of_one_decoder_may_overlap(library: NativeLibrary) -> None:
    case = NativeCase(small_shapes(40, 30)["two layers, skip, values"], "int8", batch=8, steps=40)
    decoder = case.open(library)
    expected = decoder.decode(case.inputs, logits=True)
    subsets = [[i % 8, *range(i % 5)] for i in range(40)]
    with ThreadPoolExecutor(5) as pool:
        calls = [
            pool.submit(decoder.decode, some_streams(case.inputs, streams), threads=1 + i % 3, logits=True)
            for i, streams in enumerate(subsets)
        ]
        for call, streams in zip(calls, subsets, strict=True):
            assert_equal(call.result(timeout=60), expected, streams)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_memory_of_closed_decoders_and_ended_chunks_is_freed(library: NativeLibrary) -> None:
    """A decoder takes 3 MB, a chunk 0.6 MB, of which none may remain."""
    case = NativeCase(small_shapes(256, 200)["two layers, no skip"], batch=33, steps=1)
    resident = []
    for i in range(220):
        decoder = case.open(library)
        decoder.decode(case.inputs, threads=3)
        del decoder
        if i == 20:
            gc.collect()
        if i >= 20:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
    assert resident[-1] - resident[0] < 8e6


def in_chunks(decoder: NativeDecoder, inputs: Arrays, cuts: list[int], threads: int) -> dict[str, Any]:
    """Decodes chunk after chunk, each with the state that the last one left."""
    parts = []
    state = {name: inputs[name] for name in ("previous", "hidden")}
    for first, end in itertools.pairwise(cuts):
        parts.append(decoder.decode({**some_steps(inputs, first, end), **state}, threads=threads, logits=True))
        state = {"previous": parts[-1]["previous_out"], "hidden": parts[-1]["hidden_out"]}
    whole = {name: np.concatenate([part[name] for part in parts], axis=1) for name in ("samples", "logits")}
    return {**parts[-1], **whole}


def assert_equal(found: dict[str, Any], expected: dict[str, Any], streams: list[int]) -> None:
    for name, value in found.items():
        kept = expected[name][:, streams] if name == "hidden_out" else expected[name][streams]
        np.testing.assert_array_equal(value.view(np.uint32), np.ascontiguousarray(kept).view(np.uint32), err_msg=name)
