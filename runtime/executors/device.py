"""GPUs: what must be installed to use one, and its memory, streams of work, events between them and plans.

As in CUDA: a stream does its work in the order in which it was given, when the device comes to it; different streams
are ordered only by events. The calls here return before their work is done unless they say otherwise, and the arrays
and buffers that they name must be left alone until it is.
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
    """A driver, a GPU or a package is missing; the message names it and how to get it."""


def require_gpu(state: DriverState, needed: Iterable[tuple[str, str]], install: str) -> Gpu:
    """The driver's first GPU, where every package is there.

    Args:
        state: the driver's GPUs.
        needed: modules, and what they are installed as.
        install: the command that brings them.

    Raises:
        NoMachineError: what is missing.
    """
    if state.reason is not None:
        raise NoMachineError(f"no GPU: {state.reason}")
    for module, name in needed:
        if not _installed(module):
            raise NoMachineError(f"{name} is not installed; install it with: {install}")
    return state.devices[0]


class Buffer(Protocol):
    """Memory on a device; freed when nothing refers to it, in whichever thread that is."""

    @property
    def address(self) -> int:
        """Where it is."""

    @property
    def size(self) -> int:
        """Bytes."""


class Event(Protocol):
    """A place in a stream's work, which others can wait for; recording it again moves it."""

    @property
    def native(self) -> Any:
        """What the device's library knows it as."""

    def synchronize(self) -> None:
        """Returns when the work before the place is done."""


class Graph(Protocol):
    """Work that was captured, to be launched whole."""


class Stream(Protocol):
    """Work in order."""

    @property
    def handle(self) -> int:
        """A ``CUstream``."""

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copies a pinned array to a buffer's beginning."""

    def copy_out(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Copies a buffer's beginning to a pinned array, as much as it holds."""

    def fill(self, buffer: Buffer, word: int, first: int, count: int) -> None:
        """Writes a 32-bit word ``count`` times, from the buffer's word ``first`` on."""

    def copy(self, target: Buffer, source: Buffer, first: int, count: int) -> None:
        """Copies ``count`` 32-bit words between two buffers on the device, from word ``first`` to the same place."""

    def record(self, event: Event) -> None:
        """Puts an event behind the work given so far."""

    def wait(self, event: Event) -> None:
        """Lets later work wait until an event, as last recorded, has come."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Keeps what ``work`` gives to this stream as a graph, without doing it."""

    def launch(self, graph: Graph) -> None:
        """Gives a graph's work to this stream."""

    def synchronize(self) -> None:
        """Returns when all work given so far is done."""


class Device(Protocol):
    """A GPU."""

    def current(self) -> AbstractContextManager[None]:
        """Makes the device the calling thread's; everything here and in `PlanContext` is called inside."""

    def release(self, drop: Callable[[], None]) -> None:
        """Calls ``drop`` with the device current, to let go of what needs it for its end.

        Any thread may drop the last reference to something. At the process's end nothing is called: the
        device has taken everything back by then.
        """

    def stream(self) -> Stream:
        """A new stream, which waits for no other of itself."""

    def event(self) -> Event:
        """A new event."""

    def allocate(self, size: int) -> Buffer:
        """Device memory; what is in it is arbitrary.

        Raises:
            VocoderError: the device has not so much left.
        """

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array in host memory that the device copies from and to by itself; what is in it is arbitrary."""


class PlanContext(Protocol):
    """One use of a plan at a time: shapes, addresses and the memory in between."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Gives an input its shape, where the plan leaves it open."""

    def bind(self, name: str, buffer: Buffer) -> None:
        """Sets the buffer of an input or output, for what is enqueued from now on."""

    def enqueue(self, stream: Stream) -> None:
        """Runs the plan."""

    def capturable(self, stream: Stream) -> bool:
        """Whether `enqueue` may be captured; asked after it has run once."""


class Plan(Protocol):
    """A network that is ready to run on a device."""

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Its inputs and outputs."""

    def context(self, *, one_shape: bool) -> PlanContext:
        """A new context, independent of others.

        Args:
            one_shape: whether shapes are set once, and compiling for them pays.

        Raises:
            VocoderError: the device has no memory for it.
        """

    def warmed_up(self) -> None:
        """Called when a context has run: what was compiled at the first run can be kept."""


class BuiltPlan(Plan, Protocol):
    """A plan that was built beforehand, and deserialised."""

    @property
    def record(self) -> PlanRecord:
        """What is known about it."""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing
        return False
