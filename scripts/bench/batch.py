"""The scenario ``batch``: a job of many utterances of mixed lengths, some of them decoded again alone and compared."""

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
"""Utterances that are compared to their end when the beginnings of all are."""
_BEGINNING_SECONDS = 0.1
"""Of an utterance's beginning: five chunks of 20 ms."""
_MESSAGES = 5
"""Errors in a report; the others are counted."""
_PARTS, _ENDS = 8, 2
"""Parts of a job whose speeds are reported, and how many utterances must end in each."""


def measure_batch(vocoder: Vocoder, options: ScenarioOptions, report: Report) -> dict[str, Any]:
    """Runs the job, then utterances alone.

    Args:
        vocoder: of the model.
        options: size of the job.
        report: shows what is measured next.

    Returns:
        A row of the report. ``sound`` is whether all waveforms came, and were right.

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
        "padded": None,  # schema 2 has the name; fixed batches are not measured any longer
        "alone": {"compared": len(whole), "beginnings": len(beginnings), "different": different},
        "memory": _memory(before, after, job.resident),
        "sound": not job.failures and len(job.latencies) == job.utterances and not different,
    }


@dataclass
class Job:
    """Measurements of a batch job."""

    utterances: int
    """Submitted."""
    slots: int
    """For batch work, over all lanes."""
    samples: int = 0
    """Of the waveforms that came."""
    elapsed: float = 0.0
    """Seconds until the last waveform."""
    waiting_elapsed: float = 0.0
    """Seconds until no utterance waited for a slot any longer: from then on slots stay empty."""
    waiting_executor: float = 0.0
    """Seconds of these that lanes spent in the executor, summed over lanes."""
    occupancy: float = 0.0
    """Share of the slots in chunks that began while utterances waited for one."""
    first_samples: float | None = None
    """Seconds until the first samples."""
    computed: Meter = field(default_factory=Meter)
    """Counts of the executor."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each utterance from submission to its waveform."""
    first_latencies: list[float] = field(default_factory=list)
    """Seconds of each utterance from submission to its first samples."""
    resident: list[int] = field(default_factory=list)
    """Bytes of resident memory at the end of each utterance."""
    marks: list[tuple[float, int]] = field(default_factory=list)
    """At each utterance's end while others waited: seconds since the start, and the streams of all chunks so far."""
    failures: list[str] = field(default_factory=list)
    """Error of each utterance that did not come."""

    @property
    def samples_per_second(self) -> float:
        """Over the whole job, its end included."""
        return self.samples / self.elapsed if self.elapsed else 0.0

    def host_share(self, lanes: int) -> float:
        """Share of a lane's time outside the executor, while utterances waited."""
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
        """Entries of the report."""
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
    """Decodes utterances with all slots of a vocoder.

    Args:
        vocoder: new, so that its statistics are this job's.
        executor: the vocoder's.
        mixture: the utterances.
        take: receives each utterance's number and waveform, as they end.
        report: receives the number of utterances that have ended.
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
            if len(mixture) - ended <= job.slots:  # all that are left have a slot
                job.waiting_elapsed, job.waiting_executor = elapsed, computed.seconds
        report(ended)
    job.elapsed = time.monotonic() - started
    job.computed = executor.read() - before
    job.occupancy = vocoder.statistics().occupancy
    job.first_samples = min(first) - started if first else None
    return job


@dataclass
class Digests:
    """Hashes of waveforms and of their beginnings, by the utterance's number."""

    prefix: int
    """Samples of a beginning."""
    whole: dict[int, bytes] = field(default_factory=dict)
    beginning: dict[int, bytes] = field(default_factory=dict)

    def take(self, number: int, waveform: FloatArray) -> None:
        """Keeps a waveform's hashes."""
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
    """Decodes utterances again, one at a time.

    Args:
        vocoder: on the same executor, and idle.
        mixture: the utterances.
        digests: of their waveforms in the job.
        whole: numbers of the utterances to decode to their end.
        beginnings: numbers of the utterances to decode the first samples of.
        report: receives the number of utterances compared.

    Returns:
        The numbers of those that differ bitwise, or did not come.
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
    """Numbers of some utterances, at random and always the same."""
    chosen = np.random.default_rng(1).choice(utterances, min(count, utterances), replace=False)
    return sorted(chosen.tolist())


def _digest(waveform: FloatArray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(waveform).tobytes(), digest_size=16).digest()


def _memory(before: int, after: int, resident: Sequence[int]) -> dict[str, Any]:
    """Resident memory in bytes; ``growth`` is from when a quarter of the utterances was done to the end."""
    quarter, several = len(resident) // 4, max(1, len(resident) // 20)
    level = float(np.median(resident[quarter : quarter + several]))
    end = float(np.median(resident[-several:]))
    peak = max(resident)
    return {"before": before, "quarter": level, "end": end, "after": after, "peak": peak, "growth": end - level}


def _counting(report: Report, name: str, total: int) -> Callable[[int], None]:
    """Shows progress some ten times."""
    shown = -1

    def count(done: int) -> None:
        nonlocal shown
        if (tenth := 10 * done // max(1, total)) > shown:
            shown = tenth
            report(f"{name}: {done} of {total} utterances")

    return count
