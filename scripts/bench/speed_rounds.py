"""Measuring: everything that is compared takes its turn in every round, so that drift of the machine hits all alike."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wavernn_trt.runtime.conditioning import FloatArray
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import UnavailableError, load_backend
from wavernn_trt.scripts.bench.limit import MatrixProducts
from wavernn_trt.scripts.bench.meter import MeteredExecutor
from wavernn_trt.scripts.bench.speech import noise_mel

if TYPE_CHECKING:
    from torch import Tensor

    from wavernn_trt.export.families.wavernn import WaveRNN

PLAIN_LOOP = "pytorch loop"
"""What the plain PyTorch stepping loop is called."""
NO_TORCH = "not measured: torch is not installed"
REFERENCE_SECONDS = 0.1
"""Of speech that PyTorch is timed over; its time a step does not depend on it, and it is slow."""
_WARM_UP_SECONDS = 0.04
_LOADS = 3

Report = Callable[[str], None]
"""Is told what is measured next."""


@dataclass(frozen=True)
class Repeat:
    """What one repeat took; see `Timing`."""

    elapsed: float
    first_chunk: float | None = None
    chunk: float | None = None


@dataclass
class Timing:
    """The repeats of one subject at one batch."""

    subject: str
    """A backend, or `PLAIN_LOOP`."""
    batch: int
    """Streams decoded together."""
    samples: int
    """Samples that a repeat makes, of all streams together."""
    chunk_samples: int | None = None
    """Of each stream, that are decoded at a time; ``None`` for the plain loop."""
    elapsed: list[float] = field(default_factory=list)
    """Seconds of each repeat, from mels in hand to waveforms."""
    first_chunk: list[float] = field(default_factory=list)
    """Seconds of each repeat from mels in hand until every stream has its first 20 ms; none for the plain loop."""

    chunk: list[float] = field(default_factory=list)
    """Median seconds of each repeat's chunks, those that had the most streams; none for the plain loop."""

    def add(self, repeat: Repeat) -> None:
        """Takes a repeat in."""
        self.elapsed.append(repeat.elapsed)
        if repeat.first_chunk is not None:
            self.first_chunk.append(repeat.first_chunk)
        if repeat.chunk is not None:
            self.chunk.append(repeat.chunk)


@dataclass
class Measurement:
    """All repeats, unreduced."""

    timings: list[Timing]
    loads: dict[str, list[float]]
    """Seconds that opening the model took with each backend; the first of them meets a cold file cache."""
    limit: dict[str, list[list[float]]]
    """FLOP/s of plain matrix products: for each library, for each round, one at each batch."""
    missing: dict[str, str]
    """Subjects that could not be measured, and why."""


def measure(
    path: Path,
    backends: Sequence[str],
    batches: Sequence[int],
    *,
    seconds: float,
    repeats: int,
    threads: int,
    report: Report,
) -> Measurement:
    """Measures a model.

    Args:
        path: its model directory.
        backends: ``onnxruntime``, ``torch``, ``tensorrt``, ``tensorrt-rtx``.
        batches: numbers of streams. An engine is measured with those that it takes; if it takes none, with its own.
        seconds: of speech that each stream makes in a repeat.
        repeats: rounds; a warm-up comes before and is not counted.
        threads: CPU threads of everything.
        report: is told what comes next.
    """
    missing = {} if has_torch() else {PLAIN_LOOP: NO_TORCH}
    opened, loads = _open(path, backends, threads, missing, report)
    turns: list[tuple[Timing, Callable[[], Repeat]]] = []
    for batch in batches:
        for backend, vocoder in opened.items():
            if (held := _with_batch(vocoder, backend, batch, missing)) is not None:
                turns.append(_vocoder_turn(held, backend, batch, seconds, report))
        if PLAIN_LOOP not in missing:
            report(f"{PLAIN_LOOP}, batch {batch}: warm-up")
            turns.append(_loop_turn(path, batch, min(seconds, REFERENCE_SECONDS), threads))
    measured = {timing.subject for timing, _ in turns}
    turns += [
        _vocoder_turn(_metered(vocoder, vocoder.batch), backend, vocoder.batch, seconds, report)
        for backend, vocoder in opened.items()
        if backend not in measured
    ]
    sizes = list(dict.fromkeys(timing.batch for timing, _ in turns)) or list(batches)
    products = MatrixProducts(threads)
    limit: dict[str, list[list[float]]] = {name: [] for name in products.names}
    for round_ in range(repeats):
        for name in products.names:
            limit[name].append([])
        for batch in sizes:
            for name in products.names:
                limit[name][-1].append(products.flops(name))
            here = [turn for turn in turns if turn[0].batch == batch]
            first = round_ % max(1, len(here))
            for timing, run in here[first:] + here[:first]:
                report(f"round {round_ + 1} of {repeats}: {timing.subject}, batch {batch}")
                timing.add(run())
    return Measurement([timing for timing, _ in turns], loads, limit, missing)


