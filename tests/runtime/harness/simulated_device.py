"""A simulated device: runs queued work in random orders that streams and events allow, without a GPU.

Work for a stream is queued. It is done when something waits for it, or earlier by chance, in a random order that the
streams and events allow. A missing event, or an array that is written too soon, thus gives wrong samples under some
seed. Memory is numpy's and holds arbitrary bytes at first. ONNX Runtime runs the model directory's graphs as plans.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.engines.plan_record import Binding, PlanRecord, PluginUse
from wavernn_trt.export.model_directory import CONDITIONER, DECODER_LOOP, ModelDirectory, window_rows
from wavernn_trt.runtime.errors import VocoderError

Flaw = Literal["upload is not waited for", "chunk is not waited for", "samples are not waited for"]


@dataclass
class Work:
    """One piece of a stream's work."""

    what: str
    do: Callable[[], None]
    ready: Callable[[], bool] = lambda: True


class Token:
    """Whether one recording of an event was reached."""

    reached = False

    def set(self) -> None:
        self.reached = True


@dataclass
class SimulatedBuffer:
    memory: NDArray[np.uint8]

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data)

    @property
    def size(self) -> int:
        return len(self.memory)

    def view(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory[:count].view(dtype).reshape(shape)


@dataclass
class SimulatedEvent:
    device: SimulatedDevice
    native: Any = None
    token: Token = field(default_factory=Token)
    recorded: bool = False

    def synchronize(self) -> None:
        self.device.check()
        if self.recorded and self.device.flaw != "samples are not waited for":
            self.device.run_until(lambda: self.token.reached)


@dataclass
class SimulatedGraph:
    work: list[Work]


class SimulatedStream:
    def __init__(self, device: SimulatedDevice, handle: int) -> None:
        self.device, self.handle = device, handle
        self.queue: deque[Work] = deque()
        self._captured: list[Work] | None = None

    def give(self, what: str, do: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
        self.device.check()
        if self._captured is not None:
            self._captured.append(Work(what, do, ready))
            return
        self.device.queue(self, Work(what, do, ready))

    def copy_in(self, buffer: SimulatedBuffer, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= buffer.size
        target = buffer.view(array.shape, array.dtype.str)
        self.give("copy in", lambda: np.copyto(target, array))

    def copy_out(self, array: NDArray[Any], buffer: SimulatedBuffer) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= buffer.size
        source = buffer.view(array.shape, array.dtype.str)
        self.give("copy out", lambda: np.copyto(array, source))

    def fill(self, buffer: SimulatedBuffer, word: int, first: int, count: int) -> None:
        assert (first + count) * 4 <= buffer.size
        words = buffer.memory.view(np.uint32)[first : first + count]
        self.give("fill", lambda: words.fill(word))

    def copy(self, target: SimulatedBuffer, source: SimulatedBuffer, first: int, count: int) -> None:
        assert (first + count) * 4 <= min(target.size, source.size)
        words = [buffer.memory.view(np.uint32)[first : first + count] for buffer in (target, source)]
        self.give("copy", lambda: np.copyto(*words))

    def record(self, event: SimulatedEvent) -> None:
        event.token, event.recorded = Token(), True
        self.give("event", event.token.set)

    def wait(self, event: SimulatedEvent) -> None:
        if not event.recorded or self.device.ignores_wait():
            return
        token = event.token
        self.give("wait", lambda: None, lambda: token.reached)

    def capture(self, work: Callable[[], None]) -> SimulatedGraph:
        assert not self.queue, "the work of a capture's warm-up is not done"
        self._captured = []
        work()
        captured, self._captured = self._captured, None
        self.device.captures += 1
        return SimulatedGraph(captured)

    def launch(self, graph: SimulatedGraph) -> None:
        self.device.launches += 1
        for work in graph.work:
            self.give(work.what, work.do, work.ready)

    def synchronize(self) -> None:
        self.device.check()
        self.device.run_until(lambda: not self.queue)


class SimulatedDevice:
    """With ``seed=None``, work is done as late as possible, in the order of the streams' creation."""

    def __init__(self, seed: int | None, flaw: Flaw | None = None, memory: int | None = None) -> None:
        self.flaw = flaw
        self.log: list[str] = []
        self.captures = self.launches = 0
        self.memory_left = memory
        self._random = None if seed is None else random.Random(seed)
        self._streams: list[SimulatedStream] = []
        self._waits = itertools.count()
        self._lock = threading.RLock()
        self._threads = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._threads.depth = getattr(self._threads, "depth", 0) + 1
        try:
            yield
        finally:
            self._threads.depth -= 1

    def release(self, drop: Callable[[], None]) -> None:
        with self.current():
            drop()

    def check(self) -> None:
        assert getattr(self._threads, "depth", 0), "the device is not current in this thread"

    def stream(self) -> SimulatedStream:
        self.check()
        self._streams.append(SimulatedStream(self, len(self._streams) + 1))
        return self._streams[-1]

    def event(self) -> SimulatedEvent:
        self.check()
        return SimulatedEvent(self)

    def allocate(self, size: int) -> SimulatedBuffer:
        self.check()
        if self.memory_left is not None:
            if size > self.memory_left:
                raise VocoderError("the GPU's memory is full")
            self.memory_left -= size
        return SimulatedBuffer(np.full(size, 0xCD, np.uint8))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        self.check()
        return np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xAB, np.uint8).view(dtype).reshape(shape)

    def ignores_wait(self) -> bool:
        """A chunk waits first for its upload; its download waits for the chunk."""
        flaws = ("upload is not waited for", "chunk is not waited for")
        return self.flaw == flaws[next(self._waits) % 2]

    def queue(self, stream: SimulatedStream, work: Work) -> None:
        with self._lock:
            stream.queue.append(work)
            while self._random is not None and self._random.random() < 0.5 and self._step():
                pass

    def run_until(self, done: Callable[[], bool]) -> None:
        with self._lock:
            while not done():
                assert self._step(), "every stream waits for an event that is never recorded"

    def _step(self) -> bool:
        ready = [stream for stream in self._streams if stream.queue and stream.queue[0].ready()]
        if not ready:
            return False
        work = (ready[0] if self._random is None else self._random.choice(ready)).queue.popleft()
        self.log.append(work.what)
        work.do()
        return True


class OnnxPlan:
    """A graph of a model directory, with the interface of a plan."""

    def __init__(self, directory: ModelDirectory, record: PlanRecord, *, capturable: bool = True) -> None:
        file = DECODER_LOOP if record.role == "decoder" else CONDITIONER
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(directory.file(file)), options)
        self.record = record
        self.bindings = record.bindings
        self.capturable = capturable
        self.enqueued = self.warmed = 0
        self.stalls = 0
        """Number of coming chunks that end with the mark of a stalled kernel in their last samples."""

    def context(self, *, one_shape: bool) -> OnnxContext:
        return OnnxContext(self)

    def warmed_up(self) -> None:
        self.warmed += 1


class OnnxContext:
    def __init__(self, plan: OnnxPlan) -> None:
        self._plan = plan
        self._bindings = {one.name: one for one in plan.record.bindings}
        self._shapes = {one.name: one.shape for one in self._bindings.values()}
        self._buffers: dict[str, SimulatedBuffer] = {}

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        profile = self._bindings[name].profile
        assert profile is not None
        assert all(low <= size <= high for low, size, high in zip(profile[0], shape, profile[2], strict=True))
        self._shapes[name] = shape

    def bind(self, name: str, buffer: SimulatedBuffer) -> None:
        self._buffers[name] = buffer

    def capturable(self, stream: SimulatedStream) -> bool:
        return self._plan.capturable

    def enqueue(self, stream: SimulatedStream) -> None:
        self._plan.enqueued += 1
        buffers, shapes, bindings = dict(self._buffers), dict(self._shapes), self._bindings.values()

        def run() -> None:
            inputs = {
                one.name: buffers[one.name].view(shapes[one.name], one.dtype).copy()
                for one in bindings
                if one.kind == "input"
            }
            names = [one.name for one in bindings if one.kind == "output"]
            for name, value in zip(names, self._plan.session.run(names, inputs), strict=True):
                buffers[name].view(value.shape, value.dtype.str)[...] = value
                if name == "samples" and self._plan.stalls:
                    self._plan.stalls -= 1
                    buffers[name].view(value.shape, "uint32")[:, -1] = 0xFFE00000 | 2 << 19 | 7 << 10 | 5

        stream.give("run", run)


def records(
    directory: ModelDirectory,
    *,
    steps: int = 40,
    batch: Sequence[int] = (4, 4, 4),
    frames: Sequence[int] = (2, 8, 64),
    **changes: Any,
) -> dict[str, PlanRecord]:
    """The records of an engine's two plans, as a build writes them."""
    model, n_mels = directory.model, directory.audio.n_mels
    low, _, high = batch
    size = high if low == high else -1
    window = window_rows(model, directory.audio, steps)
    previous = "int32" if model.label_feedback else "float32"
    shapes: list[tuple[Any, ...]] = [("conditioning", "input", "float32", (size, window, model.columns))]
    if any(group.expansion == "held" for group in model.groups):
        shapes.append(("frame_index", "input", "int32", (size, steps)))
    if model.interpolated:
        shapes.append(("interpolation", "input", "float32", (size, model.interpolated, steps, window)))
    state = (model.layers, size, model.hidden_size)
    shapes += [
        ("uniforms", "input", "float32", (size, steps, model.uniforms)),
        ("previous", "input", previous, (size,)),
        ("hidden", "input", "float32", state),
        ("samples", "output", "int32" if model.output == "categorical" else "float32", (size, steps)),
        ("previous_out", "output", previous, (size,)),
        ("hidden_out", "output", "float32", state),
    ]
    rows = [
        ("mel", "input", "float32", (1, n_mels, -1)),
        ("conditioning", "output", "float32", (1, -1, model.columns)),
    ]
    common: dict[str, Any] = {
        "key": "0" * 64,
        "model": directory.path.name,
        "model_sha256": "0" * 64,
        "backend": "tensorrt_rtx",
        "backend_version": "1.7.1.116",
        "targets": ("sm86", "sm89"),
        "precision": "fp16",
        "layers": {},
        "precisions": {},
        "build_seconds": 1.0,
        "peak_bytes": 1,
        "built_at": "2026-01-01T00:00:00+00:00",
        "graph_sha256": "0" * 64,
        "kernels_sha256": "0" * 64,
        "builder": "wavernn-trt 0",
        "plan_sha256": "0" * 64,
        "plan_bytes": 1,
        **changes,
    }
    decoder: dict[str, Any] = {
        "role": "decoder",
        "form": "sequence",
        "batch": tuple(batch),
        "steps": steps,
        "window": window,
        "frames": None,
        "bindings": _bindings(shapes, batch),
        "plugins": (PluginUse("WaveRNNSequencePlugin", "1", "wavernn_trt", 1),),
    }
    conditioner: dict[str, Any] = {
        "role": "conditioner",
        "form": None,
        "batch": (1, 1, 1),
        "steps": None,
        "window": None,
        "frames": tuple(frames),
        "bindings": _bindings(rows, frames),
        "plugins": (),
        "precision": "fp32",
    }
    return {role["role"]: PlanRecord(**{**common, **role}) for role in (conditioner, decoder)}


def _bindings(shapes: Sequence[tuple[Any, ...]], extent: Sequence[int]) -> tuple[Binding, ...]:
    return tuple(
        Binding(
            name,
            kind,
            dtype,
            shape,
            tuple(tuple(size if one == -1 else one for one in shape) for size in extent)  # type: ignore[arg-type]
            if kind == "input" and -1 in shape
            else None,
        )
        for name, kind, dtype, shape in shapes
    )
