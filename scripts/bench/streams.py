"""The scenarios ``stream`` and ``mixed``: listeners in real time, alone and beside a batch job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from typing import Any

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import another_vocoder
from wavernn_trt.scripts.bench.listeners import Heard, listen_together, open_stream
from wavernn_trt.scripts.bench.speech import Mixture, ScenarioOptions, Speech, find_speech, mix
from wavernn_trt.scripts.bench.timing import Report, percentiles

_UTTERANCES, _JOB_UTTERANCES = 64, 256
"""Distinct utterances of listeners and of a job; they are repeated."""
_LISTENED = (1.0, 4.0)
"""Shortest and longest utterance of a listener beside a job, in seconds."""
_SPREAD_SECONDS = 1.0
"""Listeners begin within this time (at most a quarter of the duration): their frames are due at different times."""
_PATIENCE = 60.0
"""Longest wait for the job's first samples, in seconds."""


def measure_streams(vocoder: Vocoder, options: ScenarioOptions, report: Report) -> dict[str, Any]:
    """Opens streams one at a time, then runs each number of listeners; returns a row of the report.

    Raises:
        VocoderError: the mels are not usable.
    """
    with another_vocoder(vocoder, options.batch, lanes=options.lanes) as used:
        speech = find_speech(used, options.mels)
        mixture = mix(used, speech, _UTTERANCES, options.lengths)
        report("warm-up")
        _warm_up(used, mixture)
        report(f"time to the first frame, alone: {options.openings} streams")
        alone = [_first_frame(used, mixture[number % len(mixture)]) for number in range(options.openings)]
        levels = []
        for listeners in options.listeners:
            report(f"listeners: {listeners}, for {options.seconds:g} s")
            levels.append(_level(used, mixture, listeners, options))
        described = _describe(used, speech, options)
    return {
        **described,
        "first_frame_alone": percentiles(alone),
        "levels": levels,
        "most_without_underrun": most_without_underrun(levels),
        "sound": not any(level["failures"] for level in levels),
    }


def measure_mixed(vocoder: Vocoder, options: ScenarioOptions, report: Report) -> dict[str, Any]:
    """Runs a batch job, in turn without and with listeners; returns a row of the report.

    Raises:
        VocoderError: the mels are not usable.
    """
    (listeners,) = options.listeners
    heard, listening = Heard(), 0.0
    without: list[float] = []
    beside: list[float] = []
    with another_vocoder(vocoder, options.batch, lanes=options.lanes) as used:
        speech = find_speech(used, options.mels)
        listened = mix(used, speech, _UTTERANCES, _LISTENED, seed=1)
        report("warm-up")
        _warm_up(used, listened)
        job = EndlessJob(used, mix(used, speech, _JOB_UTTERANCES, options.lengths))
        job.start()
        try:
            for repeat in range(1, options.repeats + 1):
                report(f"repeat {repeat} of {options.repeats}: the job alone, for {options.seconds:g} s")
                without.append(_speed(job, lambda: time.sleep(options.seconds))[0])
                report(f"repeat {repeat} of {options.repeats}: with {listeners} listeners")
                speed, elapsed = _speed(job, lambda: heard.add(_listen(used, listened, listeners, options)))
                beside.append(speed)
                listening += elapsed
        finally:
            job.stop()
        described, occupancy = _describe(used, speech, options), used.statistics().occupancy
    return {
        **described,
        "listeners": listeners,
        **heard.describe(described["sample_rate"]),
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


class EndlessJob:
    """A batch job that runs in its own thread until it is stopped."""

    def __init__(self, vocoder: Vocoder, mixture: Mixture) -> None:
        """Prepares the job: ``mixture`` is repeated, and ``vocoder`` is closed at its end."""
        self.failures: list[str] = []
        """An error for each failed utterance."""
        self._vocoder, self._mixture = vocoder, mixture
        self._changed = threading.Condition()
        self._samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch job", daemon=True)

    def start(self) -> None:
        """Starts the thread and waits until the slots have been filled."""
        self._thread.start()
        most = self._vocoder.statistics().slots * self._vocoder.chunk
        with self._changed:
            self._changed.wait_for(lambda: self._samples >= most or bool(self.failures), _PATIENCE)

    def stop(self) -> None:
        """Ends the thread and closes the vocoder, which cancels unfinished utterances."""
        self._stop.set()
        self._vocoder.close()
        self._thread.join()

    def samples(self) -> int:
        """Samples decoded so far."""
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


def most_without_underrun(levels: list[dict[str, Any]]) -> int:
    """The largest number of listeners for which it and all smaller numbers had no underrun; else 0."""
    most = 0
    for level in sorted(levels, key=lambda level: int(level["listeners"])):
        if level["underruns"] or level["failures"]:
            break
        most = level["listeners"]
    return most


def _describe(vocoder: Vocoder, speech: Speech, options: ScenarioOptions) -> dict[str, Any]:
    """The first entries of rows of both scenarios."""
    return {
        "slots": vocoder.statistics().slots,
        "lanes": options.lanes or min(vocoder.executor.lanes, vocoder.batch),
        "chunk": vocoder.chunk,
        "sample_rate": vocoder.sample_rate,
        "speech": speech.source,
        "lengths": list(options.lengths),
        "seconds": options.seconds,
        "buffer": options.buffer,
    }


def _warm_up(vocoder: Vocoder, mixture: Mixture) -> None:
    request = mixture[0]
    for _ in vocoder.stream(request.mel, seed=request.seed):
        pass


def _first_frame(vocoder: Vocoder, request: Request) -> float:
    """Seconds from the mel to the first frame, without other streams."""
    started = time.monotonic()
    with open_stream(vocoder, request) as (stream, _):
        stream.read()
        return time.monotonic() - started


def _level(vocoder: Vocoder, mixture: Mixture, listeners: int, options: ScenarioOptions) -> dict[str, Any]:
    started, used = time.perf_counter(), time.process_time()
    heard = _listen(vocoder, mixture, listeners, options)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - used
    return {
        "listeners": listeners,
        "elapsed": elapsed,
        "cpu_seconds": cpu,
        "cpu_share": cpu / elapsed / usable_cores(),
        **heard.describe(vocoder.sample_rate),
    }


def _listen(vocoder: Vocoder, mixture: Mixture, listeners: int, options: ScenarioOptions) -> Heard:
    spread = min(_SPREAD_SECONDS, options.seconds / 4)
    return listen_together(vocoder, mixture, listeners, options.seconds, buffer=options.buffer, spread=spread)


def _speed(job: EndlessJob, meanwhile: Callable[[], object]) -> tuple[float, float]:
    """Returns the samples a second of a job during a call, and the seconds of the call."""
    before, started = job.samples(), time.perf_counter()
    meanwhile()
    elapsed = time.perf_counter() - started
    return (job.samples() - before) / elapsed, elapsed
