"""A vocoder's turn in the rounds of the scenario ``speed``: streams from mels to waveforms."""

from __future__ import annotations

import math
import time

from wavernn_trt.runtime.executors.native_executor import NativeExecutor
from wavernn_trt.runtime.executors.protocol import Executor, FloatArray
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import another_vocoder, place_of, precision_of
from wavernn_trt.scripts.bench.speech import noise_mel
from wavernn_trt.scripts.bench.timing import MeteredExecutor, Repeat, Timing, Turn

_WARM_UP_SECONDS = 0.04


def metered(vocoder: Vocoder, batch: int, executor: Executor | None = None) -> Vocoder:
    """Returns a second vocoder whose chunks are timed, for ``batch`` streams and, if given, with another executor."""
    return another_vocoder(vocoder, batch, executor=MeteredExecutor(executor or vocoder.executor))


def vocoder_turn(vocoder: Vocoder, subject: str, batch: int, seconds: float) -> Turn:
    """Warms a vocoder up.

    Args:
        vocoder: of `metered`.
        subject: name of the row.
        batch: streams.
        seconds: speech of each stream in a repeat.
    """
    executor = _executor(vocoder).inner
    mel = noise_mel(vocoder, seconds)
    _vocode(vocoder, noise_mel(vocoder, _WARM_UP_SECONDS), batch)
    samples = batch * mel.shape[1] * vocoder.config.audio.hop_length
    timing = Timing(subject, batch, samples, vocoder.chunk, place_of(subject), precision_of(executor), vocoder.engine)
    timing.work = executor.work if isinstance(executor, NativeExecutor) else None
    return timing, lambda: _vocode(vocoder, mel, batch)


def _executor(vocoder: Vocoder) -> MeteredExecutor:
    assert isinstance(vocoder.executor, MeteredExecutor)
    return vocoder.executor


def _vocode(vocoder: Vocoder, mel: FloatArray, batch: int) -> Repeat:
    """Decodes all streams of a batch at the same time, to their ends."""
    executor = _executor(vocoder)
    executor.recent.clear()
    started = time.monotonic()
    tickets = [vocoder.submit(Request(mel, seed)) for seed in range(batch)]
    for ticket in tickets:
        ticket.result()
    elapsed = time.monotonic() - started
    first = max(ticket.first_samples or math.inf for ticket in tickets) - started
    return Repeat(elapsed, first, executor.chunk_seconds())
