"""A batch job as `Vocoder.vocode_many` does it, watched from outside."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.machine import resident_bytes
from wavernn_trt.scripts.bench.meter import Meter, MeteredExecutor
from wavernn_trt.scripts.bench.percentiles import percentiles
from wavernn_trt.scripts.bench.speech import Mixture

_MESSAGES = 5
"""Errors that are told; the others are counted."""
_PARTS, _ENDS = 8, 2
"""Parts of a job whose speeds are told, and how many utterances must end in each."""


@dataclass
class ContinuousRun:
    """What a job took."""

    utterances: int
    """That were asked for."""
    slots: int
    """That batch work may take, over all lanes."""
    samples: int = 0
    """Of the waveforms that came."""
    elapsed: float = 0.0
    """Seconds, to the last waveform."""
    waiting_elapsed: float = 0.0
    """Seconds until nobody waited for a slot any more: from then on slots stay empty, whatever anyone does."""
    waiting_executor: float = 0.0
    """Seconds of these that lanes spent in the executor, those of all lanes together."""
    occupancy: float = 0.0
    """Share of the slots in chunks that began while utterances waited for one."""
    first_samples: float | None = None
    """Seconds until there was something to hear."""
    computed: Meter = field(default_factory=Meter)
    """What the executor counted."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each utterance, from being handed over to the whole waveform."""
    first_latencies: list[float] = field(default_factory=list)
    """Seconds of each utterance, from being handed over to its first samples."""
    resident: list[int] = field(default_factory=list)
    """Bytes of resident memory as each utterance ended; empty where the system does not tell."""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """While utterances waited: seconds since the start at each one's end, and the streams of all chunks until then."""
    failures: list[str] = field(default_factory=list)
    """What went wrong with an utterance, for each that did not come."""

    @property
    def samples_per_second(self) -> float:
        """Over the whole job, its end included."""
        return self.samples / self.elapsed if self.elapsed else 0.0

    def host_share(self, lanes: int) -> float:
        """Share of a lane's time that was not spent in the executor, while utterances waited."""
        return 1 - self.waiting_executor / (lanes * self.waiting_elapsed) if self.waiting_elapsed else 0.0

    def parts(self, chunk: int) -> list[float]:
        """Samples a second in each of eight parts of the job, or fewer of a short one, while utterances waited.

        Args:
            chunk: samples of each stream of a chunk; those behind an utterance's end count as well.
        """
        count = min(_PARTS, (len(self.marks) - 1) // _ENDS)
        places = [i * (len(self.marks) - 1) // count for i in range(count + 1)] if count > 0 else []
        pairs = ((self.marks[first], self.marks[last]) for first, last in itertools.pairwise(places))
        return [chunk * (rows - earlier) / (now - then) for (then, earlier), (now, rows) in pairs if now > then]

    def describe(self, lanes: int, chunk: int) -> dict[str, Any]:
        """For the report."""
        return {
            "utterances": self.utterances,
            "done": len(self.latencies),
            "failed": len(self.failures),
            "failures": self.failures[:_MESSAGES],
            "samples": self.samples,
            "elapsed": self.elapsed,
            "samples_per_second": self.samples_per_second,
            "repeats": self.parts(chunk),
            "occupancy": self.occupancy,
            "waiting_elapsed": self.waiting_elapsed,
            "waiting_executor": self.waiting_executor,
            "host_share": self.host_share(lanes),
            "first_samples": self.first_samples,
            "first_latency": percentiles(self.first_latencies),
            "latency": percentiles(self.latencies),
            "computed": dataclasses.asdict(self.computed),
        }


def speak_continuously(
    vocoder: Vocoder,
    executor: MeteredExecutor,
    mixture: Mixture,
    numbers: Sequence[int],
    take: Callable[[int, FloatArray], None],
    report: Callable[[int], None],
) -> ContinuousRun:
    """Speaks utterances with all slots of a vocoder.

    Args:
        vocoder: new, so that its statistics are this job's.
        executor: the vocoder's.
        mixture: the utterances.
        numbers: which of them.
        take: is given each utterance's number and waveform, as they end.
        report: is told how many have ended.
    """
    run = ContinuousRun(len(numbers), vocoder.statistics().slots)
    before = executor.read()
    started = time.monotonic()
    waiting_until: tuple[float, Meter] | None = None
    first: list[float] = []
    requests = (mixture[number] for number in numbers)
    for ended, (place, ticket) in enumerate(vocoder.vocode_many(requests, order="completed"), 1):
        try:
            waveform = ticket.result()
        except (VocoderError, ExecutorError) as error:
            run.failures.append(f"utterance {numbers[place]}: {error}")
        else:
            run.samples += len(waveform)
            take(numbers[place], waveform)
            assert ticket.latency is not None
            assert ticket.first_samples is not None
            run.latencies.append(ticket.latency)
            run.first_latencies.append(ticket.first_samples - ticket.submitted)
            first.append(ticket.first_samples)
        if (resident := resident_bytes()) is not None:
            run.resident.append(resident)
        if waiting_until is None:
            run.marks.append((time.monotonic() - started, (executor.read() - before).rows))
        if waiting_until is None and len(numbers) - ended <= run.slots:  # everybody who is left has a slot
            waiting_until = time.monotonic(), executor.read()
        report(ended)
    run.elapsed = time.monotonic() - started
    run.computed = executor.read() - before
    if waiting_until is not None:
        run.waiting_elapsed = waiting_until[0] - started
        run.waiting_executor = (waiting_until[1] - before).seconds
    run.occupancy = vocoder.statistics().occupancy
    run.first_samples = min(first) - started if first else None
    return run
