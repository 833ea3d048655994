"""The scenario ``stream``: how soon a listener hears something, and how many can be served in real time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.listeners import listen_together, open_stream
from wavernn_trt.scripts.bench.machine import usable_cores
from wavernn_trt.scripts.bench.percentiles import percentiles
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.speech import Mixture, find_speech, mix

_UTTERANCES = 64
"""That listeners choose from, over and over."""
SPREAD_SECONDS = 1.0
"""Over which listeners come, at most a quarter of the time: nobody's do in the same millisecond."""


@dataclass(frozen=True)
class StreamOptions:
    """Who listens."""

    listeners: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of listeners at a time."""
    seconds: float = 10.0
    """For each number."""
    openings: int = 50
    """Streams that are opened one after the other, with nobody else there, for the time to the first frame."""
    buffer: float = 0.0
    """Seconds that a listener waits behind its first frame before it begins to play."""
    shortest: float = 1.0
    """Seconds of an utterance."""
    longest: float = 4.0
    """Seconds of an utterance."""
    batch: int | None = 32
    """Slots; ``None`` is what the executor has."""
    lanes: int | None = None
    """``None`` is what suits the executor."""
    mels: tuple[Path, ...] = ()
    """What to cut utterances from; see `find_speech`."""


def measure_streams(opened: LoadedModel, options: StreamOptions, report: Report) -> dict[str, Any]:
    """Opens streams alone, then listens with more and more listeners.

    Args:
        opened: the model.
        options: who listens.
        report: is told what comes next.

    Returns:
        What is to be reported.

    Raises:
        VocoderError: the mels are not usable.
    """
    with Vocoder(opened, options.batch, SchedulerLimits(lanes=options.lanes)) as vocoder:
        speech = find_speech(vocoder, options.mels)
        mixture = mix(vocoder, speech, _UTTERANCES, options.shortest, options.longest)
        report("warm-up")
        warm_up(vocoder, mixture)
        report(f"time to the first frame, alone: {options.openings} streams")
        alone = first_frames(vocoder, mixture, options.openings)
        levels = []
        for listeners in options.listeners:
            report(f"listeners: {listeners}, for {options.seconds:g} s")
            levels.append(_level(vocoder, mixture, listeners, options))
        slots = vocoder.statistics().slots
    return {
        "slots": slots,
        "lanes": options.lanes or min(opened.executor.lanes, vocoder.batch),
        "chunk": vocoder.chunk,
        "sample_rate": vocoder.sample_rate,
        "speech": speech.source,
        "lengths": [options.shortest, options.longest],
        "seconds": options.seconds,
        "buffer": options.buffer,
        "first_frame_alone": percentiles(alone),
        "levels": levels,
        "most_without_underrun": most_without_underrun(levels),
        "sound": not any(level["failures"] for level in levels),
    }


def warm_up(vocoder: Vocoder, mixture: Mixture) -> None:
    """Hears an utterance to its end, as fast as it comes."""
    request = mixture[0]
    for _ in vocoder.stream(request.mel, seed=request.seed):
        pass


def first_frames(vocoder: Vocoder, mixture: Mixture, openings: int) -> list[float]:
    """Seconds from a mel in hand to its first frame in hand, with nobody else there."""
    seconds = []
    for number in range(openings):
        request = mixture[number % len(mixture)]
        started = time.monotonic()
        with open_stream(vocoder, request) as (stream, _):
            stream.read()
            seconds.append(time.monotonic() - started)
    return seconds


def most_without_underrun(levels: list[dict[str, Any]]) -> int:
    """The most listeners that were all served in time, as were all smaller numbers; 0 if there is none."""
    most = 0
    for level in sorted(levels, key=lambda level: int(level["listeners"])):
        if level["underruns"] or level["failures"]:
            break
        most = level["listeners"]
    return most


def _level(vocoder: Vocoder, mixture: Mixture, listeners: int, options: StreamOptions) -> dict[str, Any]:
    spread = min(SPREAD_SECONDS, options.seconds / 4)
    started, used = time.perf_counter(), time.process_time()
    heard = listen_together(vocoder, mixture, listeners, options.seconds, buffer=options.buffer, spread=spread)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - used
    return {
        "listeners": listeners,
        "elapsed": elapsed,
        "cpu_seconds": cpu,
        "cpu_share": cpu / elapsed / usable_cores(),
        **heard.describe(vocoder.sample_rate),
    }
