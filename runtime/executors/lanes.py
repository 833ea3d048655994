"""Lanes: slots that keep the state of their streams between chunks, on the host or on a device.

A `HostLane` computes a chunk when it is submitted. A `DeviceLane` overlaps the computation of a chunk with the upload
of the next one's inputs. Chunks alternate between two halves, each with its own pinned arrays, device buffers and
captured graph. The state is double-buffered as well: one half reads the first buffer and writes the second, the other
half the reverse. A half is reused after its chunk is collected, so three events per chunk give the necessary order. All
slots are computed in every chunk; for slots that a chunk leaves out, the old state is copied over the computed one::

    upload     copy in 0 ──●         copy in 1 ──●                          copy in 2
    compute                └─ chunk 0 ──●        └────── chunk 1 ──●
    download                            └─ copy out 0 ──●          └─ copy out 1 ──●
    host                                                └─ collect 0, submit 2     └─ collect 1
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.plan_record import Binding
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.plugins.stalls import find_stall
from wavernn_trt.runtime.errors import KernelStallError
from wavernn_trt.runtime.executors.device import Buffer, Device, Event, Graph, Plan
from wavernn_trt.runtime.executors.protocol import Chunk, State, initial_state

SAMPLES = "samples"
STATE = ("previous", "hidden")
"""Inputs for the state; the outputs have the suffix ``_out``."""


class ChunkDecoder(Protocol):
    """Decodes a chunk on the host."""

    slots: int | None

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        """T steps: samples [B, T] (int32 labels, or float32 values for mixtures) and the state after them."""


class HostLane:
    """A lane on the host. Slots that a chunk leaves out are not computed; their state is unchanged."""

    ahead = 1

    def __init__(self, decoder: ChunkDecoder, model: ModelConfig, streams: int) -> None:
        """Starts without streams; ``streams`` is the number of slots, if the decoder accepts any."""
        self.slots = decoder.slots or max(1, streams)
        self._decoder = decoder
        self._model = model
        self._states: dict[int, State] = {}
        self._samples: NDArray[Any] | None = None

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        for slot in entering:
            self._states[slot] = initial_state(self._model, 1)
        states = [self._states[slot] for slot in slots]
        empty = (self._decoder.slots or len(slots)) - len(slots)
        if empty:  # they repeat the first stream
            rows = [*range(len(slots)), *[0] * empty]
            states = [states[row] for row in rows]
            chunk = Chunk(
                chunk.conditioning[rows], chunk.frame_index[rows], chunk.interpolation[rows], chunk.uniforms[rows]
            )
        previous = np.concatenate([state.previous for state in states])
        hidden = np.concatenate([state.hidden for state in states], axis=1)
        samples, state = self._decoder.decode(chunk, State(previous, hidden))
        for row, slot in enumerate(slots):
            self._states[slot] = State(state.previous[row : row + 1], state.hidden[:, row : row + 1])
        self._samples = samples[: len(slots)]

    def collect(self) -> NDArray[Any]:
        samples, self._samples = self._samples, None
        if samples is None:
            raise RuntimeError("no chunk was submitted")
        return samples


@dataclass
class _Half:
    """Arrays, buffers, events and graph of one chunk."""

    host: dict[str, NDArray[Any]]
    inputs: dict[str, Buffer]
    samples_host: NDArray[Any]
    samples: Buffer
    state: dict[str, Buffer]
    following: dict[str, Buffer]
    uploaded: Event
    computed: Event
    downloaded: Event
    graph: Graph | None = None


class DeviceLane:
    """A lane on a device."""

    ahead = 2

    def __init__(self, device: Device, plan: Plan, slots: int, initial: State) -> None:
        """Allocates memory, executes the plan once, and captures it.

        Args:
            device: of the plan.
            plan: of a decoder.
            slots: streams of every chunk, inside the plan's profile.
            initial: the state of one stream before its first sample; its hidden state is zero.

        Raises:
            VocoderError: the device's memory is full.
        """
        self.slots = slots
        self._device = device
        self._plan = plan
        self._bindings = {binding.name: binding for binding in plan.bindings}
        self._shapes = {name: shape_of(binding, slots) for name, binding in self._bindings.items()}
        self._first_previous = int(initial.previous.astype(self._bindings["previous"].dtype).view(np.uint32)[0])
        self._in_flight: deque[tuple[_Half, list[int]]] = deque()
        self._entered: set[int] = set()
        self._submitted = 0
        with device.current():
            self._upload, self._compute, self._download = (device.stream() for _ in range(3))
            self._context = plan.context(one_shape=True)
            states = [{name: self._buffer(name) for name in STATE} for _ in range(2)]
            self._halves = [self._half(states[i], states[1 - i]) for i in range(2)]
            self._warm_up()
            for half in self._halves:
                if self._context.capturable(self._compute):
                    self._bind(half)
                    half.graph = self._compute.capture(self._enqueue)

    def submit(self, chunk: Chunk, slots: Sequence[int], entering: Sequence[int]) -> None:
        # Slots without a stream compute their last inputs again.
        if len(self._in_flight) == self.ahead:
            raise RuntimeError(f"{self.ahead} chunks are in flight, which is the maximum")
        half = self._halves[self._submitted % 2]
        rows = list(slots)
        self._entered.update(entering)
        for name, array in half.host.items():
            array[rows] = getattr(chunk, name)
        with self._device.current():
            for name, array in half.host.items():
                self._upload.copy_in(half.inputs[name], array)
            self._upload.record(half.uploaded)
            for first, count in runs(entering):
                self._reset(half, first, count)
            self._compute.wait(half.uploaded)
            if half.graph is None:
                self._bind(half)
                self._enqueue()
            else:
                self._compute.launch(half.graph)
            # Not in the graph, because it differs between chunks. It includes ended streams, at almost no cost.
            for first, count in runs(self._entered.difference(rows)):
                self._keep(half, first, count)
            self._compute.record(half.computed)
            self._download.wait(half.computed)
            self._download.copy_out(half.samples_host, half.samples)
            self._download.record(half.downloaded)
        self._submitted += 1
        self._in_flight.append((half, rows))

    def collect(self) -> NDArray[Any]:
        """Waits for the oldest chunk; returns its samples.

        Raises:
            KernelStallError: the kernel stopped waiting; the lane can be used again after `drain`.
        """
        if not self._in_flight:
            raise RuntimeError("no chunk is in flight")
        half, rows = self._in_flight[0]
        with self._device.current():
            half.downloaded.synchronize()
        self._in_flight.popleft()
        if (stall := find_stall(half.samples_host)) is not None:
            raise KernelStallError(
                f"the kernel gave up on a chunk: {stall}, longer than its bound. Other programs may use the GPU's "
                "multiprocessors; the chunk's utterances have to be decoded again"
            )
        return half.samples_host[rows]  # a copy, because the half is reused

    def drain(self) -> None:
        """Waits for all work; then discards all streams and uncollected chunks."""
        with self._device.current():
            for stream in (self._upload, self._compute, self._download):
                stream.synchronize()
        self._in_flight.clear()
        self._entered.clear()

    def _half(self, state: dict[str, Buffer], following: dict[str, Buffer]) -> _Half:
        names = [name for name, binding in self._bindings.items() if binding.kind == "input" and name not in STATE]
        half = _Half(
            host={name: self._device.pinned(self._shapes[name], self._bindings[name].dtype) for name in names},
            inputs={name: self._buffer(name) for name in names},
            samples_host=self._device.pinned(self._shapes[SAMPLES], self._bindings[SAMPLES].dtype),
            samples=self._buffer(SAMPLES),
            state=state,
            following=following,
            uploaded=self._device.event(),
            computed=self._device.event(),
            downloaded=self._device.event(),
        )
        for array in half.host.values():
            array[...] = 0  # valid inputs for slots without a stream
        return half

    def _buffer(self, name: str) -> Buffer:
        buffer = self._device.allocate(math.prod(self._shapes[name]) * np.dtype(self._bindings[name].dtype).itemsize)
        self._compute.fill(buffer, 0, 0, buffer.size // 4)
        return buffer

    def _warm_up(self) -> None:
        """Executes the plan once, on zeros: it cannot compile or allocate during the capture of a graph."""
        for name, binding in self._bindings.items():
            if binding.profile is not None:
                self._context.set_shape(name, self._shapes[name])
        self._bind(self._halves[0])
        self._enqueue()
        self._compute.synchronize()
        self._plan.warmed_up()

    def _bind(self, half: _Half) -> None:
        for name, buffer in (*half.inputs.items(), *half.state.items(), (SAMPLES, half.samples)):
            self._context.bind(name, buffer)
        for name, buffer in half.following.items():
            self._context.bind(f"{name}_out", buffer)

    def _enqueue(self) -> None:
        self._context.enqueue(self._compute)

    def _reset(self, half: _Half, first: int, count: int) -> None:
        """Sets slots to the initial state before the next chunk."""
        self._compute.fill(half.state["previous"], self._first_previous, first, count)
        for word, words in self._hidden_words(first, count):
            self._compute.fill(half.state["hidden"], 0, word, words)

    def _keep(self, half: _Half, first: int, count: int) -> None:
        """Restores the state of slots from before the chunk."""
        self._compute.copy(half.following["previous"], half.state["previous"], first, count)
        for word, words in self._hidden_words(first, count):
            self._compute.copy(half.following["hidden"], half.state["hidden"], word, words)

    def _hidden_words(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Positions of consecutive slots' recurrent state in [L, B, H], as (first word, number of words)."""
        layers, slots, hidden = self._shapes["hidden"]
        for layer in range(layers):
            yield (layer * slots + first) * hidden, count * hidden


class LanePool:
    """Reuses lanes with their memory and captured graphs; each is used by one user at a time. Thread-safe."""

    def __init__(self, open_lane: Callable[[], DeviceLane]) -> None:
        self._open = open_lane
        self.idle: list[DeviceLane] = []
        """Unused lanes; ``pop`` and ``append`` of a list are atomic."""

    @contextmanager
    def lane(self) -> Iterator[DeviceLane]:
        """An idle lane, or a new one if all are in use.

        Raises:
            VocoderError: the device's memory is full.
        """
        try:
            lane = self.idle.pop()
        except IndexError:
            lane = self._open()
        try:
            yield lane
        except BaseException:
            # If the device failed, draining fails as well: the lane is not reused, and the first error is raised.
            with suppress(Exception):
                self._return(lane)
            raise
        self._return(lane)

    def _return(self, lane: DeviceLane) -> None:
        lane.drain()
        self.idle.append(lane)


def shape_of(binding: Binding, dynamic: int) -> tuple[int, ...]:
    """Shape of a binding, with its dynamic dimensions replaced."""
    return tuple(dynamic if size == -1 else size for size in binding.shape)


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as (first, count)."""
    for _, members in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in members]
        yield run[0], len(run)
