"""Ring buffers between threads and, in shared memory, between processes."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.streaming import ring_header
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
from wavernn_trt.runtime.streaming.ring_header import CONSUMER, ENCODINGS, HEADER_BYTES, READ, WRITTEN, Encoding

shares = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="rings in shared memory need Linux on x86-64"
)
OPERATIONS = ("write", "reserve", "read", "silence", "peek")


def words(size: int) -> np.ndarray:
    """Zeroed memory of at least this number of bytes, aligned to cache lines."""
    spare = np.zeros(size // 8 + 9, np.uint64)
    return spare[-spare.ctypes.data % 64 // 8 :]


def started_at(count: int, capacity: int, encoding: Encoding) -> RingBuffer:
    """An empty ring that this number of samples has passed."""
    memory = words(RingBuffer.bytes_needed(capacity, encoding))
    ring = RingBuffer(capacity, encoding, 16000, memory)
    memory[WRITTEN] = memory[READ] = count
    return ring


@given(
    encoding=st.sampled_from(ENCODINGS),
    bits=st.integers(0, 6),
    start=st.sampled_from([0, 1, 63, 2**32 - 3, 2**53 - 1, 2**63 - 7]),
    operations=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 100)), max_size=60),
    closing=st.integers(0, 60),
)
def test_a_ring_behaves_like_a_bounded_list(
    encoding: Encoding, bits: int, start: int, operations: list[tuple[str, int]], closing: int
) -> None:
    ring = started_at(start, 1 << bits, encoding)
    kept: list[int] = []
    following = overruns = underruns = 0
    for i, (operation, count) in enumerate(operations):
        if i == closing:
            ring.close()
        fits, there = min(count, ring.capacity - len(kept)), min(count, len(kept))
        fresh = list(range(following, following + count))
        if operation == "write" and not ring.closed:
            assert ring.write(np.array(fresh, encoding)) == fits
            overruns += count - fits
            kept += fresh[:fits]
            following += count
        elif operation == "reserve" and not ring.closed:
            views = ring.reserve(count)
            assert len(views) <= 2
            assert sum(map(len, views)) == fits
            for view in views:
                view[:] = fresh[: len(view)]
                fresh = fresh[len(view) :]
            ring.commit(fits // 2)  # reserved samples are invisible until they are committed
            kept += range(following, following + fits // 2)
            following += fits // 2
        elif operation == "read":
            out = np.full(count, -1, encoding)
            assert ring.read_into(out) == there
            assert out.tolist() == kept[:there] + [-1] * (count - there)
            kept = kept[there:]
        elif operation == "silence":
            out = np.full(count, -1, encoding)
            assert ring.read_or_silence(out) == there
            assert out.tolist() == kept[:there] + [0] * (count - there)
            kept = kept[there:]
            underruns += 0 if ring.closed else count - there
        elif operation == "peek":
            views = ring.peek(count)
            assert len(views) <= 2
            assert np.concatenate(views).tolist() == kept[:there]
            ring.advance(there // 2)
            kept = kept[there // 2 :]
        assert (ring.available_read, ring.available_write) == (len(kept), ring.capacity - len(kept))
        assert (ring.overruns, ring.underruns) == (overruns, underruns)


def test_peek_and_reserve_give_views_of_the_given_memory() -> None:
    memory = words(RingBuffer.bytes_needed(8, "int16"))
    ring = RingBuffer(8, "int16", 16000, memory)
    (reserved,) = ring.reserve(6)
    reserved[:] = range(6)
    ring.commit(6)
    assert memory.view(np.int16)[HEADER_BYTES // 2 :][:6].tolist() == [0, 1, 2, 3, 4, 5]
    (seen,) = ring.peek(6)
    assert np.shares_memory(seen, reserved)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    ring.advance(6)
    assert [len(view) for view in ring.reserve(8)] == [2, 6]


class Witness(np.ndarray[Any, Any]):
    """Samples that call ``see`` while they are copied."""

    see: Callable[[], None]

    def __getitem__(self, key: Any) -> Any:
        self.see()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.see()
        super().__setitem__(key, value)


def test_a_copy_is_visible_to_the_other_side_only_when_it_is_complete() -> None:
    ring, seen = RingBuffer(8, "int16", 16000), list[int]()
    samples = np.arange(8, dtype=np.int16).view(Witness)
    samples.see = lambda: seen.append(ring.available_read)
    ring.write(samples)
    assert set(seen) == {0}
    seen.clear()
    samples.see = lambda: seen.append(ring.available_write)
    ring.read_into(samples)
    assert set(seen) == {0}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_two_threads_lose_and_repeat_nothing(encoding: Encoding) -> None:
    total, ring = 2_000_000, RingBuffer(2048, encoding, 16000)
    expected = np.arange(total).astype(np.int16).astype(encoding)
    sizes = np.random.default_rng(0).integers(1, 700, 50_000)

    failed = threading.Event()

    def produce() -> None:
        try:
            write_all()
        finally:
            ring.close()

    def write_all() -> None:
        done, turn = 0, 0
        while done < total and not failed.is_set():
            piece = expected[done : done + min(int(sizes[turn % len(sizes)]), ring.available_write)]
            assert ring.write(piece) == len(piece)
            if not len(piece):
                os.sched_yield()
            done, turn = done + len(piece), turn + 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    producer = threading.Thread(target=produce)
    try:
        producer.start()
        out, filled, turn = np.empty(total, encoding), 0, 0
        while not (ring.closed and not ring.available_read):
            size = int(sizes[-1 - turn % len(sizes)])
            if not ring.available_read:
                os.sched_yield()
            if turn % 2:
                filled += ring.read_into(out[filled : filled + size])
            else:
                for view in ring.peek(size):
                    out[filled : filled + len(view)] = view
                    ring.advance(len(view))
                    filled += len(view)
            turn += 1
    finally:
        failed.set()
        sys.setswitchinterval(interval)
        producer.join(60)
    assert filled == total
    assert np.array_equal(out, expected)
    assert ring.overruns == 0


def test_the_end_comes_after_the_last_sample_with_its_reason() -> None:
    ring = RingBuffer(4, "int16", 16000)
    ring.write(np.array([1, 2], np.int16))
    assert not ring.closed
    ring.close(7, "the device is gone: ü" + "x" * 1000)
    ring.close(0, "only the first counts")
    assert ring.closed
    assert ring.available_read == 2
    code, message = ring.error
    assert code == 7
    assert message.startswith("the device is gone: ü")
    assert len(message.encode()) == HEADER_BYTES - 40 * 8
    with pytest.raises(VocoderError, match="found a closed ring"):
        ring.write(np.array([3], np.int16))


def test_the_writer_sees_that_the_reader_left() -> None:
    ring = RingBuffer(4, "int16", 16000)
    assert not ring.abandoned
    ring.abandon()
    assert ring.abandoned


def test_more_samples_than_exist_and_wrong_arrays_are_refused() -> None:
    ring = RingBuffer(4, "int16", 16000)
    with pytest.raises(VocoderError, match="commit of 5 samples: found room for 4"):
        ring.commit(5)
    with pytest.raises(VocoderError, match="advance by 1 samples: found 0"):
        ring.advance(1)
    with pytest.raises(VocoderError, match=r"found float32 \(2,\), expected int16 \[n\]"):
        ring.write(np.zeros(2, np.float32))
    with pytest.raises(VocoderError, match=r"found int16 \(2, 1\), expected int16 \[n\]"):
        ring.read_into(np.zeros((2, 1), np.int16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1000, "int16", 16000), "capacity: found 1000, expected a power of two"),
        ((0, "int16", 16000), "capacity: found 0"),
        ((True, "int16", 16000), "capacity: found True"),
        ((2**32, "int16", 16000), "up to 2\\*\\*31"),
        ((8, "int24", 16000), "encoding: found 'int24', expected one of: float32, int16"),
        ((8, "int16", 0), "sample rate: found 0, expected a positive number"),
        ((8, "int16", 16000, bytearray(100)), "memory: found 100 bytes, expected at least 1040"),
        ((8, "int16", 16000, bytes(2000)), "memory: found a read-only buffer"),
        ((8, "int16", 16000, words(2000).view(np.uint8)[4:]), "expected a multiple of 8"),
        ((8, "int16", 16000, np.zeros((4000, 2), np.uint8)[:, 0]), "expected a contiguous buffer"),
        ((8, "int16", 16000, "memory"), "memory: found str"),
    ],
)
def test_unusable_rings_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        RingBuffer(*arguments)


def test_shared_rings_are_refused_on_machines_with_a_weaker_memory_order_than_x86(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for refused in (lambda: RingBuffer.create(None, 8, "int16", 16000), lambda: RingBuffer.attach("any")):
        with pytest.raises(VocoderError, match=r"found .* on aarch64, expected Linux on x86_64"):
            refused()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert RingBuffer(8, "int16", 16000).capacity == 8
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(VocoderError, match="without the global interpreter lock"):
        RingBuffer(8, "int16", 16000)


# Reads a ring of int16 to its end, a frame at a time, and prints a checksum and how the ring ended.
READER = """
import sys, zlib, numpy as np
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
ring, checksum, count, out = RingBuffer.attach(sys.argv[1]), 0, 0, np.empty(321, np.int16)
print("attached", flush=True)
while not (ring.closed and not ring.available_read):
    taken = ring.read_into(out)
    checksum, count = zlib.crc32(out[:taken], checksum), count + taken
