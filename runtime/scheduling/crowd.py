"""Any number of requests, as many of them under way at a time as keep the slots full."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.ticket import Ticket


def keep_under_way(
    requests: Iterable[Request], submit: Callable[[Request], Ticket], most: int, *, in_order: bool
) -> Iterator[tuple[int, Ticket]]:
    """Submits requests as others end.

    Args:
        requests: a generator is pulled whenever there is room for another.
        submit: hands one over.
        most: how many may be under way, or done and not yielded.
        in_order: whether to yield in the order of the requests, or else as they end.

    Yields:
        A request's number, from 0, and its ticket, which is done. That of a request which cannot be submitted fails
        with that. What is under way when the caller leaves is cancelled.
    """
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    under_way: dict[int, Ticket] = {}
    waiting = enumerate(requests)
    try:
        while True:
            while len(under_way) < most and (arrived := next(waiting, None)) is not None:
                number, request = arrived
                try:
                    ticket = submit(request)
                except VocoderError as error:
                    ticket = Ticket()
                    ticket.set_exception(error)
                under_way[number] = ticket
                if not in_order:  # nobody would take the numbers out again
                    ticket.add_done_callback(partial(_tell, done, number))
            if not under_way:
                return
            number = next(iter(under_way)) if in_order else done.get()
            wait([under_way[number]])
            yield number, under_way.pop(number)
    finally:
        for ticket in under_way.values():
            ticket.cancel()


def _tell(done: queue.SimpleQueue[int], number: int, _: Future[FloatArray]) -> None:
    done.put(number)
