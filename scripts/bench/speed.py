"""The scenario ``speed``: fixed batches of equal lengths.

Every subject is measured in every round, so that drift of the machine affects all subjects alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.export.operators import Precision
from wavernn_trt.plugins.cpu.decoder import StepWork
from wavernn_trt.plugins.precisions import WEIGHT_BYTES
from wavernn_trt.runtime.executors.onnx_runtime import default_threads
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import (
    NATIVE,
    UnavailableError,
    describe_model,
    load_backend,
    place_of,
)
from wavernn_trt.scripts.bench.limits import COPY, GPU_COPY, LIBRARIES, Limits, gpu_product
from wavernn_trt.scripts.bench.machine import Circumstances
from wavernn_trt.scripts.bench.own_limit import Rounds, describe_cpu_limit, describe_own_limit
from wavernn_trt.scripts.bench.peers import open_peers
from wavernn_trt.scripts.bench.timing import COMPARED, Report, Timing, Turn
from wavernn_trt.scripts.bench.vocoder_turn import metered, vocoder_turn

_BACKENDS = (NATIVE, "onnxruntime", "torch")
_BATCHES = (1, 8, 32)
_SECONDS = 0.25
_REPEATS = 5
_REFERENCE_SECONDS = 0.1
"""Length of speech for PyTorch, which is slow; its time a step does not depend on the length."""
_LOADS = 3
_BYTES: dict[str, int] = {"fp64": 8, **{str(name): size for name, size in WEIGHT_BYTES.items()}}
"""Bytes of a weight."""


def measure_speed(arguments: argparse.Namespace, path: Path, report: Report) -> dict[str, Any]:
    """Measures a model with each backend, with peers and limits in the same rounds; returns the report.

    Args:
        arguments: of the command line; ``None`` for options that were not given.
        path: a model directory.
        report: shows the next step.

    Raises:
        PeerError: a peer's results differ from the model's.
    """
    directory = open_model_directory(path)
    threads: int = arguments.threads or default_threads(directory.model.multiply_adds)
    backends: Sequence[str] = arguments.backend or _BACKENDS
    batches: Sequence[int] = arguments.batch or _BATCHES
    seconds: float = arguments.seconds or _SECONDS
    repeats: int = arguments.repeats or _REPEATS
    circumstances = Circumstances()
    missing: dict[str, str] = {}
    opened = OpenedBackends(path, backends, threads, arguments.precision, missing, report)
    on_gpu = any(place_of(backend) == "gpu" for backend in backends)
    report("opening peers")
    peers = open_peers(
        path, arguments.peers, batches, missing, threads=threads, precision=arguments.precision, on_gpu=on_gpu
    )
    turns: list[Turn] = []
    for batch in batches:
        turns += opened.turns(batch, seconds)
        for peer in peers:
            if peer.only in (None, batch):
                report(f"{peer.subject}, batch {batch}: warm-up")
                turns.append(peer.turn(batch, min(seconds, _REFERENCE_SECONDS)))
    turns += opened.own_turns({timing.subject for timing, _ in turns}, seconds)
    timings = [timing for timing, _ in turns]
    measured_batches = list(dict.fromkeys(timing.batch for timing in timings)) or list(batches)
    _add_work(timings, directory)
    works = [timing.work for timing in timings if timing.work]
    limits = Limits(threads, [timing.precision for timing in timings if timing.place == "gpu"], missing, works)
    found = _measure_rounds(turns, measured_batches, limits, repeats, report)
    limits.close()
    names = [peer.subject for peer in peers]
    return {
        **circumstances.describe("speed"),
        "threads": threads,
        "numpy_threads": limits.numpy_threads,
        "repeats": repeats,
        "seconds": seconds,
        "precision": arguments.precision,
        "model": describe_model(directory),
        "loads": {
            backend: {"median": median(times), "first": times[0], "repeats": times}
            for backend, times in opened.loads.items()
        },
        "peers": names,
        **reduce(directory, timings, measured_batches, found, names, with_numpy=limits.numpy_threads == threads),
        "missing": missing,
    }


def _add_work(timings: Sequence[Timing], directory: ModelDirectory) -> None:
    """Adds the work of a step to the rows in fp32 on the CPU that do not have it."""
    weights = directory.model.multiply_adds
    for timing in timings:
        if timing.work is None and (timing.place, timing.precision) == ("cpu", "fp32"):
            timing.work = StepWork(_BYTES["fp32"] * weights, weights)


def _measure_rounds(
    turns: Sequence[Turn], batches: Sequence[int], limits: Limits, repeats: int, report: Report
) -> dict[str, list[list[float]]]:
    """Measures all repeats, and before each batch of each round the limits; returns the limits by name."""
    found: dict[str, list[list[float]]] = {name: [] for name in limits.names}
    for round_ in range(repeats):
        for rows in found.values():
            rows.append([])
        for batch in batches:
            for name, value in limits.measure().items():
                found[name][-1].append(value)
            here = [turn for turn in turns if turn[0].batch == batch]
            first = round_ % max(1, len(here))
            for timing, run in here[first:] + here[:first]:
                report(f"round {round_ + 1} of {repeats}: {timing.subject}, batch {batch}")
                timing.add(run())
    return found


class OpenedBackends:
    """A model opened with each backend that is available."""

    def __init__(
        self,
        path: Path,
        backends: Sequence[str],
        threads: int,
        precision: Precision | None,
        missing: dict[str, str],
        report: Report,
    ) -> None:
        """Opens the model several times with each backend, to measure the time that takes.

        Args:
            path: the model directory.
            backends: some of `BACKENDS`.
            threads: CPU threads.
            precision: of backends on a GPU.
            missing: receives the backends that cannot be opened, with the reason.
            report: shows the next step.
        """
        self.loads: dict[str, list[float]] = {}
        """Seconds of each opening, by backend; the first may read from a cold file cache."""
        self._threads, self._precision = threads, precision
        self._missing, self._report = missing, report
        self._opened: dict[str, Vocoder] = {}
        for backend in [backend for _ in range(_LOADS) for backend in backends]:
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
        """The backends that support a batch, warmed up."""
        opened = {backend: self._with_batch(vocoder, backend, batch) for backend, vocoder in self._opened.items()}
        return [self._turn(vocoder, backend, batch, seconds) for backend, vocoder in opened.items() if vocoder]

    def own_turns(self, measured: set[str], seconds: float) -> list[Turn]:
        """The backends that support none of the batches, with the batch for which they were built."""
        return [
            self._turn(metered(vocoder, vocoder.batch), backend, vocoder.batch, seconds)
            for backend, vocoder in self._opened.items()
            if backend not in measured
        ]

    def _with_batch(self, vocoder: Vocoder, backend: str, batch: int) -> Vocoder | None:
        """The model opened for a batch; ``None`` for an engine that does not support it."""
        executor = vocoder.executor
        if executor.slots in (None, batch):
            return metered(vocoder, batch)
        if executor.name == "torch":
            from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

            assert isinstance(executor, TorchExecutor)
            return metered(vocoder, batch, TorchExecutor(executor.model, batch))
        try:
            return metered(load_backend(vocoder.config.path, backend, self._threads, batch, self._precision), batch)
        except UnavailableError as error:
            self._missing[f"{backend}, batch {batch}"] = str(error)
            return None

    def _turn(self, vocoder: Vocoder, backend: str, batch: int, seconds: float) -> Turn:
        self._report(f"{backend}, batch {batch}: warm-up")
        if backend == "torch":
            seconds = min(seconds, _REFERENCE_SECONDS)
        return vocoder_turn(vocoder, backend, batch, seconds)


def reduce(
    config: ModelDirectory,
    timings: Sequence[Timing],
    batches: Sequence[int],
    limits: Mapping[str, Rounds],
    peers: Sequence[str],
    *,
    with_numpy: bool,
) -> dict[str, Any]:
    """Computes medians, spreads and ratios from all repeats.

    A ratio is the median of the ratios within each round, because a slow phase of the machine affects both values.

    Args:
        config: the model.
        timings: the repeats of all subjects.
        batches: in the order of a round.
        limits: by name.
        peers: the subjects that are peers.
        with_numpy: whether numpy had the same number of threads, so that its matrix product may be the limit.
    """
    # The product of the faster library is the limit.
    medians = {name: _median(limits[name]) for name in LIBRARIES}
    best = max((name for name in medians if with_numpy or name != "numpy"), key=lambda name: medians[name])
    products = {name: rounds for name, rounds in limits.items() if name.startswith("gpu ") and name != GPU_COPY}
    gpu_flops = {name: _median(rounds) for name, rounds in products.items()}
    return {
        "limit": {"library": best, "flops": medians, "repeats": {name: limits[name] for name in LIBRARIES}},
        "copy": _copy(limits, COPY),
        "gpu_limit": {"flops": gpu_flops, "repeats": products} if products else None,
        "gpu_copy": _copy(limits, GPU_COPY),
        "cpu_limit": describe_cpu_limit(limits, [timing.work for timing in timings if timing.work]),
        "results": [_result(config, timing, timings, batches, limits, peers, best) for timing in timings],
    }


def _result(
    config: ModelDirectory,
    timing: Timing,
    timings: Sequence[Timing],
    batches: Sequence[int],
    limits: Mapping[str, Rounds],
    peers: Sequence[str],
    library: str,
) -> dict[str, Any]:
    speeds = [timing.samples / elapsed for elapsed in timing.elapsed]
    operations = 2 * config.model.multiply_adds
    weights = timing.work.weight_bytes if timing.work else _BYTES[timing.precision] * config.model.multiply_adds
    moved = [weights * speed / timing.batch for speed in speeds]
    on_gpu = timing.place == "gpu"
    place = batches.index(timing.batch)
    product = limits.get(gpu_product(timing.precision) if on_gpu else library)
    copy = limits.get(GPU_COPY if on_gpu else COPY)
    shares = _shares([operations * speed for speed in speeds], product, place)
    copy_shares = _shares(moved, copy, place)
    times = {
        peer.subject: median(
            speed / (peer.samples / elapsed) for speed, elapsed in zip(speeds, peer.elapsed, strict=True)
        )
        for peer in timings
        if peer.subject in (*peers, COMPARED) and peer.batch == timing.batch
    }
    return {
        "subject": timing.subject,
        "batch": timing.batch,
        "place": timing.place,
        "precision": timing.precision,
        "engine": timing.engine,
        "samples": timing.samples,
        "chunk_samples": timing.chunk_samples,
        "samples_per_second": median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "real_time_factor": config.audio.sample_rate / median(speeds),
        "first_chunk_seconds": median(timing.first_chunk) if timing.first_chunk else None,
        "chunk_seconds": median(timing.chunk) if timing.chunk else None,
        "flops": operations * median(speeds),
        "share_of_limit": median(shares) if shares else None,
        "shares": shares,
        "own_limit": describe_own_limit(timing, speeds, limits, place),
        "weight_bytes_a_step": weights,
        "weight_bytes_per_second": median(moved),
        "share_of_copy": median(copy_shares) if copy_shares else None,
        "times": times,
        "repeats": dataclasses.asdict(timing),
    }


def _shares(rates: Sequence[float], limit: Rounds | None, place: int) -> list[float] | None:
    """Shares of the limit in each round at one batch; ``None`` if it was not measured."""
    return None if limit is None else [rate / row[place] for rate, row in zip(rates, limit, strict=True)]


def _copy(limits: Mapping[str, Rounds], name: str) -> dict[str, Any] | None:
    return {"bytes_per_second": _median(limits[name]), "repeats": limits[name]} if name in limits else None


def _median(rounds: Rounds) -> float:
    return median(value for row in rounds for value in row)
