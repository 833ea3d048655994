"""Backends in the scenario ``speed``: opened, given each batch, and made to speak."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wavernn_trt.export.operators import Precision
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.availability import UnavailableError
from wavernn_trt.scripts.bench.backends import load_backend, place_of, precision_of
from wavernn_trt.scripts.bench.meter import MeteredExecutor
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.speech import noise_mel
from wavernn_trt.scripts.bench.timings import Repeat, Timing

Turn = tuple[Timing, Callable[[], Repeat]]
"""Whose turn it is, and what is done then."""

REFERENCE_SECONDS = 0.1
"""Of speech that PyTorch is timed over; its time a step does not depend on it, and it is slow."""
_WARM_UP_SECONDS = 0.04
_LOADS = 3


class OpenedBackends:
    """A model opened with each backend that is there."""

    def __init__(
        self,
        path: Path,
        backends: Sequence[str],
        threads: int,
        precision: Precision | None,
        missing: dict[str, str],
        report: Report,
    ) -> None:
        """Opens it several times, for the time that it takes.

        Args:
            path: the model directory.
            backends: as the command line calls them.
            threads: CPU threads.
            precision: of backends that have several.
            missing: is told what cannot be opened, and why.
            report: is told what comes next.
        """
        self.loads: dict[str, list[float]] = {}
        """Seconds that opening the model took with each."""
        self._threads, self._precision = threads, precision
        self._missing, self._report = missing, report
        self._opened: dict[str, Vocoder] = {}
        for _ in range(_LOADS):
            for backend in backends:
                if backend in missing:
                    continue
                report(f"opening with {backend}")
                self._opened.pop(backend, None)
                gc.collect()
                started = time.perf_counter()
                try:
                    self._opened[backend] = load_backend(path, backend, threads, precision=precision)
                except UnavailableError as error:
                    missing[backend] = str(error)
                else:
                    self.loads.setdefault(backend, []).append(time.perf_counter() - started)

    def turns(self, batch: int, seconds: float) -> list[Turn]:
        """Those that take a batch, warmed up."""
        held = {backend: self._with_batch(vocoder, backend, batch) for backend, vocoder in self._opened.items()}
        return [self._turn(vocoder, backend, batch, seconds) for backend, vocoder in held.items() if vocoder]

    def own_turns(self, measured: set[str], seconds: float) -> list[Turn]:
        """Those that took none of the batches, with the batch that they have."""
        return [
            self._turn(_metered(vocoder, vocoder.batch), backend, vocoder.batch, seconds)
            for backend, vocoder in self._opened.items()
            if backend not in measured
        ]

    def _with_batch(self, vocoder: Vocoder, backend: str, batch: int) -> Vocoder | None:
        """The same model for so many streams, watched; ``None`` for an engine that does not take so many."""
        executor = vocoder.executor
        if executor.slots is None:
            return _metered(vocoder, batch)
        if executor.name == "torch":
            from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

            assert isinstance(executor, TorchExecutor)
            return _metered(vocoder, batch, TorchExecutor(executor.model, batch))
        if executor.slots == batch:
            return _metered(vocoder, batch)
        try:
            return _metered(load_backend(vocoder.config.path, backend, self._threads, batch, self._precision), batch)
        except UnavailableError as error:
            self._missing[f"{backend}, batch {batch}"] = str(error)
            return None

    def _turn(self, vocoder: Vocoder, backend: str, batch: int, seconds: float) -> Turn:
        mel = noise_mel(vocoder, min(seconds, REFERENCE_SECONDS) if backend == "torch" else seconds)
        self._report(f"{backend}, batch {batch}: warm-up")
        _speak(vocoder, noise_mel(vocoder, _WARM_UP_SECONDS), batch)
        samples = batch * mel.shape[1] * vocoder.config.audio.hop_length
        precision = precision_of(_metered_executor(vocoder).inner)
        timing = Timing(backend, batch, samples, vocoder.chunk, place_of(backend), precision, vocoder.engine)
        return timing, lambda: _speak(vocoder, mel, batch)


def _metered(vocoder: Vocoder, batch: int, executor: Executor | None = None) -> Vocoder:
    metered = MeteredExecutor(executor or vocoder.executor)
    return Vocoder(dataclasses.replace(vocoder.loaded, executor=metered), batch)


def _metered_executor(vocoder: Vocoder) -> MeteredExecutor:
    assert isinstance(vocoder.executor, MeteredExecutor)
    return vocoder.executor


def _speak(vocoder: Vocoder, mel: FloatArray, batch: int) -> Repeat:
    """All streams together, to their ends."""
    executor = _metered_executor(vocoder)
    executor.recent.clear()
    started = time.monotonic()
    tickets = [vocoder.submit(Request(mel, seed)) for seed in range(batch)]
    for ticket in tickets:
        ticket.result()
    elapsed = time.monotonic() - started
    first = max(ticket.first_samples or math.inf for ticket in tickets) - started
    return Repeat(elapsed, first, executor.chunk_seconds())
