"""Bounded submission: any number of requests, of which only so many are in flight at a time."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.scheduling.ticket import Ticket

R = TypeVar("R")


def submit_bounded(
    requests: Iterable[R], submit: Callable[[R], Ticket], most: int, *, in_order: bool
) -> Iterator[tuple[int, Ticket]]:
    """Submits requests as others end.

    Args:
        requests: a generator is pulled whenever another may be in flight.
        submit: takes a request on.
        most: how many may be in flight, or done and not yielded.
        in_order: whether to yield in the order of the requests, or else as they end.

    Yields:
        A request's number, from 0, and its ticket, which is done. The ticket of a request that cannot be submitted has
        that error. What is in flight when the caller leaves is cancelled.
    """
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    in_flight: dict[int, Ticket] = {}
    waiting = enumerate(requests)

    def notify_of(number: int) -> Callable[[Future[FloatArray]], None]:
        return lambda _: done.put(number)

    try:
        while True:
            while len(in_flight) < most and (arrived := next(waiting, None)) is not None:
                number, request = arrived
                try:
                    ticket = submit(request)
                except VocoderError as error:
                    ticket = Ticket()
                    ticket.set_exception(error)
                in_flight[number] = ticket
                if not in_order:  # in order, the queue of numbers is not read and would grow
                    ticket.add_done_callback(notify_of(number))
            if not in_flight:
                return
            number = next(iter(in_flight)) if in_order else done.get()
            wait([in_flight[number]])
            yield number, in_flight.pop(number)
    finally:
        for ticket in in_flight.values():
            ticket.cancel()
