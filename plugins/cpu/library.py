"""The compiled library of the native decoder: where it is, its structures, and its functions, through ctypes.

The library is an extension module only so that setuptools builds it and wheels contain it. It exports C functions and
uses nothing of Python, so one build serves all versions, and ctypes releases the global lock during a call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.operators import PLACES
from wavernn_trt.plugins.arguments import GROUPS_OF_COLUMNS, MATRICES

MODULE = "wavernn_trt.plugins.cpu._native"
VERSION = 2
"""Version of the structures and functions; the same as in description.h."""
BUILD = "run pip install -v --force-reinstall --no-deps . in a clone of the project, which prints compiler errors"
INSTALL = f"install a C++ compiler (Debian: apt install g++), then {BUILD}"
PATH_VARIABLE = "WAVERNN_TRT_CPU"
"""Environment variable that selects one of `paths`, for tests and comparisons."""
PORTABLE = "plain"
"""Name of the path without vector instructions, which is slow."""
_MESSAGE_BYTES = 200
_LINE = 64
"""Bytes of a cache line in limits.cpp."""


class NativeLibraryError(RuntimeError):
    """The library is missing, or cannot be used on this machine."""


class MatrixDescription(ctypes.Structure):
    """See description.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("arithmetic", ctypes.c_int32),
        ("activation_scale", ctypes.c_float),
        ("zeros", ctypes.c_int32),
    )


class Description(ctypes.Structure):
    """See description.h."""

    _fields_ = (
        ("matrices", MatrixDescription * len(MATRICES)),
        ("feedback", ctypes.c_void_p),
        ("gates_bias_0", ctypes.c_void_p),
        ("gates_bias_1", ctypes.c_void_p),
        ("skip_column", ctypes.c_void_p),
        ("skip_bias", ctypes.c_void_p),
        ("fed_back", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in (
                *("hidden", "layers", "fc_layers", "outputs", "output", "label_feedback", "skip", "columns", "groups"),
                "uniforms",
            )
        ),
        ("held", ctypes.c_int32 * GROUPS_OF_COLUMNS),
        ("place_first", (ctypes.c_int32 * GROUPS_OF_COLUMNS) * len(PLACES)),
    )


