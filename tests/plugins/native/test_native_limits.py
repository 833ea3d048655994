"""Limits of the CPU that the native library measures: real work, which the compiler has not removed."""

from __future__ import annotations

import pytest

from wavernn_trt.plugins.cpu.library import PORTABLE, NativeLibrary, NativeLibraryError, native_library

SECONDS = 0.002
FASTEST_CLOCK = 6.5e9
"""Cycles a second that no core exceeds."""
LANES = {"avx512": 16, "avx2": 8, "neon": 4}
PORTS = {"avx512": 2, "avx2": 2, "neon": 4}
"""Most vector instructions of one kind that a core starts in a cycle."""


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    try:
        return native_library()
    except NativeLibraryError as error:
        pytest.skip(f"the native decoder: {error}")


def peak(library: NativeLibrary, path: str, *, integers: bool) -> float:
    """The best of several short measurements: other processes only slow them down."""
    return max(library.peak(1, integers=integers, seconds=SECONDS, path=path) for _ in range(8))


def test_peaks_are_within_what_the_instructions_can_do(library: NativeLibrary) -> None:
    for path in library.paths:
        floats, integers = (peak(library, path, integers=kind) for kind in (False, True))
        if path == PORTABLE:
            assert floats > 0
            assert integers > 0
            continue
        # An integer product has at most four times as many columns as a float one, and takes two instructions.
        most = LANES[path] * PORTS[path] * FASTEST_CLOCK
        assert most / 100 < floats < most
        assert floats / 5 < integers < 3 * floats


def test_vectors_multiply_faster_than_the_portable_code(library: NativeLibrary) -> None:
    portable = peak(library, PORTABLE, integers=False)
    assert all(peak(library, path, integers=False) > 3 * portable for path in library.paths if path != PORTABLE)


@pytest.mark.parametrize("threads", [1, 3])
def test_arrays_of_any_size_are_read(library: NativeLibrary, threads: int) -> None:
    for path in library.paths:
        for size in (64 * threads, 1000, 100_001, 3_000_000):
            rate = library.read_bandwidth(size, threads, seconds=SECONDS, path=path)
            assert 1e7 < rate < 2 * 64 * PORTS.get(path, 4) * FASTEST_CLOCK * threads


def test_memory_is_slower_than_the_first_cache(library: NativeLibrary) -> None:
    def best(size: int) -> float:
        return max(library.read_bandwidth(size, 1, seconds=SECONDS) for _ in range(8))

    assert best(64 << 20) < best(16 << 10)


def test_what_cannot_be_measured_is_refused(library: NativeLibrary) -> None:
    with pytest.raises(NativeLibraryError, match="abacus: this machine cannot run the path"):
        library.peak(1, integers=False, path="abacus")
    with pytest.raises(NativeLibraryError, match="abacus"):
        library.read_bandwidth(4096, 1, path="abacus")
    with pytest.raises(ValueError, match="threads: found 0, expected at least 1"):
        library.peak(0, integers=True)
    with pytest.raises(ValueError, match="found 64 bytes for 2 threads, expected at least 64 for each"):
        library.read_bandwidth(64, 2)
    with pytest.raises(MemoryError, match="a limit of the CPU was not measured"):
        library.read_bandwidth(1 << 60, 1)
