"""Lanes on a simulated device: bit for bit the samples of ONNX Runtime, in all orders that streams and events allow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simulated_device as simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_streams import equal, random_streams
from small_voice import SMALL_VOICE

from wavernn_trt.engines.gpu import Gpu
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Piece, Stream, decode_streams
from wavernn_trt.runtime.errors import KernelStallError, VocoderError
from wavernn_trt.runtime.executors.lanes import DeviceLane
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Executor, initial_state
from wavernn_trt.runtime.executors.tensorrt_executor import Engine, TensorRTExecutor
from wavernn_trt.runtime.load_options import LoadOptions

STEPS = 40
some = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Bench:
    """A model, its executor by ONNX Runtime, and its engines on simulated devices."""

    directory: ModelDirectory
    slots: int = 3

    def __post_init__(self) -> None:
        self.reference = OnnxRuntimeExecutor(self.directory, threads=1)
        self.windows = ConditioningWindows(self.directory.model, self.directory.audio, STEPS, self.directory.upsampling)
        manifests = simulated.records(self.directory, steps=STEPS, batch=(self.slots,) * 3)
        self.plans = {role: simulated.OnnxPlan(self.directory, one) for role, one in manifests.items()}

    def executor(self, device: Any) -> TensorRTExecutor:
        engine = Engine(device, self.plans["conditioner"], self.plans["decoder"])
        return TensorRTExecutor(self.directory, "tensorrt_rtx", LoadOptions(), Gpu("Simulated", 89), engine)

    def lane(self, device: Any, kind: type[DeviceLane] = DeviceLane) -> DeviceLane:
        return kind(device, self.plans["decoder"], self.slots, initial_state(self.directory.model, 1))

    def streams(self, lengths: list[int]) -> list[Stream]:
        return random_streams(self.windows, lengths)

    def samples(self, executor: Executor, lengths: list[int]) -> list[NDArray[Any]]:
        return joined(decode_streams(executor, self.windows, self.streams(lengths), self.slots), len(lengths))


def joined(pieces: Iterator[Piece[Stream]], streams: int) -> list[NDArray[Any]]:
    parts: list[list[NDArray[Any]]] = [[] for _ in range(streams)]
    for piece in pieces:
        parts[piece.stream.number].append(piece.samples)
    return [np.concatenate(part) for part in parts]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(open_model_directory(SMALL_VOICE))


@some
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 5 * STEPS), min_size=1, max_size=6))
def test_streams_enter_and_leave_in_any_order_of_work(bench: Bench, seed: int, lengths: list[int]) -> None:
    executor = bench.executor(simulated.SimulatedDevice(seed))
    expected = bench.samples(bench.reference, lengths)
    assert equal(bench.samples(executor, lengths), expected)
    assert equal(bench.samples(executor, lengths), expected)  # with a used lane


def test_a_chunk_whose_kernel_stalled_fails_and_the_lane_is_used_again(bench: Bench) -> None:
    executor, lengths = bench.executor(simulated.SimulatedDevice(0)), [3 * STEPS, STEPS]
    expected = bench.samples(executor, lengths)
    bench.plans["decoder"].stalls = 1
    with pytest.raises(KernelStallError, match=r"block 7 waited for operands of a product in step 5, longer than its"):
        bench.samples(executor, lengths)
    assert bench.plans["decoder"].stalls == 0
    assert equal(bench.samples(executor, lengths), expected)


@pytest.mark.parametrize("layout", ["fatchord", "mol"])
def test_all_inputs_and_states_of_a_layout_are_copied(
    small_directory: Callable[[str], ModelDirectory], layout: str
) -> None:
    bench = Bench(small_directory(layout))
    lengths = [STEPS * 2 + 7, 13, STEPS, 5]
    expected = bench.samples(bench.reference, lengths)
    for seed in range(3):
        assert equal(bench.samples(bench.executor(simulated.SimulatedDevice(seed)), lengths), expected)
        assert equal(paused(bench, bench.lane(simulated.SimulatedDevice(seed)), lengths[:2]), expected[:2])


@pytest.mark.parametrize("flaw", ["upload is not waited for", "chunk is not waited for", "samples are not waited for"])
def test_the_simulation_notices_a_missing_event(bench: Bench, flaw: Any) -> None:
    lengths = [4 * STEPS] * 3
    expected = bench.samples(bench.reference, lengths)
    devices = (simulated.SimulatedDevice(seed, flaw) for seed in range(10))
    assert not all(equal(bench.samples(bench.executor(device), lengths), expected) for device in devices)


class HastyLane(DeviceLane):
    """Reuses a half before its chunk is collected."""

    ahead = 3


def test_the_simulation_notices_a_buffer_that_is_used_too_early(bench: Bench) -> None:
    lengths = [6 * STEPS] * 3
    expected = bench.samples(bench.reference, lengths)

    def right(seed: int) -> bool:
        executor = bench.executor(simulated.SimulatedDevice(seed))
        executor._lanes.idle.append(bench.lane(executor._engine.device, HastyLane))
        return equal(bench.samples(executor, lengths), expected)

    assert not all(right(seed) for seed in range(10))


class ForgetfulLane(DeviceLane):
    """Leaves the computed state of a paused stream in place of its kept one."""

    def _keep(self, half: Any, first: int, count: int) -> None:
        pass


class UnorderedLane(DeviceLane):
    """Copies a paused stream's state without waiting for the chunk that uses it."""

    def _keep(self, half: Any, first: int, count: int) -> None:
        self._compute, compute = self._upload, self._compute
        super()._keep(half, first, count)
        self._compute = compute


