"""The native decoder computes equal bits on NEON, and when another compiler builds it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kernel_cases import small_shapes
from native_driver import FUNCTIONS, NativeDriver, build_driver
from numpy.typing import NDArray

from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.cpu.decoder import NativeDecoder
from wavernn_trt.scripts.gpu.cases import random_operand

PROGRAMS = {
    "g++": ("g++", (), ()),
    "clang++": ("clang++", (), ()),
    "NEON, emulated": ("aarch64-linux-gnu-g++", ("-static",), ("qemu-aarch64",)),
}
"""Compiler, further flags, and the emulator."""
PACKAGES = {
    "g++": "g++",
    "clang++": "clang",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
}
"""Debian's package of each program."""
PROGRAM = pytest.mark.parametrize("program", PROGRAMS)
pytestmark = pytest.mark.slow
PRECISIONS = ("fp32", "bf16", "int8", "int8 activations")
SHAPES = {**small_shapes(), "wide": small_shapes(70, 66, 130)["two layers, skip, values"]}
STEPS, WINDOW = 5, 4

Decode = Callable[[str, str, int], dict[str, NDArray[Any]]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], NativeDriver]:
    """A function name of `PROGRAMS` -> that program, built once."""

    @functools.cache
    def build(name: str) -> NativeDriver:
        compiler, flags, emulator = PROGRAMS[name]
        for tool in (compiler, *emulator):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not on PATH (Debian: apt install {PACKAGES[tool]})")
        folder = tmp_path_factory.mktemp("driver")
        build_driver(compiler, folder / "native_driver", flags)
        return NativeDriver([*emulator, str(folder / "native_driver")], folder)

    return build


@pytest.fixture(scope="module")
def expected(driver: Callable[[str], NativeDriver]) -> Decode:
    """A function (shape, precision, batch) -> what g++'s build without vector instructions decodes."""
    return functools.cache(functools.partial(decoded, driver("g++"), "plain"))


def decoded(
    driver: NativeDriver, path: str, name: str, precision: str, batch: int, threads: int = 1
) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = decoder(driver, path, name, precision).decode(
        operands(name, batch), threads=threads, logits=True
    )
    return found


def operands(name: str, batch: int) -> dict[str, NDArray[Any]]:
    """Random weights and inputs of a shape."""
    random = np.random.default_rng(batch)
    sizes: dict[int | str, int] = {"B": batch, "T": STEPS, "W": WINDOW}
    shape = SHAPES[name]
    return {operand.name: random_operand(shape, operand, sizes, random, "fp32") for operand in shape.inputs()}


def decoder(
    driver: NativeDriver, path: str, name: str, precision: str, weights: dict[str, NDArray[Any]] | None = None
) -> NativeDecoder:
    shape = SHAPES[name]
    scales = dict.fromkeys(MATRICES, 0.01) if precision == "int8 activations" else {}
    fed_back = np.linspace(-1, 1, shape.outputs, dtype=np.float32)
    library: Any = driver  # in place of a NativeLibrary
    precisions: Any = dict.fromkeys(MATRICES, precision.split()[0])
    weights = operands(name, 1) if weights is None else weights
    return NativeDecoder(shape, weights, fed_back, precisions, scales, library=library, path=path)


