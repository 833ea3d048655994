"""Protocols of GPUs: memory, streams, events and plans; and the check for the packages that a GPU needs.

Streams and events are as in CUDA: a stream executes its work in the order of submission, and only events order the work
of different streams. Calls return before their work is done, unless their description says otherwise; the arrays and
buffers passed to them must not be changed until then.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from wavernn_trt.engines.gpu import DriverState, Gpu
from wavernn_trt.engines.plan_record import Binding, PlanRecord
from wavernn_trt.runtime.errors import VocoderError


class NoMachineError(VocoderError):
    """A driver, a GPU or a package is missing; the message names it and the command that installs it."""


def require_gpu(state: DriverState, needed: Iterable[tuple[str, str]], install: str) -> Gpu:
    """Returns the first GPU, after a check that all packages are installed.

    Args:
        state: the driver's GPUs.
        needed: names of modules and of their packages.
        install: the command that installs the packages.

    Raises:
        NoMachineError: there is no GPU, or a package is missing.
    """
    if state.reason is not None:
        raise NoMachineError(f"no GPU: {state.reason}")
    for module, name in needed:
        if not _installed(module):
            raise NoMachineError(f"{name} is not installed; install it with: {install}")
    return state.devices[0]


class Buffer(Protocol):
    """Memory on a device; freed by the last reference, in any thread."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes."""


class Event(Protocol):
    """A position in a stream's work, for which other streams can wait; each record moves it."""

    @property
    def native(self) -> Any:
        """The library's object."""

    def synchronize(self) -> None:
        """Waits until the work before the event is done."""


class Graph(Protocol):
    """Captured work, which is launched as a whole."""


class Stream(Protocol):
    """A sequence of work."""

    @property
    def handle(self) -> int:
        """The ``CUstream``."""

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copies a pinned array to the start of a buffer."""

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Copies the start of a buffer to a pinned array, which gives the size."""

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        """Writes a 32-bit word ``count`` times, from the buffer's word ``first`` on."""

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        """Copies ``count`` 32-bit words between buffers on the device, from word ``first`` to the same position."""

    def record(self, event: Event) -> None:
        """Sets an event after the work submitted so far."""

    def wait(self, event: Event) -> None:
        """Makes later work wait for the last record of an event."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Captures the work that ``work`` submits to this stream as a graph, without executing it."""

    def launch(self, graph: Graph) -> None:
        """Submits a graph."""

    def synchronize(self) -> None:
        """Waits until all submitted work is done."""


class Device(Protocol):
    """A GPU."""

    def current(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread, as all calls here and of `PlanContext` require."""

    def release(self, drop: Callable[[], None]) -> None:
        """Calls ``drop``, which frees something, with the device current; from any thread.

        At the end of the process nothing is called, because the driver has freed everything.
        """

    def stream(self) -> Stream:
        """A new stream, not ordered with any other."""

    def event(self) -> Event: ...

    def allocate(self, size: int) -> Buffer:
        """Allocates uninitialised device memory.

        Raises:
            VocoderError: the memory is full.
        """

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An uninitialised array in pinned host memory, which the device can access."""


class PlanContext(Protocol):
    """Shapes, addresses and scratch memory of a plan's execution; for one execution at a time."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Sets the shape of an input with dynamic dimensions."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """Sets the buffer of an input or output for later calls of `enqueue`."""

    def enqueue(self, stream: Stream) -> None:
        """Submits an execution of the plan."""

    def capturable(self, stream: Stream) -> bool:
        """Whether `enqueue` may be captured; called after the first execution."""


class Plan(Protocol):
    """A network that is ready to run on a device."""

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Inputs and outputs."""

    def context(self, *, one_shape: bool) -> PlanContext:
        """A new context, independent of others.

        Args:
            one_shape: whether shapes are set only once, so that compilation for them is worthwhile.

        Raises:
            VocoderError: the device's memory is full.
        """

    def warmed_up(self) -> None:
        """Called after a context's first execution, so that kernels compiled there can be stored."""


class BuiltPlan(Plan, Protocol):
    """A plan deserialised from a file."""

    @property
    def record(self) -> PlanRecord: ...


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the parent package is missing
        return False
