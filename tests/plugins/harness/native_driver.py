"""The native decoder as a program of its own, for other compilers and for CPUs that this machine emulates."""

from __future__ import annotations

import ast
import ctypes
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.plugins.cpu.library import ChunkArguments, Description

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "plugins" / "cpu"
FUNCTIONS = ("exp", "sigmoid", "tanh")
"""What `NativeDriver.apply` computes, in the order of the library's numbers."""
_ALIGNMENT = 64
_ITEM = 4
"""Bytes of every array's items."""


def compiler_flags() -> list[str]:
    """Returns the flags with which setup.py builds the library."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "FLAGS":
            flags: list[str] = ast.literal_eval(statement.value)
            return flags
    raise AssertionError("setup.py has no FLAGS")


def build_driver(compiler: str, program: Path, flags: Sequence[str] = ()) -> None:
    """Compiles the program from the library's sources."""
    sources = [str(file) for file in (*sorted(SOURCES.glob("*.cpp")), Path(__file__).with_suffix(".cpp"))]
    command = [compiler, *compiler_flags(), *flags, "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", *sources]
    done = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class NativeDriver:
    """Decodes with the program; takes the place of `wavernn_trt.plugins.cpu.library.NativeLibrary`."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Runs ``command``; ``folder`` is for files of single calls."""
        self._command, self._folder = tuple(command), folder
        self._models: list[tuple[str, Description, bytes]] = []
        self.paths = tuple(self._run("paths").split())
        self.path = self.paths[0]

    def open(self, description: Description, path: str) -> int:
        """Copies a model; returns its handle."""
        content, _ = _image(description, _model_arrays)
        self._models.append((path, Description.from_buffer_copy(description), content))
        return len(self._models) - 1

    def decode(self, handle: int, chunk: ChunkArguments) -> None:
        """Decodes a chunk and copies the results to where it points."""
        path, description, model = self._models[handle]
        content, offsets = _image(chunk, lambda copy: _chunk_arrays(description, copy))
        files = self._folder / "model", self._folder / "chunk"
        for file, written in zip(files, (model, content), strict=True):
            file.write_bytes(written)
        self._run("decode", path, *map(str, files))
        found = files[1].read_bytes()
        for field in ("previous", "hidden", "samples", "logits"):
            if field in offsets:
                offset, size = offsets[field]
                ctypes.memmove(getattr(chunk, field), found[offset : offset + size], size)

    def close(self, handle: int) -> None:
        """Does nothing: each call is a process."""

    def apply(self, path: str, function: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns a function of `FUNCTIONS` of values, whose count is a multiple of 16."""
        file = self._folder / "values"
        file.write_bytes(values.tobytes())
        self._run("apply", path, str(FUNCTIONS.index(function)), str(file))
        return np.frombuffer(file.read_bytes(), np.float32)

    def de_emphasis(self, waveform: NDArray[np.float64], coefficient: float) -> NDArray[np.float64]:
        """Returns the de-emphasised waveform."""
        file = self._folder / "waveform"
        file.write_bytes(waveform.tobytes())
        self._run("de_emphasis", repr(coefficient), str(file))
        return np.frombuffer(file.read_bytes(), np.float64)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join((*self._command, *arguments))}: {done.returncode} {done.stderr}"
        return done.stdout


Pointer = tuple[ctypes.Structure, str, int]
"""A structure, the name of a pointer in it, and how many items it points to."""


def _image(structure, arrays) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Returns a structure followed by its arrays, pointers replaced by offsets; and offset and size by field."""
    copy = type(structure).from_buffer_copy(structure)
    content = bytearray(ctypes.sizeof(copy))
    places = {}
    pointers: Iterable[Pointer] = arrays(copy)
    for owner, field, count in pointers:
        address = getattr(owner, field)
        if address is not None:
            content += bytes(-len(content) % _ALIGNMENT)
            places[field] = len(content), count * _ITEM
            setattr(owner, field, len(content))
            content += ctypes.string_at(address, count * _ITEM)
    content[: ctypes.sizeof(copy)] = bytes(copy)
    return bytes(content), places


def _model_arrays(d: Description) -> Iterable[Pointer]:
    for matrix in d.matrices:
        yield matrix, "weight", matrix.rows * matrix.columns
        yield matrix, "bias", matrix.rows
    yield d, "feedback", (d.outputs if d.label_feedback else 1) * 3 * d.hidden
    for field in ("gates_bias_0", "gates_bias_1"):
        yield d, field, 3 * d.hidden
    for field in ("skip_column", "skip_bias"):
        yield d, field, d.hidden
    yield d, "fed_back", d.outputs


def _chunk_arrays(d: Description, c: ChunkArguments) -> Iterable[Pointer]:
    samples = c.batch * c.steps
    yield c, "conditioning", c.batch * c.window * d.columns
    yield c, "frame_index", samples
    yield c, "interpolation", samples * c.window * (d.groups - sum(d.held))
    yield c, "uniforms", samples * d.uniforms
    yield c, "forced", samples
    yield c, "previous", c.batch
    yield c, "hidden", d.layers * c.batch * d.hidden
    yield c, "samples", samples
    yield c, "logits", samples * d.outputs