print(count, checksum, ring.sample_rate, *ring.error)
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def shared() -> Iterator[RingBuffer]:
    ring = RingBuffer.create(None, 4096, "int16", 22050)
    yield ring
    ring.remove()


@shares
def test_another_process_reads_every_sample(shared: RingBuffer) -> None:
    assert shared.name is not None
    samples = np.random.default_rng(1).integers(-(2**15), 2**15, 1_000_000).astype(np.int16)
    reader = python(READER, shared.name)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "attached\n"
        done = 0
        while done < len(samples) and reader.poll() is None:
            done += shared.write(samples[done : done + min(500, shared.available_write)])
        shared.close(3, "and no more")
        output, errors = reader.communicate(timeout=60)
    finally:
        reader.kill()
    assert output.split(maxsplit=4) == ["1000000", str(zlib.crc32(samples)), "22050", "3", "and no more\n"]
    assert errors == ""  # no resource tracker reports leaks
    assert Path("/dev/shm", shared.name).exists(), "the end of the reader removed the segment"
    shared.remove()
    shared.remove()
    assert not Path("/dev/shm", shared.name).exists()


@shares
def test_a_ring_has_one_reader_and_a_killed_one_is_replaced(shared: RingBuffer) -> None:
    assert shared.name is not None
    reader = python(READER, shared.name)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "attached\n"
        with pytest.raises(VocoderError, match=f"found that it has a reader, process {reader.pid}"):
            RingBuffer.attach(shared.name)
        assert not shared.consumer_ended
    finally:
        reader.kill()
    os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)
    assert shared.consumer_ended, "a process that was not waited for has ended as well"
    reader.communicate()
    shared.write(np.arange(3, dtype=np.int16))
    again = RingBuffer.attach(shared.name)
    assert again.peek(9)[0].tolist() == [0, 1, 2]
    again.abandon()
    with pytest.raises(VocoderError, match=f"found that it had a reader, process {os.getpid()}"):
        RingBuffer.attach(shared.name)