def paused(bench: Bench, lane: DeviceLane, lengths: list[int]) -> list[NDArray[Any]]:
    """Samples of streams that are decoded in turns, a chunk ahead."""
    loop: LaneLoop[Stream] = LaneLoop(lane, bench.windows)
    parts: list[list[NDArray[Any]]] = [[], []]
    for stream in bench.streams(lengths):
        loop.enter(stream)
    turn = 0
    while loop.streams or loop.in_flight:
        while loop.streams and not loop.full:
            loop.submit([loop.streams[turn % len(loop.streams)]])
            turn += 1
        for piece in loop.collect():
            parts[piece.stream.number].append(piece.samples)
    return [np.concatenate(part) for part in parts]


@pytest.mark.parametrize("kind", [ForgetfulLane, UnorderedLane])
def test_the_simulation_notices_a_lost_state_of_a_paused_stream(bench: Bench, kind: type[DeviceLane]) -> None:
    lengths = [3 * STEPS] * 2
    expected = bench.samples(bench.reference, lengths)

    def right(seed: int, kind: type[DeviceLane]) -> bool:
        return equal(paused(bench, bench.lane(simulated.SimulatedDevice(seed), kind), lengths), expected)

    assert not all(right(seed, kind) for seed in range(10))
    assert all(right(seed, DeviceLane) for seed in range(10))


def test_only_states_of_paused_streams_are_copied_and_neighbours_together() -> None:
    bench = Bench(open_model_directory(SMALL_VOICE), slots=6)
    device = simulated.SimulatedDevice(seed=None)
    lane = bench.lane(device)
    loop: LaneLoop[Stream] = LaneLoop(lane, bench.windows)
    streams = bench.streams([9 * STEPS] * 5)
    for stream in streams:  # the sixth slot is empty
        loop.enter(stream)

    def copies(*numbers: int) -> int:
        loop.submit([streams[number] for number in numbers])
        loop.collect()
        found, device.log = device.log.count("copy"), []
        return found

    assert copies(0, 1, 2, 3, 4) == 0
    assert copies(0, 3) == 4  # two runs, each with one recurrent layer
    assert copies(4) == 2
    assert copies(0, 1, 2, 3, 4) == 0
    lane.drain()
    loop = LaneLoop(lane, bench.windows)
    streams = bench.streams([STEPS])
    loop.enter(streams[0])
    assert copies(0) == 0  # states of earlier streams are not kept


def test_the_next_chunk_is_uploaded_before_one_is_computed(bench: Bench) -> None:
    device = simulated.SimulatedDevice(seed=None)
    executor = bench.executor(device)
    pieces = decode_streams(executor, bench.windows, bench.streams([3 * STEPS]), bench.slots)
    next(pieces)
    computed = [place for place, what in enumerate(device.log) if what == "run"]
    first = computed[1]  # after the warm-up
    uploads = [what for what in device.log[:first] if what in ("copy in", "event")]
    assert uploads == (["copy in"] * 3 + ["event"]) * 2