class ChunkArguments(ctypes.Structure):
    """See description.h."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("conditioning", "frame_index", "interpolation", "uniforms", "forced", "previous", "hidden"),
                *("samples", "logits"),
            )
        ),
        *((name, ctypes.c_int32) for name in ("batch", "steps", "window", "threads")),
    )


@dataclass(frozen=True)
class NativeLibrary:
    """The loaded library."""

    functions: ctypes.CDLL
    paths: tuple[str, ...]
    """Names of the instruction sets that this machine can run, the best first."""

    @property
    def path(self) -> str:
        """The instruction set in use: the best, or that of the environment variable.

        Raises:
            NativeLibraryError: the variable names another one.
        """
        asked = os.environ.get(PATH_VARIABLE)
        if asked is not None and asked not in self.paths:
            raise NativeLibraryError(f"{PATH_VARIABLE}: found {asked!r}, expected one of {', '.join(self.paths)}")
        return asked or self.paths[0]

    def open(self, description: Description, path: str) -> int:
        """Packs a model; returns the decoder's handle.

        Raises:
            NativeLibraryError: unknown path.
            MemoryError: there is not enough memory.
        """
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        name = path.encode()
        handle = self.functions.wavernn_native_open(ctypes.byref(description), name, message, _MESSAGE_BYTES)
        if not handle:
            text = message.value.decode()
            raise MemoryError(text) if "memory" in text else NativeLibraryError(f"{path}: {text}")
        return int(handle)

    def decode(self, handle: int, chunk: ChunkArguments) -> None:
        """Decodes a chunk.

        Raises:
            MemoryError: there is not enough memory.
        """
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self.functions.wavernn_native_decode(handle, ctypes.byref(chunk), message, _MESSAGE_BYTES):
            raise MemoryError(message.value.decode())

    def de_emphasis(self, emphasised: DoubleArray, coefficient: float, last: float) -> DoubleArray:
        """Returns x[n] = y[n] + coefficient * x[n-1] for y [samples], with x[-1] = ``last``; operations are rounded."""
        samples = np.ascontiguousarray(emphasised, np.float64)
        waveform = np.empty_like(samples)
        self.functions.wavernn_native_de_emphasis(
            samples.ctypes.data, waveform.ctypes.data, samples.size, coefficient, last
        )
        return waveform

    def close(self, handle: int) -> None:
        """Frees a decoder."""
        self.functions.wavernn_native_close(handle)

    def work(self, handle: int) -> tuple[int, int, int]:
        """Returns bytes of weights, multiply-adds of floats, and multiply-adds of integers of a step of one stream."""
        work = (ctypes.c_int64 * 3)()
        self.functions.wavernn_native_work(handle, work)
        return work[0], work[1], work[2]

    def read_bandwidth(self, size: int, threads: int, *, seconds: float = 0.01, path: str | None = None) -> float:
        """Measures bytes a second that threads read of an array, each its own part again and again.

        Args:
            size: bytes of the array, at least a cache line for each thread.
            threads: at least 1.
            seconds: duration.
            path: instruction set; ``None`` is `path`.

        Raises:
            NativeLibraryError: unknown path.
            MemoryError: there is not enough memory, or the system does not start the threads.
        """
        if threads < 1 or size < _LINE * threads:
            raise ValueError(f"found {size} bytes for {threads} threads, expected at least {_LINE} for each")
        return self._rate(self.functions.wavernn_native_read_bandwidth, size, threads, seconds, path)

    def peak(self, threads: int, *, integers: bool, seconds: float = 0.01, path: str | None = None) -> float:
        """Measures multiply-adds a second with operands in registers.

        Args:
            threads: at least 1.
            integers: whether to multiply integers, as products with int8 weights do, instead of floats.
            seconds: duration.
            path: instruction set; ``None`` is `path`.

        Raises:
            NativeLibraryError: unknown path.
            MemoryError: the system does not start the threads.
        """
        if threads < 1:
            raise ValueError(f"threads: found {threads}, expected at least 1")
        return self._rate(self.functions.wavernn_native_peak, int(integers), threads, seconds, path)

    def _rate(self, measure: Any, what: int, threads: int, seconds: float, path: str | None) -> float:
        path = path or self.path
        if path not in self.paths:
            raise NativeLibraryError(f"{path}: this machine cannot run the path")
        if not (rate := float(measure(path.encode(), what, threads, seconds))):
            raise MemoryError("a limit of the CPU was not measured: not enough memory, or too many threads")
        return rate


@cache
def native_library() -> NativeLibrary:
    """Loads the library.

    Raises:
        NativeLibraryError: it was not built, or does not load.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise NativeLibraryError(f"the native decoder was not built when this package was installed: {INSTALL}")
    return load_library(spec.origin)


def load_library(file: str) -> NativeLibrary:
    """Loads a file built from this folder.

    Raises:
        NativeLibraryError: it does not load, or was built from other sources.
    """
    try:
        functions = ctypes.CDLL(file)
    except OSError as error:
        raise NativeLibraryError(f"the native decoder does not load: {error}; {BUILD}") from error
    version = getattr(functions, "wavernn_native_version", None)
    if version is None or version() != VERSION:
        found = "no version number" if version is None else f"version {version()}"
        raise NativeLibraryError(
            f"{file} is not the native decoder of this package: found {found}, expected version {VERSION}; {BUILD}"
        )
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "path": (ctypes.c_char_p, (ctypes.c_int,)),
        "open": (pointer, (ctypes.POINTER(Description), ctypes.c_char_p, ctypes.c_char_p, size)),
        "decode": (ctypes.c_int, (pointer, ctypes.POINTER(ChunkArguments), ctypes.c_char_p, size)),
        "close": (None, (pointer,)),
        "apply": (ctypes.c_int, (ctypes.c_char_p, ctypes.c_int, pointer, pointer, size)),
        "work": (None, (pointer, ctypes.POINTER(ctypes.c_int64))),
        "read_bandwidth": (ctypes.c_double, (ctypes.c_char_p, size, ctypes.c_int, ctypes.c_double)),
        "peak": (ctypes.c_double, (ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_double)),
        "de_emphasis": (None, (pointer, pointer, size, ctypes.c_double, ctypes.c_double)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(functions, f"wavernn_native_{name}")
        function.restype, function.argtypes = result, arguments
    names: list[str] = []
    while (name := functions.wavernn_native_path(len(names))) is not None:
        names.append(name.decode())
    return NativeLibrary(functions, tuple(names))
