"""The scenario ``batch``: a job of many utterances; some are decoded again alone and compared."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.executors.protocol import FloatArray
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import another_vocoder
from wavernn_trt.scripts.bench.machine import resident_bytes
from wavernn_trt.scripts.bench.speech import Mixture, ScenarioOptions, find_speech, mix, noise_mel
from wavernn_trt.scripts.bench.timing import Meter, MeteredExecutor, Report, percentiles

_WARM_UP_SECONDS = 0.1
_ALWAYS_WHOLE = 16
"""Utterances compared to their end with ``--verify all``, which compares the beginnings of the others."""
_BEGINNING_SECONDS = 0.1
"""Length of a beginning: five chunks of 20 ms."""
_MESSAGES = 5
"""Most error messages in a report; further errors are only counted."""
_PARTS, _ENDS = 8, 2
"""Most parts of a job whose speeds are reported, and least utterances that end in each."""


def measure_batch(vocoder: Vocoder, options: ScenarioOptions, report: Report) -> dict[str, Any]:
    """Runs the job, then some of its utterances alone.

    Returns:
        A row of the report. ``sound``: every utterance was decoded, and those compared are equal.

    Raises:
        VocoderError: the mels are not usable.
    """
    executor = MeteredExecutor(vocoder.executor)

    def fresh() -> Vocoder:
        return another_vocoder(vocoder, options.batch, lanes=options.lanes, executor=executor)

    report("warm-up")
    with fresh() as warm:
        speech = find_speech(warm, options.mels)
        warm.vocode(noise_mel(warm, _WARM_UP_SECONDS))
        mixture = mix(warm, speech, options.utterances, options.lengths)
        lanes = options.lanes or min(executor.lanes, warm.batch)
        slots, chunk, audio = warm.statistics().slots, warm.chunk, warm.config.audio
    digests = Digests(round(_BEGINNING_SECONDS * audio.sample_rate))
    gc.collect()
    before = resident_bytes()
    with fresh() as scheduled:
        count = _counting(report, "scheduler", len(mixture))
        job = run_job(scheduled, executor, mixture, digests.take, count)
    after = resident_bytes()
    whole = choose(len(mixture), _ALWAYS_WHOLE if options.verify == "all" else options.verify)
    beginnings = range(len(mixture)) if options.verify == "all" else ()
    with fresh() as alone:
        count = _counting(report, "alone", len(whole) + len(beginnings))
        different = verify(alone, mixture, digests, whole=whole, beginnings=beginnings, report=count)
    return {
        "slots": slots,
        "lanes": lanes,
        "chunk": chunk,
        "sample_rate": audio.sample_rate,
        "speech": speech.source,
        "speech_seconds": sum(mixture.frames) * audio.hop_length / audio.sample_rate,
        "lengths": list(options.lengths),
        "scheduler": job.describe(lanes, chunk),
        "padded": None,  # a name of schema 2; padded batches are no longer measured
        "alone": {"compared": len(whole), "beginnings": len(beginnings), "different": different},
        "memory": _memory(before, after, job.resident),
        "sound": not job.failures and len(job.latencies) == job.utterances and not different,
    }


@dataclass
class Job:
    """Measurements of a batch job."""

    utterances: int
    """Number of utterances submitted."""
    slots: int
    """For batch work, over all lanes."""
    samples: int = 0
    """In all completed waveforms."""
    elapsed: float = 0.0
    """Seconds until the last waveform."""
    waiting_elapsed: float = 0.0
    """Seconds until no utterance waits for a slot; later, slots stay empty."""
    waiting_executor: float = 0.0
    """Executor time within `waiting_elapsed`, in seconds, summed over lanes."""
    occupancy: float = 0.0
    """Share of slots in use, over the chunks that began while utterances waited."""
    first_samples: float | None = None
    """Seconds until the first samples."""
    computed: Meter = field(default_factory=Meter)
    """Chunks, streams and seconds of the executor."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from submission to the waveform, for each utterance."""
    first_latencies: list[float] = field(default_factory=list)
    """Seconds from submission to the first samples, for each utterance."""
    resident: list[int] = field(default_factory=list)
    """Bytes of resident memory at the end of each utterance."""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start and streams of all chunks so far, at each utterance's end while others waited."""
    failures: list[str] = field(default_factory=list)
    """An error for each failed utterance."""

    @property
    def samples_per_second(self) -> float:
        """Average of the whole job, with its end, when slots stay empty."""
        return self.samples / self.elapsed if self.elapsed else 0.0

    def host_share(self, lanes: int) -> float:
        """Share of the lanes' time outside the executor, while utterances waited."""
        return 1 - self.waiting_executor / (lanes * self.waiting_elapsed) if self.waiting_elapsed else 0.0

    def parts(self, chunk: int) -> list[float]:
        """Samples a second in each of up to eight parts of the job, while utterances waited.

        Args:
            chunk: samples of each stream of a chunk; those after an utterance's end are counted too.
        """
        count = min(_PARTS, (len(self.marks) - 1) // _ENDS)
        places = [i * (len(self.marks) - 1) // count for i in range(count + 1)] if count > 0 else []
        pairs = ((self.marks[first], self.marks[last]) for first, last in itertools.pairwise(places))
        return [chunk * (rows - earlier) / (now - then) for (then, earlier), (now, rows) in pairs if now > then]

    def describe(self, lanes: int, chunk: int) -> dict[str, Any]:
        """The job's entries in the report."""
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


def run_job(
    vocoder: Vocoder,
    executor: MeteredExecutor,
    mixture: Mixture,
    take: Callable[[int, FloatArray], None],
    report: Callable[[int], None],
) -> Job:
    """Decodes utterances with all slots of a new vocoder, whose statistics are then those of the job.

    ``take`` receives each utterance's number and waveform when it ends, ``report`` the number of ended utterances.
    """
    job = Job(len(mixture), vocoder.statistics().slots)
    before, started = executor.read(), time.monotonic()
    first: list[float] = []
    for ended, (number, ticket) in enumerate(vocoder.vocode_many(iter(mixture), order="completed"), 1):
        try:
            waveform = ticket.result()
        except (VocoderError, ExecutorError) as error:
            job.failures.append(f"utterance {number}: {error}")
        else:
            job.samples += len(waveform)
            take(number, waveform)
            assert ticket.latency is not None
            assert ticket.first_samples is not None
            job.latencies.append(ticket.latency)
            job.first_latencies.append(ticket.first_samples - ticket.submitted)
            first.append(ticket.first_samples)
        job.resident.append(resident_bytes())
        if not job.waiting_elapsed:
            computed, elapsed = executor.read() - before, time.monotonic() - started
            job.marks.append((elapsed, computed.rows))
            if len(mixture) - ended <= job.slots:  # every remaining utterance has a slot
                job.waiting_elapsed, job.waiting_executor = elapsed, computed.seconds
        report(ended)
    job.elapsed = time.monotonic() - started
    job.computed = executor.read() - before
    job.occupancy = vocoder.statistics().occupancy
    job.first_samples = min(first) - started if first else None
    return job


@dataclass
class Digests:
    """Hashes of waveforms and of their beginnings, by utterance number."""

    prefix: int
    """Number of samples in a beginning."""
    whole: dict[int, bytes] = field(default_factory=dict)
    beginning: dict[int, bytes] = field(default_factory=dict)

    def take(self, number: int, waveform: FloatArray) -> None:
        """Adds a waveform's hashes."""
        self.whole[number] = _digest(waveform)
        self.beginning[number] = _digest(waveform[: self.prefix])


def verify(
    vocoder: Vocoder,
    mixture: Mixture,
    digests: Digests,
    *,
    whole: Sequence[int],
    beginnings: Iterable[int],
    report: Callable[[int], None],
) -> list[int]:
    """Decodes utterances again, one at a time, to their end (``whole``) or only their ``beginnings``.

    Args:
        vocoder: an idle one on the same executor.
        mixture: the utterances.
        digests: of their waveforms in the job.
        whole: utterance numbers.
        beginnings: utterance numbers.
        report: receives the number of compared utterances.

    Returns:
        Numbers of the utterances that differ bitwise or failed.
    """
    requests = [(number, mixture[number], digests.whole.get(number)) for number in whole]
    requests += [
        (number, dataclasses.replace(mixture[number], samples=digests.prefix), digests.beginning.get(number))
        for number in beginnings
    ]
    different = set()
    for done, (number, request, expected) in enumerate(requests):
        report(done)
        try:
            equal = _digest(vocoder.submit(request).result()) == expected
        except (VocoderError, ExecutorError):
            equal = False
        if not equal:
            different.add(number)
    return sorted(different)


def choose(utterances: int, count: int) -> Sequence[int]:
    """Random utterance numbers, the same in every run."""
    chosen = np.random.default_rng(1).choice(utterances, min(count, utterances), replace=False)
    return sorted(chosen.tolist())


def _digest(waveform: FloatArray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(waveform).tobytes(), digest_size=16).digest()


def _memory(before: int, after: int, resident: Sequence[int]) -> dict[str, Any]:
    """Resident memory in bytes; ``growth`` is that of the last three quarters of the job."""
    quarter, several = len(resident) // 4, max(1, len(resident) // 20)
    level = float(np.median(resident[quarter : quarter + several]))
    end = float(np.median(resident[-several:]))
    peak = max(resident)
    return {"before": before, "quarter": level, "end": end, "after": after, "peak": peak, "growth": end - level}


def _counting(report: Report, name: str, total: int) -> Callable[[int], None]:
    """A function that shows progress about ten times."""
    shown = -1

    def count(done: int) -> None:
        nonlocal shown
        if (tenth := 10 * done // max(1, total)) > shown:
            shown = tenth
            report(f"{name}: {done} of {total} utterances")

    return count
