"""The scenarios ``batch``, ``stream`` and ``mixed``: from the command line to a report."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import UnavailableError, load_backend
from wavernn_trt.scripts.bench.batch import BatchOptions, measure_batch
from wavernn_trt.scripts.bench.machine import MachineWatch, describe_machine, describe_versions
from wavernn_trt.scripts.bench.mixed import MixedOptions, measure_mixed
from wavernn_trt.scripts.bench.report import describe_model
from wavernn_trt.scripts.bench.speed_rounds import NO_TORCH, has_torch
from wavernn_trt.scripts.bench.stream import StreamOptions, measure_streams

_BATCH = 32
"""Slots, where the backend leaves it open."""
_BACKENDS = ("onnxruntime",)

Report = Callable[[str], None]
"""Is told what is measured next."""


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
    watch = MachineWatch()
    for backend in arguments.backend or _BACKENDS:
        if backend == "torch" and not has_torch():
            missing[backend] = NO_TORCH
            continue
        report(f"opening with {backend}")
        try:
            vocoder = load_backend(path, backend, arguments.threads, _slots(arguments, backend))
        except UnavailableError as error:
            missing[backend] = str(error)
            continue
        model = describe_model(vocoder.config)
        measured = _measure(arguments, vocoder, report)
        results.append({"subject": backend, "engine": vocoder.engine, **measured})
    if model is None:
        from wavernn_trt.export.model_directory import open_model_directory
        from wavernn_trt.runtime.vocoder import VocoderConfig

        directory = open_model_directory(path)
        model = describe_model(VocoderConfig(path, directory.model, directory.audio))
    return {
        "scenario": arguments.scenario,
        "machine": describe_machine(),
        "others_share": watch.others_share(),
        "versions": describe_versions(),
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
        return measure_batch(vocoder.opened, _options(BatchOptions, given), report)
    if arguments.scenario == "stream":
        return measure_streams(vocoder.opened, _options(StreamOptions, given), report)
    if arguments.listeners is not None:
        if len(arguments.listeners) != 1:
            found = ",".join(map(str, arguments.listeners))
            raise VocoderError(f"--listeners: found {found}, expected one number with --scenario mixed")
        given["listeners"] = arguments.listeners[0]
    return measure_mixed(vocoder.opened, _options(MixedOptions, given), report)


def _options(kind: Any, given: dict[str, Any]) -> Any:
    """The scenario's options, its own defaults where nothing was given."""
    names = {one.name for one in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in given.items() if name in names and value is not None})
