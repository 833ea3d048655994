"""Utterances of all threads share the slots: order, urgency, cancellation, bounds; bits do not depend on them."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, as_completed
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from listening_sink import ListeningSink
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import ClosedError, DeadlineError, QueueFullError, VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
MakeVocoder = Callable[..., Vocoder]
PATIENCE = 60.0


def submit_after_the_first(vocoder: Vocoder, held: Any, requests: list[Request]) -> list[Ticket]:
    """Submits the others while the first is alone in a chunk, which is held."""
    held.hold()
    first = vocoder.submit(requests[0])
    held.wait_for(lambda: held.rows)
    return [first, *map(vocoder.submit, requests[1:])]


def wait_until_ready(vocoder: Vocoder, utterances: int) -> None:
    """Waits until this number of utterances is conditioned and waits for a slot."""
    flight = vocoder._scheduler._flight
    with flight.changed:
        assert flight.changed.wait_for(lambda: len(flight.ready) == utterances, PATIENCE)


@pytest.mark.parametrize(("lanes", "batch"), [(1, 3), (3, 3)])
def test_simultaneous_requests_of_threads_get_the_bits_of_each_alone(
    make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel, lanes: int, batch: int
) -> None:
    vocoder = make_vocoder(batch, lanes)
    order = random.Random(0)
    requests = [Request(mel_of(order.randint(1, 6), i), i, fold=order.choice([None, None, 700])) for i in range(24)]
    found: dict[int, FloatArray] = {}

    def submit(numbers: range) -> None:
        for number in numbers:
            found[number] = vocoder.submit(requests[number]).result(PATIENCE)

    threads = [threading.Thread(target=submit, args=(range(first, 24, 6),)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for number, request in enumerate(requests):
        alone = plain.vocode(request.mel, seed=request.seed, fold=request.fold)
        assert np.array_equal(found[number], alone)
    assert vocoder.statistics().done == 24


def test_a_waiting_utterance_enters_the_slot_that_becomes_free(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(2)
    requests = [Request(mel_of(chunks, chunks)) for chunks in (6, 2, 2, 2)]
    tickets = submit_after_the_first(vocoder, held, requests)
    wait_until_ready(vocoder, 2)  # as many as there are slots
    held.allow()
    for ticket in tickets:
        ticket.result(PATIENCE)
    assert held.rows == [1, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("order", ["submitted", "completed"])
def test_results_come_in_the_order_that_was_chosen(
    make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel, order: Any
) -> None:
    requests = [Request(mel_of(chunks, chunks)) for chunks in (9, 1, 2, 1)]
    found = list(make_vocoder(4).vocode_many(requests, order=order))
    numbers = [number for number, _ in found]
    assert numbers == [0, 1, 2, 3] if order == "submitted" else numbers[-1] == 0
    for number, ticket in found:
        assert np.array_equal(ticket.result(0), plain.vocode(requests[number].mel))


def test_the_error_of_a_bad_request_is_on_its_own_ticket(make_vocoder: MakeVocoder, mel_of: MakeMel) -> None:
    requests = [Request(mel_of(1)), Request(np.full((80, 3), np.nan, np.float32)), Request(mel_of(2))]
    tickets = dict(make_vocoder(2).vocode_many(requests))
    assert isinstance(tickets[1].exception(), VocoderError)
    assert len(tickets[0].result()) == 200
    assert len(tickets[2].result()) == 600


def test_a_cancelled_utterance_gives_its_slot_back_at_the_next_chunk(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1)
    held.hold()
    listener = ListeningSink()
    long, short = vocoder.submit(Request(mel_of(50)), sink=listener), vocoder.submit(Request(mel_of(1, 1)))
    held.allow(2)
    held.wait_for(lambda: len(held.rows) == 3)
    assert long.cancel()
    held.allow()
    assert np.array_equal(short.result(PATIENCE), plain.vocode(mel_of(1, 1)))
    assert len(held.rows) == 4
    with pytest.raises(CancelledError):
        long.result()
    assert [type(error) for error in listener.errors] == [CancelledError]
    assert len(listener.waveform) <= 3 * 320
    assert list(as_completed([long, short], PATIENCE)) in ([long, short], [short, long])
    assert vocoder.statistics().cancelled == 1


def test_a_waiting_utterance_can_be_cancelled(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1)
    held.hold()
    first, second, third = (vocoder.submit(Request(mel_of(1, seed))) for seed in range(3))
    assert second.cancel()
    held.allow()
    assert len(first.result(PATIENCE)) == len(third.result(PATIENCE))
    assert len(held.rows) == 2


def test_a_full_queue_raises_or_waits_as_the_caller_chooses(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1, queue=2)
    held.hold()
    tickets = [vocoder.submit(Request(mel_of(1)))]
    held.wait_for(lambda: len(held.rows) == 1)
    tickets += [vocoder.submit(Request(mel_of(1))) for _ in range(2)]
    with pytest.raises(QueueFullError, match="found 2 utterances waiting, expected fewer than 2"):
        vocoder.submit(Request(mel_of(1)), wait=False)
    waiting = threading.Thread(target=lambda: tickets.append(vocoder.submit(Request(mel_of(1)))), daemon=True)
    waiting.start()
    assert tickets[1].cancel()  # which makes room
    waiting.join(PATIENCE)
    assert len(tickets) == 4
    held.allow()
    assert {len(ticket.result(PATIENCE)) for ticket in tickets if not ticket.cancelled()} == {200}


def test_an_utterance_that_cannot_meet_its_deadline_is_dropped(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1)
    vocoder.vocode(mel_of(3))  # measures the duration of a chunk
    held.hold()
    blocking = vocoder.submit(Request(mel_of(1)))
    late = [vocoder.submit(Request(mel_of(5)), deadline=1e-3) for _ in range(2)]
    in_time = vocoder.submit(Request(mel_of(2)), deadline=10 * PATIENCE)
    begun = len(held.rows)
    held.allow()
    for ticket in late:
        with pytest.raises(DeadlineError, match="cannot be complete in time"):
            ticket.result(PATIENCE)
    assert len(in_time.result(PATIENCE)) == 600
    blocking.result(PATIENCE)
    assert len(held.rows) - begun <= 3
    assert vocoder.statistics().dropped == 2


def test_interactive_utterances_come_first_and_batch_work_continues(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the lane's clock every chunk takes a millisecond, also the held one.
    began = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: began + len(held.rows) / 1000)
    monkeypatch.setattr("wavernn_trt.runtime.scheduling.lane_worker.time", clock)
    vocoder = make_vocoder(2)
    batch = submit_after_the_first(vocoder, held, [Request(mel_of(12, seed)) for seed in range(3)])
    wait_until_ready(vocoder, 2)
    listener = ListeningSink()
    live = vocoder.submit(Request(mel_of(12, 9)), urgency="interactive", sink=listener)
    wait_until_ready(vocoder, 3)
    held.allow()
    live.result(PATIENCE)
    # It enters a spare slot at once; most chunks are its own, and some are shared with batch work.
    rows = held.rows[1:]
    assert rows.index(1) <= 2
    assert rows[:12].count(1) >= 6
    assert 1 <= rows[:12].count(3) <= 4
    for ticket in batch:
        ticket.result(PATIENCE)


def test_a_sink_that_is_not_urgent_does_not_delay_others(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1)
    (batch,) = submit_after_the_first(vocoder, held, [Request(mel_of(6))])
    live = vocoder.submit(Request(mel_of(6, 1)), urgency="interactive", sink=ListeningSink(urgent=False))
    wait_until_ready(vocoder, 1)
    held.allow()
    batch.result(PATIENCE)
    live.result(PATIENCE)
    assert set(held.rows[1:6]) == {2}


def test_interactive_streams_leave_the_batch_slots_of_their_lane_to_batch_work(
    make_vocoder: MakeVocoder, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(4, lanes=2)
    scheduler = vocoder._scheduler
    paused = [
        vocoder.submit(Request(mel_of(1)), urgency="interactive", sink=ListeningSink(0, urgent=False)) for _ in range(3)
    ]
    paused += [vocoder.submit(Request(mel_of(1)), sink=ListeningSink(0)) for _ in range(4)]
    with scheduler._flight.changed:
        assert scheduler._flight.changed.wait_for(
            lambda: [lane.count("batch") for lane in scheduler._lanes] == [2, 2], PATIENCE
        )
    for ticket in paused:
        assert ticket.cancel()


def test_a_paused_stream_has_the_bits_of_one_that_never_paused(
    make_vocoder: MakeVocoder, plain: Vocoder, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(3)
    slow = ListeningSink(2 * 320)
    paused = vocoder.submit(Request(mel_of(8), 5), sink=slow)
    never_reads = vocoder.submit(Request(mel_of(8), 6), sink=ListeningSink(0))
    slow.wait_for(640)
    assert np.array_equal(vocoder.vocode(mel_of(4, 1)), plain.vocode(mel_of(4, 1)))
    assert len(slow.waveform) == 640
    while not paused.done():
        slow.left = 320 + 7
        slow.wait_for(min(len(slow.waveform) + 320, 12 * 200))
    assert np.array_equal(slow.waveform, plain.vocode(mel_of(8), seed=5))
    assert not never_reads.done()
    assert never_reads.cancel()


def test_folds_take_slots_of_their_own(make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(4)
    mel = mel_of(40)
    assert np.array_equal(vocoder.vocode(mel, fold=3200), plain.vocode(mel, fold=3200))
    assert max(held.rows) == 4
    with pytest.raises(VocoderError, match="bounded room"):
        vocoder.submit(Request(mel, fold=3200), sink=ListeningSink(640))


def test_conditioning_of_waiting_utterances_is_bounded(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    rows = 32 * plain.config.model.columns * 4
    vocoder = make_vocoder(4, conditioning_bytes=2 * rows)
    tickets = submit_after_the_first(vocoder, held, [Request(mel_of(20, seed)) for seed in range(4)])
    wait_until_ready(vocoder, 1)
    assert vocoder.statistics().conditioning_bytes == 2 * rows
    too_long = vocoder.submit(Request(mel_of(60)))
    held.allow()
    for ticket in [*tickets, too_long]:
        ticket.result(PATIENCE)
    assert vocoder.statistics().conditioning_bytes == 0


@pytest.mark.parametrize(("lanes", "conditioners"), [(2, 1), (1, 2)])
def test_several_mels_are_conditioned_at_a_time_if_there_are_several_lanes_or_the_executor_allows_it(
    make_vocoder: MakeVocoder,
    plain: Vocoder,
    held: Any,
    mel_of: MakeMel,
    monkeypatch: pytest.MonkeyPatch,
    lanes: int,
    conditioners: int,
) -> None:
    condition, both = held.condition, threading.Barrier(2)

    def together(mel: FloatArray) -> FloatArray:
        both.wait(PATIENCE)  # passes only if two run at a time
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", together)
    held.conditioners = conditioners
    vocoder = make_vocoder(4, lanes=lanes)
    tickets = [vocoder.submit(Request(mel_of(2, seed))) for seed in range(4)]
    for seed, ticket in enumerate(tickets):
        assert np.array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(2, seed)))


def test_a_long_mel_is_decoded_to_its_end_while_another_is_being_conditioned(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, begun, go_on = held.condition, threading.Event(), threading.Event()
    short = mel_of(1)

    def slow_for_one(mel: FloatArray) -> FloatArray:
        if mel.shape == short.shape:
            begun.set()
            assert go_on.wait(PATIENCE)
        return condition(mel)  # type: ignore[no-any-return]

    monkeypatch.setattr(held, "condition", slow_for_one)
    vocoder = make_vocoder(2)
    held.hold()
    long = vocoder.submit(Request(np.resize(mel_of(100), (80, 257)), samples=25_600))  # in blocks of 64 frames
    held.wait_for(lambda: held.rows)
    slow = vocoder.submit(Request(short))
    assert begun.wait(PATIENCE)
    held.allow()
    assert len(long.result(PATIENCE)) == 25_600
    assert not slow.done()
    go_on.set()
    assert len(slow.result(PATIENCE)) == 200


def test_statistics_count_slots_queue_and_durations(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(2)
    tickets = submit_after_the_first(vocoder, held, [Request(mel_of(2, seed)) for seed in range(5)])
    wait_until_ready(vocoder, 2)
    now = vocoder.statistics()
    assert (now.slots, now.busy, now.under_way, now.done) == (2, 1, 1, 0)
    assert now.queue == 4
    held.allow()
    for ticket in tickets:
        ticket.result(PATIENCE)
    then = vocoder.statistics()
    assert (then.busy, then.queue, then.done, then.samples) == (0, 0, 5, 5 * 600)
    assert then.chunks == len(held.rows)
    assert 0.5 < then.occupancy <= 1
    assert then.samples_per_second > 0
    assert then.latency.count == then.first_samples.count == 5
    assert 0 < then.first_samples.p50 <= then.latency.p50 <= then.latency.p99 <= then.latency.maximum
    assert tickets[0].latency is not None


def test_a_cancelled_awaitable_cancels_the_utterance(make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel) -> None:
    vocoder = make_vocoder(1)
    held.hold()

    async def run() -> None:
        ticket = vocoder.submit(Request(mel_of(50)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(ticket), 0.01)
        assert ticket.cancelled()
        held.allow()
        assert len(await asyncio.wrap_future(vocoder.submit(Request(mel_of(1))))) == 200

    asyncio.run(run())


def test_closing_cancels_utterances_and_refuses_later_requests(
    make_vocoder: MakeVocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1)
    held.hold()
    ticket = vocoder.submit(Request(mel_of(5)))
    held.wait_for(lambda: len(held.rows) == 1)
    held.allow(1)
    vocoder.close()
    vocoder.close()
    assert ticket.cancelled()
    with pytest.raises(ClosedError, match="closed; load the model again"):
        vocoder.vocode(mel_of(1))


def test_a_draining_vocoder_completes_accepted_requests_and_refuses_others(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder = make_vocoder(1)
    assert vocoder.state == "ready"
    tickets = submit_after_the_first(vocoder, held, [Request(mel_of(5), 1), Request(mel_of(4), 2)])
    assert not vocoder.drain(0)
    assert vocoder.state == "draining"
    with pytest.raises(ClosedError, match="is draining and takes no new requests"):
        vocoder.submit(Request(mel_of(1)))
    held.allow()
    assert vocoder.drain(PATIENCE)
    for ticket, frames, seed in zip(tickets, (5, 4), (1, 2), strict=True):
        np.testing.assert_array_equal(ticket.result(PATIENCE), plain.vocode(mel_of(frames), seed=seed))
    vocoder.close()
    assert vocoder.state == "closed"


def test_a_vocoder_without_references_completes_its_utterances_and_ends_its_threads(mel_of: MakeMel) -> None:
    before = set(threading.enumerate())
    vocoder = Vocoder.load(SMALL_VOICE, "onnxruntime", batch=1, threads=1)
    ticket = vocoder.submit(Request(mel_of(10)))
    watched = weakref.ref(vocoder)
    del vocoder
    gc.collect()
    assert len(ticket.result(PATIENCE)) == 3200
    gc.collect()
    assert watched() is None
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queue": 0}, "queue: found 0, expected a positive integer"),
        ({"lanes": True}, "lanes: found True"),
        ({"conditioning_bytes": 1.5}, "conditioning_bytes: found 1.5"),
        ({"interactive_slots": -1}, "interactive_slots: found -1, expected an integer from 0 on"),
        ({"hang_seconds": 0}, "hang_seconds: found 0, expected a positive number"),
    ],
)
def test_invalid_limits_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        SchedulerLimits(**fields)


def test_invalid_options_of_a_request_are_refused_at_once(plain: Vocoder, mel_of: MakeMel) -> None:
    with pytest.raises(VocoderError, match="deadline: found -1, expected a positive number of seconds"):
        plain.submit(Request(mel_of(1)), deadline=-1)
    with pytest.raises(VocoderError, match="urgency: found 'now', expected one of interactive, batch"):
        plain.submit(Request(mel_of(1)), urgency="now")  # type: ignore[arg-type]
    with pytest.raises(VocoderError, match="samples: found 0, expected a positive number"):
        plain.submit(Request(mel_of(1), samples=0))


def test_a_request_for_the_first_samples_gives_the_beginning_of_the_waveform(plain: Vocoder, mel_of: MakeMel) -> None:
    mel = mel_of(10)
    part = plain.submit(Request(mel, 3, samples=777)).result(PATIENCE)
    assert np.array_equal(part, plain.vocode(mel, seed=3)[:777])


def test_the_caller_may_change_the_mel_after_submitting_it(
    make_vocoder: MakeVocoder, plain: Vocoder, held: Any, mel_of: MakeMel
) -> None:
    vocoder, mel = make_vocoder(1), mel_of(2)
    held.hold()
    first, second = vocoder.submit(Request(mel_of(1))), vocoder.submit(Request(mel))
    mel[:] = 0
    held.allow()
    assert np.array_equal(second.result(PATIENCE), plain.vocode(mel_of(2)))
    first.result(PATIENCE)
