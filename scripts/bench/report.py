"""A speed report's numbers, reduced from its repeats."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import median
from typing import Any

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.plugins.precisions import WEIGHT_BYTES
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.scripts.bench.ceilings import COPY, GPU_COPY, LIBRARIES, gpu_product
from wavernn_trt.scripts.bench.timings import Measurement, Timing

_BYTES: dict[str, int] = {"fp64": 8, **{str(name): size for name, size in WEIGHT_BYTES.items()}}
"""Of a weight."""
Rounds = Sequence[Sequence[float]]
"""For each round, a figure at each batch."""


def reduce(config: ModelDirectory | LoadedModel, measured: Measurement, *, with_numpy: bool) -> dict[str, Any]:
    """Medians, spreads and ratios, with all repeats beside them.

    Ratios are taken within each round, and their median is reported: what slows the machine for a while slows both.

    Args:
        config: the model.
        measured: its repeats.
        with_numpy: whether numpy had the same number of threads, so that its matrix product may be the limit.
    """
    ceilings = measured.ceilings
    # The better library's product is the limit, in each round at each batch.
    medians = {name: _median(ceilings[name]) for name in LIBRARIES}
    best = max((name for name in medians if with_numpy or name != "numpy"), key=lambda name: medians[name])
    products = [name for name in ceilings if name.startswith("gpu ") and name != GPU_COPY]
    return {
        "model": describe_model(config),
        "limit": {
            "library": best,
            "flops": medians,
            "repeats": {name: ceilings[name] for name in LIBRARIES},
        },
        "copy": {"bytes_per_second": _median(ceilings[COPY]), "repeats": ceilings[COPY]},
        "gpu_limit": {
            "flops": {name: _median(ceilings[name]) for name in products},
            "repeats": {name: ceilings[name] for name in products},
        }
        if products
        else None,
        "gpu_copy": {"bytes_per_second": _median(ceilings[GPU_COPY]), "repeats": ceilings[GPU_COPY]}
        if GPU_COPY in ceilings
        else None,
        "loads": {
            backend: {"median": median(times), "first": times[0], "repeats": times}
            for backend, times in measured.loads.items()
        },
        "peers": measured.peers,
        "results": [_result(config, timing, measured, best) for timing in measured.timings],
        "missing": measured.missing,
    }


def describe_model(config: ModelDirectory | LoadedModel) -> dict[str, Any]:
    """A model's name and sizes, for a report; where it lies is nobody's business who reads one."""
    return {
        "name": config.path.resolve().name,
        "family": config.model.family,
        "hidden_size": config.model.hidden_size,
        "layers": config.model.layers,
        "fc_sizes": list(config.model.fc_sizes),
        "outputs": config.model.outputs,
        "sample_rate": config.audio.sample_rate,
        "multiply_adds": config.model.multiply_adds,
    }


def _result(
    config: ModelDirectory | LoadedModel, timing: Timing, measured: Measurement, library: str
) -> dict[str, Any]:
    speeds = [timing.samples / elapsed for elapsed in timing.elapsed]
    operations = 2 * config.model.multiply_adds
    weights = _BYTES[timing.precision] * config.model.multiply_adds
    moved = [weights * speed / timing.batch for speed in speeds]
    place = measured.batches.index(timing.batch)
    on_gpu = timing.place == "gpu"
    limit = _at(measured.ceilings.get(gpu_product(timing.precision) if on_gpu else library), place)
    copy = _at(measured.ceilings.get(GPU_COPY if on_gpu else COPY), place)
    shares = [operations * speed / most for speed, most in zip(speeds, limit, strict=True)] if limit else None
    copy_shares = [one / most for one, most in zip(moved, copy, strict=True)] if copy else None
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
        "weight_bytes_a_step": weights,
        "weight_bytes_per_second": median(moved),
        "share_of_copy": median(copy_shares) if copy_shares else None,
        "times": {
            peer.subject: median(
                speed / (peer.samples / elapsed) for speed, elapsed in zip(speeds, peer.elapsed, strict=True)
            )
            for peer in measured.timings
            if peer.subject in measured.peers and peer.batch == timing.batch
        },
        "repeats": dataclasses.asdict(timing),
    }


def _at(rounds: Rounds | None, place: int) -> list[float] | None:
    """A ceiling in each round at one batch; ``None`` where it was not measured."""
    return None if rounds is None else [row[place] for row in rounds]


def _median(rounds: Rounds) -> float:
    return median(value for row in rounds for value in row)