def bits(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Bits of numbers, the same for every NaN: their signs differ between CPUs."""
    if values.dtype != np.float32:
        return values.view(np.uint32)
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


@pytest.mark.parametrize("precision", PRECISIONS)
@PROGRAM
def test_every_path_of_a_build_decodes_the_same_bits(
    program: str, precision: str, driver: Callable[[str], NativeDriver], expected: Decode
) -> None:
    built = driver(program)
    assert "plain" in built.paths
    for name, batch, path in cases(built):
        right = expected(name, precision, batch)
        assert np.isfinite(right["logits"]).all()
        found = decoded(built, path, name, precision, batch)
        for output, values in right.items():
            np.testing.assert_array_equal(
                found[output].view(np.uint32), values.view(np.uint32), f"{name}, {batch} streams, {path}: {output}"
            )


@pytest.mark.parametrize("precision", PRECISIONS)
@PROGRAM
def test_states_of_nan_and_infinity_have_the_same_effect(
    program: str, precision: str, driver: Callable[[str], NativeDriver]
) -> None:
    name = "two layers, skip, values"
    inputs = operands(name, 3)
    inputs["hidden"][:, 0, 2], inputs["hidden"][:, 1, 5] = np.nan, np.inf
    right = decoder(driver("g++"), "plain", name, precision).decode(inputs, logits=True)
    for path in driver(program).paths:
        found = decoder(driver(program), path, name, precision).decode(inputs, logits=True)
        for output, values in right.items():
            np.testing.assert_array_equal(bits(found[output]), bits(values), f"{path}: {output}")


@PROGRAM
def test_states_below_the_smallest_become_zero(program: str, driver: Callable[[str], NativeDriver]) -> None:
    """With weights of zero, a step halves every state."""
    name = "wide"
    inputs = {key: np.zeros_like(value) for key, value in operands(name, 1).items()}
    inputs["hidden"][:] = np.geomspace(1e-38, 1e-18, inputs["hidden"].shape[2], dtype=np.float32)
    halves = inputs["hidden"] * np.float32(0.5**STEPS)
    right = np.where(halves < np.float32(1e-30), np.float32(0), halves)
    assert 0 < np.count_nonzero(right) < right.size
    for path in driver(program).paths:
        found = decoder(driver(program), path, name, "fp32", inputs).decode(inputs)["hidden_out"]
        np.testing.assert_array_equal(found.view(np.uint32), right.view(np.uint32), path)


def cases(driver: NativeDriver) -> Iterator[tuple[str, int, str]]:
    for path in driver.paths:
        for name in SHAPES:
            for batch in (1, 7):
                yield name, batch, path


def test_the_cases_differ_between_precisions(expected: Decode) -> None:
    logits = [expected("wide", precision, 7)["logits"] for precision in PRECISIONS]
    assert len({values.tobytes() for values in logits}) == len(PRECISIONS)


@PROGRAM
def test_threads_change_no_bits(program: str, driver: Callable[[str], NativeDriver], expected: Decode) -> None:
    found = decoded(driver(program), driver(program).path, "wide", "fp32", 7, threads=2)
    for output, values in expected("wide", "fp32", 7).items():
        np.testing.assert_array_equal(found[output].view(np.uint32), values.view(np.uint32), output)


@pytest.mark.slow
def test_the_emulated_machine_uses_neon(driver: Callable[[str], NativeDriver]) -> None:
    assert driver("NEON, emulated").paths == ("neon", "plain")


@pytest.mark.parametrize("function", FUNCTIONS)
@PROGRAM
def test_functions_have_the_same_bits(program: str, function: str, driver: Callable[[str], NativeDriver]) -> None:
    random = np.random.default_rng(0)
    special = [0.0, -0.0, 1e-45, -1e-40, 1e-30, 88.0, 88.1, -87.0, -87.1, 1e30, -1e30, np.inf, -np.inf, np.nan]
    values = np.zeros(16 * 4096, np.float32)
    values[:] = random.standard_normal(values.size) * 10.0 ** random.uniform(-6, 1.5, values.size)
    values[: len(special)] = special
    right = driver("g++").apply("plain", function, values)
    built = driver(program)
    for path in built.paths:
        np.testing.assert_array_equal(bits(built.apply(path, function, values)), bits(right), path)


@PROGRAM
def test_de_emphasis_rounds_product_and_sum(program: str, driver: Callable[[str], NativeDriver]) -> None:
    """A fused multiply-add, which compilers use on Arm unless it is switched off, has other bits."""
    waveform = np.random.default_rng(1).standard_normal(5000)
    right, previous = np.empty_like(waveform), 0.0
    for i, value in enumerate(waveform.tolist()):
        right[i] = previous = value + 0.97 * previous
    found = driver(program).de_emphasis(waveform, 0.97)
    np.testing.assert_array_equal(found.view(np.uint64), right.view(np.uint64))
