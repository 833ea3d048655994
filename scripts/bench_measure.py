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

import numpy as np

from wavernn_trt.runtime.conditioning import FloatArray
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench_limit import MatrixProducts

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


@dataclass
class Timing:
    """The repeats of one subject at one batch."""

    subject: str
    """A backend, or `PLAIN_LOOP`."""
    batch: int
    """Streams decoded together."""
    samples: int
    """Samples that a repeat makes, of all streams together."""
    elapsed: list[float] = field(default_factory=list)
    """Seconds of each repeat, from mels in hand to waveforms."""
    first_chunk: list[float] = field(default_factory=list)
    """Seconds of each repeat from mels in hand until every stream has its first 20 ms; none for the plain loop."""


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
        backends: ``onnxruntime``, ``torch``.
        batches: numbers of streams.
        seconds: of speech that each stream makes in a repeat.
        repeats: rounds; a warm-up comes before and is not counted.
        threads: CPU threads of everything.
        report: is told what comes next.
    """
    missing = {} if has_torch() else {PLAIN_LOOP: NO_TORCH}
    present = [backend for backend in backends if backend != "torch" or has_torch()]
    missing |= {backend: NO_TORCH for backend in backends if backend not in present}
    loads: dict[str, list[float]] = {backend: [] for backend in present}
    opened: dict[str, Vocoder] = {}
    for _ in range(_LOADS):
        for backend in present:
            report(f"opening with {backend}")
            opened.pop(backend, None)
            gc.collect()
            started = time.perf_counter()
            opened[backend] = Vocoder.load(path, backend, threads=threads)
            loads[backend].append(time.perf_counter() - started)
    turns: list[tuple[Timing, Callable[[], tuple[float, float | None]]]] = []
    for batch in batches:
        for backend in present:
            vocoder = _with_batch(opened[backend], batch)
            length = min(seconds, REFERENCE_SECONDS) if backend == "torch" else seconds
            mel = random_mel(vocoder, length)
            report(f"{backend}, batch {batch}: warm-up")
            _speak(vocoder, random_mel(vocoder, _WARM_UP_SECONDS), batch)
            samples = batch * mel.shape[1] * vocoder.config.audio.hop_length
            turns.append((Timing(backend, batch, samples), _speaker(vocoder, mel, batch)))
        if PLAIN_LOOP not in missing:
            report(f"{PLAIN_LOOP}, batch {batch}: warm-up")
            turns.append(_loop_turn(path, batch, min(seconds, REFERENCE_SECONDS), threads))
    products = MatrixProducts(threads)
    limit: dict[str, list[list[float]]] = {name: [] for name in products.names}
    for round_ in range(repeats):
        for name in products.names:
            limit[name].append([])
        for batch in batches:
            for name in products.names:
                limit[name][-1].append(products.flops(name))
            here = [turn for turn in turns if turn[0].batch == batch]
            first = round_ % len(here) if here else 0
            for timing, run in here[first:] + here[:first]:
                report(f"round {round_ + 1} of {repeats}: {timing.subject}, batch {batch}")
                elapsed, first_chunk = run()
                timing.elapsed.append(elapsed)
                if first_chunk is not None:
                    timing.first_chunk.append(first_chunk)
    return Measurement([timing for timing, _ in turns], loads, limit, missing)


def has_torch() -> bool:
    """Whether the torch backend and the plain loop can run."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))


def random_mel(vocoder: Vocoder, seconds: float) -> FloatArray:
    """A mel spectrogram of at least so many seconds, noise over the model's range."""
    audio = vocoder.config.audio
    low, high = (-11.0, 2.0) if audio.log == "natural" else audio.mel_range
    frames = max(1, round(seconds * audio.sample_rate / audio.hop_length))
    return np.random.default_rng(0).uniform(low, high, (audio.n_mels, frames)).astype(np.float32)


def _with_batch(vocoder: Vocoder, batch: int) -> Vocoder:
    """The same model for so many streams; torch's number of streams is fixed when it is opened."""
    executor = vocoder.executor
    if executor.slots is not None:
        from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

        assert isinstance(executor, TorchExecutor)
        executor = TorchExecutor(executor.model, batch)
    return Vocoder(dataclasses.replace(vocoder.opened, executor=executor), batch)


def _speaker(vocoder: Vocoder, mel: FloatArray, batch: int) -> Callable[[], tuple[float, float | None]]:
    return lambda: _speak(vocoder, mel, batch)


def _speak(vocoder: Vocoder, mel: FloatArray, batch: int) -> tuple[float, float]:
    """Seconds until all streams are done, and until each has its first chunk."""
    started = time.monotonic()
    tickets = [vocoder.submit(Request(mel, seed)) for seed in range(batch)]
    for ticket in tickets:
        ticket.result()
    return time.monotonic() - started, max(ticket.first_samples or math.inf for ticket in tickets) - started


def _loop_turn(
    path: Path, batch: int, seconds: float, threads: int
) -> tuple[Timing, Callable[[], tuple[float, float | None]]]:
    import torch

    from wavernn_trt.export import read_checkpoint
    from wavernn_trt.scripts.bench_plain_loop import plain_loop

    checkpoint = read_checkpoint(path)
    torch.set_num_threads(threads)
    steps = max(1, round(seconds * checkpoint.audio.sample_rate))
    rows = _conditioning(checkpoint.model, checkpoint.audio.n_mels, checkpoint.audio.hop_length, steps)
    plain_loop(checkpoint.model, rows[: max(1, steps // 10)], batch)

    def run() -> tuple[float, float | None]:
        started = time.perf_counter()
        plain_loop(checkpoint.model, rows, batch)
        return time.perf_counter() - started, None

    return Timing(PLAIN_LOOP, batch, batch * steps), run


def _conditioning(model: WaveRNN, n_mels: int, hop_length: int, steps: int) -> Tensor:
    """Rows of conditioning at the sample rate; what they hold does not matter to the loop's speed."""
    import torch

    with torch.no_grad():
        rows: Tensor = model.conditioner(torch.zeros(1, n_mels, -(-steps // hop_length)))[0]
        return rows[model.config.margin :].repeat_interleave(hop_length, dim=0)[:steps]