def test_a_chunk_is_captured_once_and_replayed() -> None:
    bench = Bench(open_model_directory(SMALL_VOICE))
    device = simulated.SimulatedDevice(seed=0)
    executor = bench.executor(device)
    for _ in range(3):
        bench.samples(executor, [5 * STEPS] * 3)
    assert device.captures == 2  # one for each half
    assert device.launches == 15
    assert bench.plans["decoder"].enqueued == 3  # the warm-up and two captures
    assert bench.plans["decoder"].warmed == 1


def test_a_plan_that_cannot_be_captured_is_enqueued() -> None:
    bench = Bench(open_model_directory(SMALL_VOICE))
    bench.plans["decoder"].capturable = False
    device = simulated.SimulatedDevice(seed=0)
    bench.samples(bench.executor(device), [3 * STEPS + 1, STEPS, 70, 9])
    assert (device.captures, device.launches) == (0, 0)


@some
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 4 * STEPS), min_size=3, max_size=5))
def test_several_lanes_do_not_disturb_each_other(bench: Bench, seed: int, lengths: list[int]) -> None:
    executor = bench.executor(simulated.SimulatedDevice(seed))
    expected = bench.samples(bench.reference, lengths)
    lanes = [decode_streams(executor, bench.windows, bench.streams(lengths), 1) for _ in range(3)]
    pieces: list[list[Piece[Stream]]] = [[] for _ in lanes]
    running = dict(enumerate(lanes))
    while running:
        for number, lane in list(running.items()):
            piece = next(lane, None)
            if piece is None:
                del running[number]
            else:
                pieces[number].append(piece)
    assert all(equal(joined(iter(one), len(lengths)), expected) for one in pieces)


def test_a_lane_is_clean_after_a_caller_that_stopped_early(bench: Bench) -> None:
    for seed in range(5):
        device = simulated.SimulatedDevice(seed)
        executor = bench.executor(device)
        pieces = decode_streams(executor, bench.windows, bench.streams([9 * STEPS] * 3), 1)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        lengths = [2 * STEPS, 30]
        assert equal(bench.samples(executor, lengths), bench.samples(bench.reference, lengths))
        assert device.captures == 2


def test_a_lane_has_one_user_at_a_time_and_is_used_again(bench: Bench) -> None:
    device = simulated.SimulatedDevice(seed=0)
    executor = bench.executor(device)
    guard = threading.Lock()
    used: set[int] = set()
    all_hold_a_lane = threading.Barrier(4)

    def use() -> None:
        for turn in range(20):
            with executor.lane(1) as lane:
                with guard:
                    assert id(lane) not in used
                    used.add(id(lane))
                if turn == 0:
                    all_hold_a_lane.wait(60)
                with guard:
                    used.remove(id(lane))

    with ThreadPoolExecutor(4) as threads:
        for user in [threads.submit(use) for _ in range(4)]:
            user.result(60)
    assert len(executor._lanes.idle) == 4
    assert device.captures == 8


def test_a_lane_whose_device_failed_is_not_used_again_and_the_first_error_is_raised(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = bench.executor(simulated.SimulatedDevice(seed=0))

    def fail(*_: object) -> None:
        raise RuntimeError("the device is gone")

    with pytest.raises(ZeroDivisionError), executor.lane(1) as lane:
        raise ZeroDivisionError
    assert executor._lanes.idle == [lane]  # an error of the caller
    monkeypatch.setattr(DeviceLane, "drain", fail)
    with pytest.raises(OverflowError), executor.lane(1):
        raise OverflowError
    monkeypatch.undo()
    assert executor._lanes.idle == []
    lengths = [2 * STEPS]
    assert equal(bench.samples(executor, lengths), bench.samples(bench.reference, lengths))


def test_without_memory_for_another_lane_the_existing_ones_continue(bench: Bench) -> None:
    device = simulated.SimulatedDevice(seed=0, memory=600_000)
    executor = bench.executor(device)
    lengths = [3 * STEPS]
    expected = bench.samples(bench.reference, lengths)
    first = decode_streams(executor, bench.windows, bench.streams(lengths), 1)
    parts = [next(first)]
    device.memory_left = 1000
    with pytest.raises(VocoderError, match="memory is full"):
        bench.samples(executor, lengths)
    assert equal(joined(iter([*parts, *first]), 1), expected)
    assert equal(bench.samples(executor, lengths), expected)
