"""The scenario ``batch``: many utterances of mixed lengths through the scheduler, and through padded batches."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.continuous import ContinuousRun, speak_continuously
from wavernn_trt.scripts.bench.machine import resident_bytes
from wavernn_trt.scripts.bench.meter import Meter, MeteredExecutor
from wavernn_trt.scripts.bench.padded import PaddedDecoder, PaddedRun
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.speech import Mixture, find_speech, mix, noise_mel
from wavernn_trt.scripts.bench.verify import PREFIX_SECONDS, Digests, Verification, choose, verify

_WARM_UP_SECONDS = 0.1
_FEWEST_GROUPS = 2
_ALWAYS_WHOLE = 16
"""Utterances that are compared to their end where the beginnings of all are."""


@dataclass(frozen=True)
class BatchOptions:
    """What to put on the vocoder."""

    utterances: int = 128
    shortest: float = 0.2
    """Seconds."""
    longest: float = 20.0
    """Seconds."""
    batch: int | None = 32
    """Slots; ``None`` is what the executor has."""
    lanes: int | None = None
    """``None`` is what suits the executor."""
    mels: tuple[Path, ...] = ()
    """What to cut utterances from; see `find_speech`."""
    padded_groups: int | None = None
    """Fixed batches to decode; 0 leaves the comparison out; ``None`` is as many as take about as long as the job."""
    verify: int | Literal["all"] = 16
    """Utterances to speak again alone; ``all`` is the beginnings of all, and some to their end."""


def measure_batch(opened: LoadedModel, options: BatchOptions, report: Report) -> dict[str, Any]:
    """Runs the job, the same work in padded batches, and utterances alone.

    Half of the padded batches come before the job and half behind it, so that a machine that slows down or speeds up
    meanwhile does so for both.

    Args:
        opened: the model.
        options: how much.
        report: is told what comes next.

    Returns:
        What is to be reported. ``sound`` is whether all waveforms came, and were right.

    Raises:
        VocoderError: the mels are not usable.
    """
    executor = MeteredExecutor(opened.executor)
    limits = SchedulerLimits(lanes=options.lanes)

    def vocoder() -> Vocoder:
        return Vocoder(dataclasses.replace(opened, executor=executor), options.batch, limits)

    report("warm-up")
    with vocoder() as warm:
        speech = find_speech(warm, options.mels)
        warm.vocode(noise_mel(warm, _WARM_UP_SECONDS))
        mixture = mix(warm, speech, options.utterances, options.shortest, options.longest)
        lanes = options.lanes or min(executor.lanes, warm.batch)
        slots, steps, audio = warm.statistics().slots, warm.chunk, warm.config.audio
    padded = PaddedDecoder(opened, executor, lanes=lanes, slots=slots, steps=steps)
    groups = _choose_groups(padded, mixture, audio.hop_length / steps, options.padded_groups)
    theirs, ours = (Digests(round(PREFIX_SECONDS * audio.sample_rate)) for _ in range(2))

    def continuously(name: str, numbers: Sequence[int], digests: Digests) -> ContinuousRun:
        told = _counting(report, name, len(numbers), "utterances")
        with vocoder() as fresh:
            return speak_continuously(fresh, executor, mixture, numbers, digests.take, told)

    def padding(numbers: Sequence[int]) -> PaddedRun:
        told = _counting(report, "padded to the longest", len(numbers), "fixed batches")
        return padded.run(mixture, numbers, theirs.take, told)

    runs = [padding(groups[::2])] if groups else []
    gc.collect()
    before = resident_bytes()
    job = continuously("scheduler", range(len(mixture)), ours)
    after = resident_bytes()
    same = [number for group in groups for number in padded.members(mixture, group)]
    again = None
    if 0 < len(same) < len(mixture):
        again = continuously("scheduler, what is padded alone", same, Digests(ours.prefix))
    if groups[1::2]:
        runs.append(padding(groups[1::2]))
    whole = choose(len(mixture), _ALWAYS_WHOLE if options.verify == "all" else options.verify)
    beginnings = range(len(mixture)) if options.verify == "all" else ()
    with vocoder() as alone:
        told = _counting(report, "alone", len(whole) + len(beginnings), "utterances")
        verified = verify(alone, mixture, ours, whole=whole, beginnings=beginnings, report=told)
    seconds = sum(mixture.frames) * audio.hop_length / audio.sample_rate
    return {
        "slots": slots,
        "lanes": lanes,
        "chunk": steps,
        "sample_rate": audio.sample_rate,
        "speech": speech.source,
        "speech_seconds": seconds,
        "lengths": [options.shortest, options.longest],
        "scheduler": job.describe(lanes, steps),
        "padded": _compare(padded, runs, again or job, theirs, ours, opened) if runs else None,
        "alone": verified.describe(),
        "memory": _memory(before, after, job.resident),
        "sound": _sound(job, verified),
    }


def _sound(job: ContinuousRun, verified: Verification) -> bool:
    return not job.failures and len(job.latencies) == job.utterances and verified.equal


def _choose_groups(padded: PaddedDecoder, mixture: Mixture, chunks_a_frame: float, wanted: int | None) -> list[int]:
    """Numbers of fixed batches, evenly spread; only full ones, unless it is all."""
    total = padded.groups(len(mixture))
    if wanted is None:
        useful = sum(mixture.frames) * chunks_a_frame
        padding = sum(padded.rows(mixture, group) for group in range(total)) / total
        wanted = max(_FEWEST_GROUPS, round(useful / padding))
    if wanted >= total:
        return list(range(total))
    full = len(mixture) // padded.slots
    return [int((i + 0.5) * full / wanted) for i in range(min(wanted, full))]


def _compare(
    padded: PaddedDecoder,
    runs: Sequence[PaddedRun],
    scheduled: ContinuousRun,
    theirs: Digests,
    ours: Digests,
    opened: LoadedModel,
) -> dict[str, Any]:
    """Padded batches beside the scheduler, over the same utterances."""
    samples, elapsed = sum(run.samples for run in runs), sum(run.elapsed for run in runs)
    computed = Meter(
        sum(run.computed.chunks for run in runs),
        sum(run.computed.rows for run in runs),
        sum(run.computed.seconds for run in runs),
    )
    # Interpolation over the whole utterance depends on its length, which padding changes.
    comparable = all(group.expansion != "linear" for group in opened.model.groups)
    return {
        "batch": padded.slots,
        "groups": sum(run.groups for run in runs),
        "utterances": sum(run.utterances for run in runs),
        "samples": samples,
        "elapsed": elapsed,
        "samples_per_second": samples / elapsed,
        "rows": sum(run.rows for run in runs),
        "computed": dataclasses.asdict(computed),
        "scheduler_rows": scheduled.computed.rows,
        "scheduler_samples_per_second": scheduled.samples_per_second,
        "ratio": scheduled.samples_per_second * elapsed / samples,
        "equal": sum(ours.whole.get(number) == one for number, one in theirs.whole.items()) if comparable else None,
    }


def _memory(before: int | None, after: int | None, resident: Sequence[int]) -> dict[str, Any] | None:
    """Resident memory in bytes; ``growth`` is from when a quarter of the utterances was done to the end."""
    if before is None or after is None or not resident:
        return None
    quarter = len(resident) // 4
    level = float(np.median(resident[quarter : quarter + max(1, len(resident) // 20)]))
    end = float(np.median(resident[-max(1, len(resident) // 20) :]))
    return {
        "before": before,
        "quarter": level,
        "end": end,
        "after": after,
        "peak": max(resident),
        "growth": end - level,
    }


def _counting(report: Report, name: str, total: int, unit: str) -> Callable[[int], None]:
    """Tells how far something is, some ten times."""
    told = -1

    def count(done: int) -> None:
        nonlocal told
        if (tenth := 10 * done // max(1, total)) > told:
            told = tenth
            report(f"{name}: {done} of {total} {unit}")

    return count