@shares
def test_a_reused_process_id_is_not_the_reader(shared: RingBuffer) -> None:
    assert shared.name is not None
    RingBuffer.attach(shared.name)
    assert not shared.consumer_ended
    with Path("/dev/shm", shared.name).open("r+b") as file:
        file.seek((CONSUMER + 1) * 8)
        file.write((1).to_bytes(8, "little"))  # it started at another time
    assert shared.consumer_ended
    with Path("/dev/shm", shared.name).open("r+b") as file:
        file.seek((CONSUMER + 2) * 8)
        file.write((1).to_bytes(8, "little"))  # in another container, whose ids have no meaning here
    assert not shared.consumer_ended


@shares
def test_a_killed_process_leaves_no_shared_memory() -> None:
    code = """
import os, signal
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
ring = RingBuffer.create(None, 8, "int16", 16000)
print(ring.name, os.path.exists("/dev/shm/" + ring.name), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    output, _ = python(code).communicate(timeout=60)  # stderr stays open until the resource tracker has cleaned up
    name, existed = output.split()
    assert existed == "True"
    assert not Path("/dev/shm", name).exists()


@shares
def test_a_forked_child_does_not_take_the_ring_from_its_parent(shared: RingBuffer) -> None:
    assert shared.name is not None
    child = os.fork()
    if not child:
        shared.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Path("/dev/shm", shared.name).exists()


@shares
def test_views_outlive_the_ring() -> None:
    ring = RingBuffer.create(None, 8, "int16", 16000)
    ring.write(np.arange(8, dtype=np.int16))
    (view,), name = ring.peek(8), ring.name
    del ring
    assert name is not None
    assert not Path("/dev/shm", name).exists()
    assert view.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def header(**changes: int) -> bytes:
    memory = words(RingBuffer.bytes_needed(8, "int16"))
    RingBuffer(8, "int16", 16000, memory)
    for name, value in changes.items():
        memory[getattr(ring_header, name)] = value
    return memory.tobytes()


@shares
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x", "found 1 bytes, expected a ring buffer, which has at least 1024"),
        (b"\0" * 4096, r"found b'\\x00.*' at its beginning, expected b'WRNNRING'; it is not a ring buffer"),
        (header()[:1030], "found 1030 bytes, expected the 1040 that its header requires"),
        (header(_VERSION=9), "found a ring buffer of version 9, expected 1; both processes need the same version"),
        (header(_ENCODING=5), "found encoding 5, expected 0 to 1"),
        (header(_CAPACITY=9), "its header is damaged: capacity: found 9"),
        (header(_SAMPLE_RATE=0), "its header is damaged: sample rate: found 0"),
    ],
)
def test_other_shared_memory_is_refused(content: bytes, message: str) -> None:
    segment = SharedMemory(create=True, size=len(content))
    try:
        segment.buf[: len(content)] = content
        with pytest.raises(VocoderError, match=f"shared memory '{segment.name}': {message}"):
            RingBuffer.attach(segment.name)
    finally:
        segment.close()
        segment.unlink()


@shares
def test_names_of_shared_memory_are_checked(shared: RingBuffer) -> None:
    assert shared.name is not None
    with pytest.raises(VocoderError, match="found none of that name"):
        RingBuffer.attach("not-there")
    for name in ("", "..", "../../etc/hostname", "a" * 300, 3):
        with pytest.raises(VocoderError, match="expected one without slashes"):
            RingBuffer.attach(name)  # type: ignore[arg-type]
    with pytest.raises(VocoderError, match="found one of that name, expected none"):
        RingBuffer.create(shared.name, 8, "int16", 16000)
    assert RingBuffer.attach(shared.name).capacity == 4096, "the one that had the name is untouched"


@shares
def test_too_little_shared_memory_is_an_error_when_the_ring_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(VocoderError, match="'wavernn-trt-full': No space left on device"):
        RingBuffer.create("wavernn-trt-full", 8, "int16", 16000)
    assert not Path("/dev/shm/wavernn-trt-full").exists()
