"""The vocoder for asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt import AsyncVocoder
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.async_vocoder import AsyncAudioStream
from wavernn_trt.runtime.errors import DeadlineError, QueueFullError, VocoderError
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.scheduler import Scheduler
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[[int, int], NDArray[np.float32]]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def mel_of() -> MakeMel:
    def make(frames: int, seed: int) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(-1, 0, (80, frames)).astype(np.float32)

    return make


async def load(batch: int = 2, **limits: int) -> AsyncVocoder:
    return await AsyncVocoder.load(SMALL_VOICE, "onnxruntime", batch=batch, threads=1, limits=SchedulerLimits(**limits))


def run(work: AsyncIterator[None] | object) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE))  # type: ignore[arg-type]


def test_requests_awaited_together_have_the_waveforms_they_have_alone(plain: Vocoder, mel_of: MakeMel) -> None:
    async def main() -> None:
        async with await load(queue=3) as vocoder:  # the others wait for room without blocking the loop
            mels = [mel_of(frames, frames) for frames in (9, 3, 1, 5, 2, 4, 6, 3)]
            found = await asyncio.gather(*(vocoder.vocode(mel, seed=i) for i, mel in enumerate(mels)))
            for i, (mel, waveform) in enumerate(zip(mels, found, strict=True)):
                assert np.array_equal(waveform, plain.vocode(mel, seed=i))
            assert vocoder.statistics().done == len(mels)

    run(main())


def test_more_streams_than_threads_are_read_at_once(plain: Vocoder, mel_of: MakeMel) -> None:
    async def read(vocoder: AsyncVocoder, seed: int) -> NDArray[np.float32]:
        async with await vocoder.stream(mel_of(8, seed), seed=seed, seconds=0.1) as stream:
            return np.concatenate([frame async for frame in stream])

    async def main() -> None:
        async with await load() as vocoder:
            pieces = await asyncio.gather(*(read(vocoder, seed) for seed in range(40)))
        for seed in (0, 17, 39):
            assert np.array_equal(pieces[seed], plain.vocode(mel_of(8, seed), seed=seed))

    run(main())


def test_a_mel_may_come_from_an_asynchronous_iterator(plain: Vocoder, mel_of: MakeMel) -> None:
    mel = mel_of(60, 0)

    async def pieces(count: int | None) -> AsyncIterator[NDArray[np.float32]]:
        for first in range(0, 60, 2):
            await asyncio.sleep(0)
            if first == count:
                raise ConnectionError("the acoustic model is gone")
            yield mel[:, first : first + 2]

    async def main() -> None:
        async with await load() as vocoder:
            stream = await vocoder.stream(pieces(None), seed=3)
            whole = np.concatenate([frame async for frame in stream])
            assert np.array_equal(whole, np.concatenate(list(plain.stream(iter([mel]), seed=3))))
            found: list[NDArray[np.float32]] = []
            breaking = await vocoder.stream(pieces(50), seed=3)
            with pytest.raises(ConnectionError, match="the acoustic model is gone"):
                await collect(breaking, found)
            before = np.concatenate(found)
            assert len(before) >= 200 * (50 - vocoder.vocoder.lookahead() - 4)
            assert np.array_equal(before, whole[: len(before)])

    async def collect(stream: AsyncAudioStream, found: list[NDArray[np.float32]]) -> None:
        async for frame in stream:
            found.append(frame)

    run(main())


def test_cancelled_tasks_cancel_their_requests_in_the_queue_and_in_slots(mel_of: MakeMel) -> None:
    async def main() -> None:
        async with await load(queue=1) as vocoder:
            tasks = [asyncio.create_task(vocoder.vocode(mel_of(400, i))) for i in range(6)]
            while not vocoder.statistics().under_way:
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True)
            )
            assert len(await vocoder.vocode(mel_of(1, 0))) == 200
            statistics = vocoder.statistics()
            assert (statistics.done, statistics.queue) == (1, 0)

    run(main())


def test_a_stream_that_is_closed_frees_its_slot(mel_of: MakeMel) -> None:
    async def main() -> None:
        async with await load() as vocoder:
            async with await vocoder.stream(mel_of(2000, 0)) as stream:
                assert len(await anext(stream)) == 320
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            while vocoder.statistics().busy:
                await asyncio.sleep(0.001)
            assert vocoder.statistics().cancelled == 1

    run(main())


def test_errors_are_raised_where_the_request_is_awaited(mel_of: MakeMel) -> None:
    async def main() -> None:
        async with await load(queue=1) as vocoder:
            with pytest.raises(VocoderError, match="expected"):
                await vocoder.vocode(np.zeros((3, 3), np.float32))
            with pytest.raises(VocoderError, match="frame: found 0"):
                await vocoder.stream(mel_of(1, 0), frame=0)
            await vocoder.vocode(mel_of(2, 0))  # measures the duration of a chunk
            with pytest.raises(DeadlineError):
                await vocoder.vocode(mel_of(800, 0), deadline=0.01)
            tasks = [asyncio.create_task(vocoder.vocode(mel_of(40, i))) for i in range(6)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await vocoder.vocode(mel_of(1, 0), wait=False)
            await asyncio.gather(*tasks)

    run(main())


async def listen(stream: AsyncAudioStream) -> list[NDArray[np.float32]]:
    return [frame async for frame in stream]


def test_an_asynchronous_iterator_that_is_cancelled_ends_the_stream(plain: Vocoder, mel_of: MakeMel) -> None:
    mel = mel_of(40, 0)

    async def pieces() -> AsyncIterator[NDArray[np.float32]]:
        yield mel
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    async def main() -> None:
        async with await load() as vocoder:
            stream = await vocoder.stream(pieces())
            assert len(await anext(stream)) == stream.stream.frame
            with pytest.raises(CancelledError, match="the iterator over the mel was cancelled"):
                await listen(stream)

    run(main())


async def fill(vocoder: AsyncVocoder, mel: NDArray[np.float32]) -> list[AsyncAudioStream]:
    """Streams that are not read: one in the only slot, and one that fills the queue."""
    streams = [await vocoder.stream(mel, seconds=0.1)]
    while not vocoder.statistics().under_way:
        await asyncio.sleep(0.001)
    return [*streams, await vocoder.stream(mel, seconds=0.1)]


def test_waiting_for_room_ends_at_the_deadline(mel_of: MakeMel) -> None:
    async def main() -> None:
        async with await load(queue=1, lanes=1, batch=1, interactive_slots=0) as vocoder:
            streams = await fill(vocoder, mel_of(200, 0))
            patient = asyncio.create_task(vocoder.vocode(mel_of(3, 1)))
            await asyncio.sleep(0)
            for _ in range(2):
                with pytest.raises(DeadlineError, match="the queue had no room"):
                    await vocoder.vocode(mel_of(3, 2), deadline=0.05)
            for stream in streams:
                stream.close()
            assert len(await patient) == 600

    run(main())


def test_requests_enter_a_full_queue_in_the_order_of_their_calls(
    mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[int] = []
    at_the_queue, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        async with await load(queue=1, lanes=1, batch=1, interactive_slots=0) as vocoder:
            submit = vocoder.vocoder.submit

            def observed(request: Request, **options: Any) -> Ticket:
                if options["wait"]:  # in the thread that waits for room
                    at_the_queue.set()
                    assert go_on.wait(PATIENCE)
                ticket = submit(request, **options)
                submitted.append(request.seed)
                return ticket

            streams = await fill(vocoder, mel_of(200, 0))
            monkeypatch.setattr(vocoder.vocoder, "submit", observed)
            second = asyncio.create_task(vocoder.vocode(mel_of(1, 2), seed=2))
            while not at_the_queue.is_set():
                await asyncio.sleep(0.001)
            for stream in streams:
                stream.close()
            while (
                vocoder.statistics().queue or vocoder.statistics().busy
            ):  # there is room now, which 2 has not used yet
                await asyncio.sleep(0.001)
            with pytest.raises(QueueFullError):
                await vocoder.vocode(mel_of(1, 4), seed=4, wait=False)
            third = asyncio.create_task(vocoder.vocode(mel_of(1, 3), seed=3))
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(second, third)
            assert submitted == [2, 3]
            await vocoder.vocode(mel_of(1, 5), seed=5, wait=False)  # with no other request waiting

    run(main())


def test_no_conditioner_runs_on_the_event_loop(
    small_directory: Callable[[str], ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran_on: set[int] = set()
    condition = OnnxRuntimeExecutor.condition

    def observed(self: OnnxRuntimeExecutor, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        ran_on.add(threading.get_ident())
        return condition(self, mel)

    monkeypatch.setattr(OnnxRuntimeExecutor, "condition", observed)

    async def main() -> None:
        async with await AsyncVocoder.load(small_directory("fatchord").path, "onnxruntime", threads=1) as vocoder:
            audio = vocoder.config.audio
            mel = np.random.default_rng(0).random((audio.n_mels, 40), np.float32)
            for pieces in (iter([mel]), asynchronous([mel])):
                stream = await vocoder.stream(pieces)
                assert sum(map(len, await listen(stream))) == 40 * audio.hop_length
            assert len(await vocoder.vocode(mel)) == 40 * audio.hop_length

    run(main())
    assert ran_on
    assert threading.get_ident() not in ran_on


def test_requests_are_batch_work_by_default_and_streams_are_interactive(
    mel_of: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    urgencies: list[str] = []
    submit = Scheduler.submit

    def observed(self: Scheduler, *arguments: Any, **options: Any) -> Ticket:
        urgencies.append(options["urgency"])
        return submit(self, *arguments, **options)

    monkeypatch.setattr(Scheduler, "submit", observed)

    async def main() -> None:
        mel = mel_of(1, 0)
        async with await load() as vocoder:
            await vocoder.vocode(mel)
            await vocoder.vocode(mel, urgency="interactive")
            await listen(await vocoder.stream(mel))
            vocoder.vocoder.vocode(mel)
            vocoder.vocoder.submit(Request(mel)).result()
            list(vocoder.vocoder.stream(mel))

    run(main())
    assert urgencies == ["batch", "interactive", "interactive", "batch", "batch", "interactive"]


async def asynchronous(pieces: list[NDArray[np.float32]]) -> AsyncIterator[NDArray[np.float32]]:
    for piece in pieces:
        yield piece


def feeds() -> int:
    return sum("mel-feed" in thread.name for thread in threading.enumerate())


def test_a_stream_that_is_cancelled_while_it_waits_for_room_leaves_no_thread(mel_of: MakeMel) -> None:
    async def pieces() -> AsyncIterator[NDArray[np.float32]]:
        yield mel_of(40, 1)

    async def main() -> None:
        before = feeds()
        async with await load(queue=1, lanes=1, batch=1, interactive_slots=0) as vocoder:
            streams = await fill(vocoder, mel_of(200, 0))
            waiting = asyncio.create_task(vocoder.stream(pieces()))
            while not any("submissions" in thread.name for thread in threading.enumerate()):
                await asyncio.sleep(0.001)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for stream in streams:
                stream.close()
            while any("submissions" in thread.name for thread in threading.enumerate()):
                await asyncio.sleep(0.001)
            while feeds() > before:
                await asyncio.sleep(0.001)

    run(main())


_LEAVES = """
import asyncio, threading
import numpy as np
from wavernn_trt import AsyncVocoder
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits

kept = []

async def leave():
    limits = SchedulerLimits(queue=1, lanes=1, interactive_slots=0)
    vocoder = await AsyncVocoder.load(None, "onnxruntime", batch=1, threads=1, limits=limits)
    mel = np.random.default_rng(0).uniform(-1, 0, (80, 200)).astype(np.float32)
    kept.extend([vocoder, await vocoder.stream(mel, seconds=0.1)])
    while not vocoder.statistics().under_way:
        await asyncio.sleep(0.001)
    kept.append(await vocoder.stream(mel, seconds=0.1))
    waiting = asyncio.create_task(vocoder.vocode(mel))
    while not any("submissions" in thread.name for thread in threading.enumerate()):
        await asyncio.sleep(0.001)

asyncio.run(leave())
"""


def test_a_program_ends_while_a_request_waits_for_room() -> None:
    subprocess.run([sys.executable, "-c", _LEAVES], check=True, timeout=PATIENCE)
