"""Runs the scenarios ``batch``, ``stream`` and ``mixed`` as the command line asks, and makes the report."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from statistics import median
from typing import Any

from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import (
    NATIVE,
    UnavailableError,
    describe_model,
    is_native,
    load_backend,
    place_of,
    precision_of,
)
from wavernn_trt.scripts.bench.batch import measure_batch
from wavernn_trt.scripts.bench.limits import GPU, gpu_product, measure_product
from wavernn_trt.scripts.bench.machine import Circumstances
from wavernn_trt.scripts.bench.speech import ScenarioOptions
from wavernn_trt.scripts.bench.streams import measure_mixed, measure_streams
from wavernn_trt.scripts.bench.timing import Report

_SLOTS = 32
"""Default for backends that support any number."""
_BACKENDS = (NATIVE, "onnxruntime")
_DEFAULTS: dict[str, dict[str, Any]] = {"stream": {"lengths": (1.0, 4.0)}, "mixed": {"listeners": (4,)}}
"""Defaults of a scenario that differ from those of `ScenarioOptions`."""


def measure_load(arguments: argparse.Namespace, path: Path, report: Report) -> dict[str, Any]:
    """Runs a scenario with each of the backends.

    Args:
        arguments: of the command line; ``None`` for options that were not given.
        path: a model directory.
        report: shows the next step.

    Returns:
        The report; ``results`` has a row for each available backend.

    Raises:
        VocoderError: an option or the mels are not usable.
    """
    for name in ("batch", "listeners"):
        _check_numbers(arguments, name)
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    circumstances = Circumstances()
    for backend in arguments.backend or _BACKENDS:
        report(f"opening with {backend}")
        try:
            slots = _slots(arguments, backend)
            vocoder = load_backend(path, backend, arguments.threads, slots, arguments.precision)
        except UnavailableError as error:
            missing[backend] = str(error)
            continue
        precision = precision_of(vocoder.executor)
        row = {"subject": backend, "engine": vocoder.engine, "place": place_of(backend), "precision": precision}
        options = _options(arguments, vocoder)
        if arguments.scenario == "batch":
            row |= _measure_with_limit(vocoder, options, precision if row["place"] == "gpu" else None, missing, report)
        elif arguments.scenario == "stream":
            row |= measure_streams(vocoder, options, report)
        else:
            row |= measure_mixed(vocoder, options, report)
        results.append(row)
    return {
        **circumstances.describe(arguments.scenario),
        "model": describe_model(open_model_directory(path)),
        "threads": arguments.threads,
        "results": results,
        "missing": missing,
    }


def _check_numbers(arguments: argparse.Namespace, name: str) -> None:
    numbers = getattr(arguments, name)
    if numbers is not None and len(numbers) != 1 and (name, arguments.scenario) != ("listeners", "stream"):
        found = ",".join(map(str, numbers))
        raise VocoderError(f"--{name}: found {found}, expected one number with --scenario {arguments.scenario}")


def _slots(arguments: argparse.Namespace, backend: str) -> int | None:
    """Streams decoded together; ``None`` is the backend's default."""
    if arguments.batch is not None:
        return int(arguments.batch[0])
    return max(_SLOTS, *(arguments.listeners or (0,))) if backend == "onnxruntime" or is_native(backend) else None


def _options(arguments: argparse.Namespace, vocoder: Vocoder) -> ScenarioOptions:
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(ScenarioOptions)}
    given = {name: value for name, value in given.items() if value is not None} | {"batch": vocoder.batch}
    if "buffer" in given:
        given["buffer"] /= 1000
    return ScenarioOptions(**(_DEFAULTS.get(arguments.scenario, {}) | given))


def _measure_with_limit(
    vocoder: Vocoder,
    options: ScenarioOptions,
    gpu_precision: str | None,
    missing: dict[str, str],
    report: Report,
) -> dict[str, Any]:
    """Measures a job, and before and after it the limit: the matrix product of all cores or of the GPU."""

    def limit() -> list[float]:
        report("limit")
        try:
            return [measure_product(usable_cores(), gpu_precision)]
        except UnavailableError as error:
            missing[GPU] = str(error)
            return []

    before = limit()
    measured = measure_batch(vocoder, options, report)
    repeats = [*before, *limit()]
    if not repeats:
        return {**measured, "limit": None, "share_of_limit": None}
    name, flops = gpu_product(gpu_precision) if gpu_precision else "onnxruntime fp32 product", median(repeats)
    operations = 2 * vocoder.config.model.multiply_adds * measured["scheduler"]["samples_per_second"]
    about_limit = {"name": name, "flops": flops, "repeats": repeats}
    return {**measured, "limit": about_limit, "share_of_limit": operations / flops}
