"""exp, sigmoid and tanh have equal bits on every path; the caller's floating-point modes change nothing."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from kernel_cases import small_shapes
from native_arithmetic import apply
from native_cases import ARITHMETICS, Arithmetic, NativeCase
from numpy.typing import NDArray

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.plugins.cpu.library import NativeLibrary

EXACT: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "exp": np.exp,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
LARGEST_ERRORS = {"exp": ((0, 1.0),), "sigmoid": ((-np.inf, 2.5), (-16.6, 2.0)), "tanh": ((0, 2.5), (0.3, 1.5))}
"""In units of the last place from a number on, as in functions.h; exp and tanh: from a magnitude on."""
LOWEST, HIGHEST = -87.0, 88.0
"""The arguments of exp whose results are not those of the nearest end."""


def numbers() -> FloatArray:
    """Numbers of every exponent and sign, denormal ones too; and many of the size of gates."""
    random = np.random.default_rng(0)
    bits = np.repeat(np.arange(512, dtype=np.uint32) << 23, 1000)
    bits |= random.integers(0, 2**23, bits.size, dtype=np.uint32)
    every = bits.view(np.float32)
    # Where exp(2 |x|) begins another power of two, and where tanh and exp saturate.
    edges = np.float32(np.concatenate([np.arange(-260, 260) * np.log(2) / 4, [LOWEST, HIGHEST, -9.02, 9.02, 0, -0.0]]))
    near = (edges.view(np.uint32)[:, None] + np.arange(-20, 21, dtype=np.int64)).astype(np.uint32).view(np.float32)
    usual = random.uniform(-12, 12, 200_000), random.uniform(LOWEST, HIGHEST, 200_000)
    found = np.concatenate([every[np.isfinite(every)], near.ravel(), *usual]).astype(np.float32)
    return found[np.isfinite(found)]


@pytest.mark.parametrize("function", EXACT)
def test_errors_are_as_documented(library: NativeLibrary, function: str) -> None:
    x = numbers()
    if function != "tanh":
        x = x[(x >= LOWEST) & (x <= HIGHEST)]
    exact = EXACT[function](x.astype(np.float64))
    found = apply(library, library.paths[0], function, x)
    errors = np.abs(found - exact) / np.spacing(np.abs(exact.astype(np.float32)))
    for first, largest in LARGEST_ERRORS[function]:
        assert errors[(x if function == "sigmoid" else np.abs(x)) >= first].max() <= largest


@pytest.mark.parametrize("function", EXACT)
def test_bits_are_equal_on_every_path(library: NativeLibrary, function: str) -> None:
    expected, *others = (apply(library, path, function, numbers()).view(np.uint32) for path in library.paths)
    for found in others:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("path_index", range(3))
def test_the_ends_of_the_range(library: NativeLibrary, path_index: int) -> None:
    path = library.paths[path_index % len(library.paths)]
    x = np.array([-np.inf, -3e38, -100, -0.0, 0, 100, 3e38, np.inf, np.nan], np.float32)
    ends = apply(library, path, "exp", np.array([LOWEST, HIGHEST], np.float32))
    np.testing.assert_array_equal(apply(library, path, "exp", x), [*ends[[0, 0, 0]], 1, 1, *ends[[1, 1, 1]], np.nan])
    sigmoid = apply(library, path, "sigmoid", x)
    np.testing.assert_array_equal(sigmoid[3:], [0.5, 0.5, 1, 1, 1, np.nan])
    assert ((sigmoid[:3] >= 0) & (sigmoid[:3] < 1e-38)).all()
    tanh = apply(library, path, "tanh", x)
    np.testing.assert_array_equal(tanh, [-1, -1, -1, 0, 0, 1, 1, 1, np.nan])
    assert np.signbit(tanh[3])
    assert not np.signbit(tanh[4])


MODES = {
    "x86_64": (28, {"denormals are zeros": 0x8040, "towards zero": 0x6000}),
    "aarch64": (0, {"denormals are zeros": 1 << 24, "towards zero": 3 << 22}),
}
"""Offset of the control register in fenv_t, and its bits."""


@contextmanager
def modes(mode: str) -> Iterator[Callable[[], bool]]:
    """Changes this thread's floating-point modes; yields a function: whether they still are as set."""
    offset, bits = MODES[platform.machine()]
    libm = ctypes.CDLL("libm.so.6")
    saved, wanted, found = ((ctypes.c_ubyte * 64)() for _ in range(3))
    libm.fegetenv(saved)
    libm.fegetenv(wanted)
    register = ctypes.c_uint32.from_buffer(wanted, offset)
    register.value |= bits[mode]

    def unchanged() -> bool:
        libm.fegetenv(found)
        return ctypes.c_uint32.from_buffer(found, offset).value & bits[mode] == bits[mode]

    libm.fesetenv(wanted)
    try:
        yield unchanged
    finally:
        libm.fesetenv(saved)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MODES, reason="sets modes as in glibc's fenv_t"
)
@pytest.mark.parametrize("mode", ["denormals are zeros", "towards zero"])
def test_modes_of_the_caller_change_nothing_and_stay(library: NativeLibrary, mode: str) -> None:
    def results(check: Callable[[], bool]) -> Sequence[NDArray[np.generic]]:
        """Of every function of the library; values are copied, and bits compared, elsewhere."""
        found = []
        for case, inputs in cases:
            decoder = case.open(library)
            assert check()
            for threads in (1, 2):
                found += decoder.decode(inputs, threads=threads, logits=True).values()
                assert check()
        for function in EXACT:
            found.append(apply(library, library.paths[0], function, x))
            assert check()
        found.append(library.de_emphasis(signal, 0.97, 0.0))
        assert check()
        return found

    x = numbers()[::100]
    signal = np.random.default_rng(0).standard_normal(1000) * 1e-308
    arithmetics: tuple[Arithmetic, ...] = ARITHMETICS
    cases = []
    for arithmetic in arithmetics:
        case = NativeCase(small_shapes(20)["two layers, skip, values"], arithmetic)
        inputs = case.inputs
        inputs["output_weight"][::2] *= np.float32(1e-38)  # logits of these classes are denormal
        inputs["output_bias"][::2] = 0
        cases.append((case, inputs))
    expected = results(lambda: True)
    assert any(0 < np.abs(logits[logits != 0]).min() < 1e-38 for logits in expected[3:28:4])
    with modes(mode) as unchanged:
        found = results(unchanged)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))