def has_torch() -> bool:
    """Whether the torch backend and the plain loop can run."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))


def _open(
    path: Path, backends: Sequence[str], threads: int, missing: dict[str, str], report: Report
) -> tuple[dict[str, Vocoder], dict[str, list[float]]]:
    """What can be opened, and the seconds that it took; adds to ``missing`` what cannot."""
    loads: dict[str, list[float]] = {}
    opened: dict[str, Vocoder] = {}
    for _ in range(_LOADS):
        for backend in backends:
            if backend == "torch" and not has_torch():
                missing[backend] = NO_TORCH
            if backend in missing:
                continue
            report(f"opening with {backend}")
            opened.pop(backend, None)
            gc.collect()
            started = time.perf_counter()
            try:
                opened[backend] = load_backend(path, backend, threads)
            except UnavailableError as error:
                missing[backend] = str(error)
            else:
                loads.setdefault(backend, []).append(time.perf_counter() - started)
    return opened, loads


def _with_batch(vocoder: Vocoder, backend: str, batch: int, missing: dict[str, str]) -> Vocoder | None:
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
        return _metered(load_backend(vocoder.config.path, backend, None, batch), batch)
    except UnavailableError as error:
        missing[f"{backend}, batch {batch}"] = str(error)
        return None


def _metered(vocoder: Vocoder, batch: int, executor: Executor | None = None) -> Vocoder:
    metered = MeteredExecutor(executor or vocoder.executor)
    return Vocoder(dataclasses.replace(vocoder.opened, executor=metered), batch)


def _vocoder_turn(
    vocoder: Vocoder, backend: str, batch: int, seconds: float, report: Report
) -> tuple[Timing, Callable[[], Repeat]]:
    mel = noise_mel(vocoder, min(seconds, REFERENCE_SECONDS) if backend == "torch" else seconds)
    report(f"{backend}, batch {batch}: warm-up")
    _speak(vocoder, noise_mel(vocoder, _WARM_UP_SECONDS), batch)
    samples = batch * mel.shape[1] * vocoder.config.audio.hop_length
    return Timing(backend, batch, samples, vocoder.chunk), lambda: _speak(vocoder, mel, batch)


def _speak(vocoder: Vocoder, mel: FloatArray, batch: int) -> Repeat:
    """All streams together, to their ends."""
    executor = vocoder.executor
    assert isinstance(executor, MeteredExecutor)
    executor.recent.clear()
    started = time.monotonic()
    tickets = [vocoder.submit(Request(mel, seed)) for seed in range(batch)]
    for ticket in tickets:
        ticket.result()
    elapsed = time.monotonic() - started
    first = max(ticket.first_samples or math.inf for ticket in tickets) - started
    return Repeat(elapsed, first, executor.chunk_seconds())


def _loop_turn(path: Path, batch: int, seconds: float, threads: int) -> tuple[Timing, Callable[[], Repeat]]:
    import torch

    from wavernn_trt.export import read_checkpoint
    from wavernn_trt.scripts.bench.plain_loop import plain_loop

    checkpoint = read_checkpoint(path)
    torch.set_num_threads(threads)
    steps = max(1, round(seconds * checkpoint.audio.sample_rate))
    rows = _conditioning(checkpoint.model, checkpoint.audio.n_mels, checkpoint.audio.hop_length, steps)
    plain_loop(checkpoint.model, rows[: max(1, steps // 10)], batch)

    def run() -> Repeat:
        started = time.perf_counter()
        plain_loop(checkpoint.model, rows, batch)
        return Repeat(time.perf_counter() - started)

    return Timing(PLAIN_LOOP, batch, batch * steps), run


def _conditioning(model: WaveRNN, n_mels: int, hop_length: int, steps: int) -> Tensor:
    """Rows of conditioning at the sample rate; what they hold does not matter to the loop's speed."""
    import torch

    with torch.no_grad():
        rows: Tensor = model.conditioner(torch.zeros(1, n_mels, -(-steps // hop_length)))[0]
        return rows[model.config.margin :].repeat_interleave(hop_length, dim=0)[:steps]
