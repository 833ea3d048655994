"""The scenarios ``batch``, ``stream`` and ``mixed``: from the command line to a report."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from statistics import median
from typing import Any

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.availability import UnavailableError
from wavernn_trt.scripts.bench.backends import load_backend, place_of, precision_of
from wavernn_trt.scripts.bench.batch import BatchOptions, measure_batch
from wavernn_trt.scripts.bench.ceilings import Ceilings, gpu_product
from wavernn_trt.scripts.bench.circumstances import Circumstances
from wavernn_trt.scripts.bench.machine import usable_cores
from wavernn_trt.scripts.bench.mixed import MixedOptions, measure_mixed
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.report import describe_model
from wavernn_trt.scripts.bench.stream import StreamOptions, measure_streams

_BATCH = 32
"""Slots, where the backend leaves it open."""
_BACKENDS = ("onnxruntime",)


def measure_scenario(arguments: argparse.Namespace, path: Path, report: Report) -> dict[str, Any]:
    """Runs a scenario with each of the backends.

    Args:
        arguments: of the command line; what was not given is ``None``.
        path: a model directory.
        report: is told what comes next.

    Returns:
        The report; ``results`` has one entry for each backend that is there.

    Raises:
        VocoderError: an option or the mels are not usable.
    """
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    model: dict[str, Any] | None = None
    circumstances = Circumstances()
    for backend in arguments.backend or _BACKENDS:
        report(f"opening with {backend}")
        try:
            slots = _slots(arguments, backend)
            vocoder = load_backend(path, backend, arguments.threads, slots, arguments.precision)
        except UnavailableError as error:
            missing[backend] = str(error)
            continue
        model = describe_model(vocoder.config)
        precision = precision_of(vocoder.executor)
        about = {"subject": backend, "engine": vocoder.engine, "place": place_of(backend), "precision": precision}
        if arguments.scenario == "batch":
            measured = _beside_limit(arguments, vocoder, about, missing, report)
        else:
            measured = _measure(arguments, vocoder, report)
        results.append({**about, **measured})
    if model is None:
        from wavernn_trt.export.model_directory import open_model_directory

        model = describe_model(open_model_directory(path))
    return {
        **circumstances.describe(arguments.scenario),
        "model": model,
        "threads": arguments.threads,
        "results": results,
        "missing": missing,
    }


def is_sound(report: dict[str, Any]) -> bool:
    """Whether something was measured, and nothing went wrong meanwhile."""
    return bool(report["results"]) and all(result["sound"] for result in report["results"])


def _slots(arguments: argparse.Namespace, backend: str) -> int | None:
    """Streams decoded together; ``None`` leaves it to the backend."""
    if arguments.batch is not None:
        if len(arguments.batch) != 1:
            given = ",".join(map(str, arguments.batch))
            raise VocoderError(f"--batch: found {given}, expected one number with --scenario {arguments.scenario}")
        return int(arguments.batch[0])
    return max(_BATCH, *(arguments.listeners or (0,))) if backend == "onnxruntime" else None


def _measure(arguments: argparse.Namespace, vocoder: Vocoder, report: Report) -> dict[str, Any]:
    given: dict[str, Any] = {
        "batch": vocoder.batch,
        "lanes": arguments.lanes,
        "mels": tuple(arguments.mels or ()),
        "seconds": arguments.seconds,
        "repeats": arguments.repeats,
        "utterances": arguments.utterances,
        "padded_groups": arguments.padded_groups,
        "openings": arguments.openings,
        "buffer": None if arguments.buffer is None else arguments.buffer / 1000,
        "verify": arguments.verify,
        "listeners": arguments.listeners,
    }
    if arguments.lengths is not None:
        given["shortest"], given["longest"] = arguments.lengths
    if arguments.scenario == "batch":
        return measure_batch(vocoder.loaded, _options(BatchOptions, given), report)
    if arguments.scenario == "stream":
        return measure_streams(vocoder.loaded, _options(StreamOptions, given), report)
    if arguments.listeners is not None:
        if len(arguments.listeners) != 1:
            found = ",".join(map(str, arguments.listeners))
            raise VocoderError(f"--listeners: found {found}, expected one number with --scenario mixed")
        given["listeners"] = arguments.listeners[0]
    return measure_mixed(vocoder.loaded, _options(MixedOptions, given), report)


def _beside_limit(
    arguments: argparse.Namespace,
    vocoder: Vocoder,
    about: dict[str, Any],
    missing: dict[str, str],
    report: Report,
) -> dict[str, Any]:
    """A job, with the limit before and behind it: the matrix product of all cores, or of the GPU."""
    on_gpu = about["place"] == "gpu"
    name = gpu_product(about["precision"]) if on_gpu else "onnxruntime"

    def limit() -> list[float]:
        report("limit")
        ceilings = Ceilings(usable_cores(), [about["precision"]] if on_gpu else [], missing)
        found = ceilings.measure().get(name)
        ceilings.close()
        return [] if found is None else [found]

    before = limit()
    measured = _measure(arguments, vocoder, report)
    repeats = [*before, *limit()]
    if not repeats:
        return {**measured, "limit": None, "share_of_limit": None}
    flops = median(repeats)
    operations = 2 * vocoder.config.model.multiply_adds * measured["scheduler"]["samples_per_second"]
    about_limit = {"name": name if on_gpu else "onnxruntime fp32 product", "flops": flops, "repeats": repeats}
    return {**measured, "limit": about_limit, "share_of_limit": operations / flops}


def _options(kind: Any, given: dict[str, Any]) -> Any:
    """The scenario's options, its own defaults where nothing was given."""
    names = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in names and value is not None})
