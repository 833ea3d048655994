"""Bounded submission: any number of requests with a limited number in flight."""

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
    """Submits requests, each as soon as the number in flight allows it.

    Args:
        requests: the iterator is advanced only when another request may be in flight.
        submit: submits one request.
        most: maximum number of requests that are in flight, or done and not yet yielded.
        in_order: whether to yield in the order of the requests; otherwise in the order of completion.

    Yields:
        The request's number, from 0, and its ticket, which is done. If a request cannot be submitted, its ticket has
        the error. Requests still in flight when the generator is closed are cancelled.
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
