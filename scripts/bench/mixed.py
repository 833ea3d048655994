"""The scenario ``mixed``: listeners in real time beside a batch job that takes all the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.listeners import Heard, listen_together
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.speech import Mixture, find_speech, mix
from wavernn_trt.scripts.bench.stream import SPREAD_SECONDS, warm_up

_UTTERANCES = 256
"""That the job chooses from, over and over."""
_LISTENED = (1.0, 4.0)
"""Seconds of what listeners hear."""
_PATIENCE = 60.0
"""Seconds after which the job's first samples are not waited for any longer."""


@dataclass(frozen=True)
class MixedOptions:
    """What runs together."""

    listeners: int = 4
    """At a time."""
    seconds: float = 10.0
    """With them, and as long without them, in each repeat."""
    repeats: int = 2
    buffer: float = 0.0
    """Seconds that a listener waits behind its first frame before it begins to play."""
    shortest: float = 0.2
    """Seconds of the job's utterances."""
    longest: float = 20.0
    """Seconds of the job's utterances."""
    batch: int | None = 32
    """Slots; ``None`` is what the executor has."""
    lanes: int | None = None
    """``None`` is what suits the executor."""
    mels: tuple[Path, ...] = ()
    """What to cut utterances from; see `find_speech`."""


class BatchJob:
    """A job that never ends of itself, in a thread of its own."""

    def __init__(self, vocoder: Vocoder, mixture: Mixture) -> None:
        """Prepares.

        Args:
            vocoder: speaks.
            mixture: utterances to choose from, over and over.
        """
        self.failures: list[str] = []
        """Utterances that did not come, and why."""
        self._vocoder = vocoder
        self._mixture = mixture
        self._changed = threading.Condition()
        self._samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch job", daemon=True)

    def start(self) -> None:
        """Begins, and waits until the slots have been filled."""
        self._thread.start()
        most = self._vocoder.statistics().slots * self._vocoder.chunk
        with self._changed:
            self._changed.wait_for(lambda: self._samples >= most or bool(self.failures), _PATIENCE)

    def stop(self) -> None:
        """Ends, and closes the vocoder: what is under way is given up."""
        self._stop.set()
        self._vocoder.close()
        self._thread.join()

    def samples(self) -> int:
        """Decoded until now."""
        with self._changed:
            return self._samples

    def _run(self) -> None:
        for number, ticket in self._vocoder.vocode_many(self._requests(), order="completed", progress=self._decoded):
            if self._stop.is_set():
                return
            try:
                ticket.result()
            except (VocoderError, ExecutorError) as error:
                with self._changed:
                    self.failures.append(f"utterance {number}: {error}")
                    self._changed.notify_all()

    def _requests(self) -> Iterator[Request]:
        for number in count():
            if self._stop.is_set():
                return
            yield self._mixture[number % len(self._mixture)]

    def _decoded(self, steps: int) -> None:
        with self._changed:
            self._samples += steps
            self._changed.notify_all()


def measure_mixed(opened: LoadedModel, options: MixedOptions, report: Report) -> dict[str, Any]:
    """Lets a batch job run, in turn without listeners and with them.

    Args:
        opened: the model.
        options: what runs together.
        report: is told what comes next.

    Returns:
        What is to be reported.

    Raises:
        VocoderError: the mels are not usable.
    """
    with Vocoder(opened, options.batch, SchedulerLimits(lanes=options.lanes)) as vocoder:
        speech = find_speech(vocoder, options.mels)
        listened = mix(vocoder, speech, 64, *_LISTENED, seed=1)
        report("warm-up")
        warm_up(vocoder, listened)
        job = BatchJob(vocoder, mix(vocoder, speech, _UTTERANCES, options.shortest, options.longest))
        heard, listening = Heard(), 0.0
        without: list[float] = []
        beside: list[float] = []
        job.start()
        try:
            for repeat in range(1, options.repeats + 1):
                report(f"repeat {repeat} of {options.repeats}: the job alone, for {options.seconds:g} s")
                without.append(_speed(job, lambda: time.sleep(options.seconds))[0])
                report(f"repeat {repeat} of {options.repeats}: with {options.listeners} listeners")
                speed, elapsed = _speed(job, lambda: heard.add(_listen(vocoder, listened, options)))
                beside.append(speed)
                listening += elapsed
        finally:
            job.stop()
        slots, occupancy = vocoder.statistics().slots, vocoder.statistics().occupancy
    described = heard.describe(vocoder.sample_rate)
    return {
        "slots": slots,
        "lanes": options.lanes or min(opened.executor.lanes, vocoder.batch),
        "chunk": vocoder.chunk,
        "sample_rate": vocoder.sample_rate,
        "speech": speech.source,
        "lengths": [options.shortest, options.longest],
        "seconds": options.seconds,
        "buffer": options.buffer,
        "listeners": options.listeners,
        **described,
        "listening_seconds": listening,
        "listeners_samples_per_second": heard.samples / listening,
        "job": {
            "alone": median(without),
            "beside": median(beside),
            "ratio": median(with_ / alone for alone, with_ in zip(without, beside, strict=True)),
            "occupancy": occupancy,
            "failures": job.failures,
            "repeats": {"alone": without, "beside": beside},
        },
        "sound": not heard.failures and not job.failures,
    }


def _listen(vocoder: Vocoder, mixture: Mixture, options: MixedOptions) -> Heard:
    spread = min(SPREAD_SECONDS, options.seconds / 4)
    return listen_together(vocoder, mixture, options.listeners, options.seconds, buffer=options.buffer, spread=spread)


def _speed(job: BatchJob, meanwhile: Callable[[], object]) -> tuple[float, float]:
    """Samples a second of a job while something happens, and how many seconds that took."""
    before, started = job.samples(), time.perf_counter()
    meanwhile()
    elapsed = time.perf_counter() - started
    return (job.samples() - before) / elapsed, elapsed
