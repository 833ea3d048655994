"""No invalid access, undefined behaviour, data race or endless wait in the native decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kernel_processes import run_with_sanitizer, sanitizer_library, with_source_tree

from wavernn_trt.plugins.cpu.library import NativeLibrary

HARNESS = Path(__file__).resolve().parents[1] / "harness"
SECONDS_VARIABLE = "WAVERNN_TRT_NATIVE_SECONDS"
"""How long random models are decoded; .ci/nightly sets ten minutes."""


@pytest.mark.slow
def test_random_models_run_clean(build: Callable[..., Path]) -> None:
    # Without optimisation it is built in a seventh of the time.
    flags = ("-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
    runtime = sanitizer_library("g++", "libasan.so")
    script = [str(HARNESS / "native_random_shapes.py"), str(build(*flags)), os.environ.get(SECONDS_VARIABLE, "10")]
    done = run_with_sanitizer(runtime, "address,undefined", script)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("decoded")


@pytest.mark.slow
def test_threads_do_not_race(build: Callable[..., Path]) -> None:
    runtime = sanitizer_library("g++", "libtsan.so")
    script = [str(HARNESS / "native_random_shapes.py"), str(build("-O1", "-fsanitize=thread")), "10"]
    done = run_with_sanitizer(runtime, "thread", script)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("decoded")


def test_threads_that_outnumber_the_cores_end_soon(library: NativeLibrary) -> None:
    """A thread that waits sleeps, so that those that it waits for run."""
    run(
        library,
        """
from concurrent.futures import ThreadPoolExecutor
case = NativeCase(small_shapes()["two layers, skip, values"], steps=5)
decoder = case.open(native_library())
with ThreadPoolExecutor(4) as pool:
    calls = [pool.submit(decoder.decode, case.inputs, threads=16) for _ in range(40)]
    results = [call.result()["samples"].tolist() for call in calls]
assert results == [decoder.decode(case.inputs)["samples"].tolist()] * 40
""",
    )


def test_a_decoder_may_be_in_use_when_the_interpreter_ends(library: NativeLibrary) -> None:
    """By a thread that does not keep it from ending."""
    run(
        library,
        """
import atexit, threading
atexit.register(lambda: sum(range(3_000_000)))  # runs after what is registered later, while the thread goes on
case = NativeCase(small_shapes(1024)["one layer, labels"], steps=1)
decoder, begun = case.open(native_library()), threading.Event()
def decode():
    begun.set()
    while True:
        decoder.decode(case.inputs)
threading.Thread(target=decode, daemon=True).start()
begun.wait()
""",
    )


def run(library: NativeLibrary, code: str) -> None:
    """Runs Python code in a process of its own, for a minute at most; its native_library() returns a library."""
    imports = (
        f"import sys; sys.path.insert(0, {str(HARNESS)!r})\n"
        "from kernel_cases import small_shapes\n"
        "from native_cases import NativeCase\n"
        "from wavernn_trt.plugins.cpu.library import load_library\n"
        f"native_library = lambda: load_library({library.functions._name!r})\n"
    )
    command = [sys.executable, "-c", f"{imports}{code}\nprint('ended')"]
    environment = with_source_tree(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "ended"
