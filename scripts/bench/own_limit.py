"""Limits of a decoder on the CPU: a step takes at least the time of reading its weights, and of its multiply-adds.

The native library measures both, with its own vector instructions and as many threads as the decoders use: reads of an
array of exactly as many bytes as the weights have, which stays in the same level of the caches, and multiply-adds of
operands in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from wavernn_trt.plugins.cpu.decoder import StepWork
from wavernn_trt.plugins.cpu.library import NativeLibraryError, native_library
from wavernn_trt.scripts.bench.backends import UnavailableError
from wavernn_trt.scripts.bench.timing import Timing

Rounds = Sequence[Sequence[float]]
"""For each round, a value for each batch."""
CPU = "own limit"
"""Name of these limits in the report's list of what is missing."""
FLOATS, INTEGERS = "float products", "integer products"
"""Names of the limits of products, in multiply-adds a second."""
_TIMES, _SECONDS = 5, 0.03
"""Measurements of a limit, of which the best counts, and the length of each. The threads of a product measured before
may spin for a while, and new threads may share a core at first: the median of short ones was too low by a quarter."""
_LINE = 64
"""Least bytes that a thread reads."""


def read_of(size: int) -> str:
    """Name of the limit of reading weights of ``size`` bytes, in bytes a second."""
    return f"read of {size} bytes"


def own_limits(threads: int, works: Iterable[StepWork]) -> dict[str, Callable[[], float]]:
    """Returns functions that measure the limits of decoders of ``threads`` threads, by name.

    Raises:
        UnavailableError: the native library is missing.
    """
    try:
        library = native_library()
        path = library.path
    except NativeLibraryError as error:
        raise UnavailableError(f"not measured: it needs the native decoder's library: {error}") from error

    def read(size: int) -> float:
        return library.read_bandwidth(max(size, _LINE * threads), threads, seconds=_SECONDS, path=path)

    def multiply(integers: bool) -> float:
        return library.peak(threads, integers=integers, seconds=_SECONDS, path=path)

    def measured(measure: Callable[[Any], float], what: Any) -> Callable[[], float]:
        return lambda: max(measure(what) for _ in range(_TIMES))

    sizes = dict.fromkeys(work.weight_bytes for work in works)
    return {
        FLOATS: measured(multiply, False),
        INTEGERS: measured(multiply, True),
        **{read_of(size): measured(read, size) for size in sizes},
    }


def describe_own_limit(
    timing: Timing, speeds: Sequence[float], limits: Mapping[str, Rounds], place: int
) -> dict[str, Any] | None:
    """Compares a row with its own limit; returns the entries of the report, or ``None`` if it was not measured.

    Args:
        timing: the row.
        speeds: samples a second in each round.
        limits: values for each round and batch, by name.
        place: of the row's batch in a round.
    """
    work = timing.work
    if work is None or FLOATS not in limits:
        return None
    reading = [work.weight_bytes / row[place] for row in limits[read_of(work.weight_bytes)]]
    multiplying = [
        timing.batch * (work.float_products / floats[place] + work.integer_products / integers[place])
        for floats, integers in zip(limits[FLOATS], limits[INTEGERS], strict=True)
    ]
    most = [timing.batch / max(seconds) for seconds in zip(reading, multiplying, strict=True)]
    shares = [speed / limit for speed, limit in zip(speeds, most, strict=True)]
    return {
        "binds": "reads" if median(reading) >= median(multiplying) else "products",
        "samples_per_second": median(most),
        "share": median(shares),
        "shares": shares,
        "read_seconds": median(reading),
        "product_seconds": median(multiplying),
    }


def describe_cpu_limit(limits: Mapping[str, Rounds], works: Iterable[StepWork]) -> dict[str, Any] | None:
    """Returns the measured limits as entries of the report; ``None`` if they were not measured."""
    if FLOATS not in limits:
        return None

    def described(name: str, unit: str) -> dict[str, Any]:
        rounds = limits[name]
        return {unit: median(value for row in rounds for value in row), "repeats": rounds}

    sizes = dict.fromkeys(work.weight_bytes for work in works)
    return {
        "path": native_library().path,
        "float_products": described(FLOATS, "multiply_adds_per_second"),
        "integer_products": described(INTEGERS, "multiply_adds_per_second"),
        "reads": [{"bytes": size, **described(read_of(size), "bytes_per_second")} for size in sizes],
    }
