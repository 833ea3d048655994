"""The scenario ``speed``: fixed batches of equal lengths, from the command line to a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.executors.onnx_runtime import default_threads
from wavernn_trt.scripts.bench.circumstances import Circumstances
from wavernn_trt.scripts.bench.machine import usable_cores
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.report import reduce
from wavernn_trt.scripts.bench.speed_rounds import SpeedOptions, measure

_BACKENDS = ("onnxruntime", "torch")
_BATCHES = (1, 8, 32)
_SECONDS = 0.25
_REPEATS = 5


def measure_speed(arguments: argparse.Namespace, path: Path, report: Report, *, numpy_limited: bool) -> dict[str, Any]:
    """Measures a model with each of the backends.

    Args:
        arguments: of the command line; what was not given is ``None``.
        path: a model directory.
        report: is told what comes next.
        numpy_limited: whether numpy has as many threads as were asked for.

    Returns:
        The report.

    Raises:
        PeerError: a peer does not compute what the model does.
    """
    directory = open_model_directory(path)
    threads = arguments.threads or default_threads(directory.model.multiply_adds)
    numpy_threads = threads if numpy_limited else usable_cores()
    options = SpeedOptions(
        backends=tuple(arguments.backend or _BACKENDS),
        peers=arguments.peers,
        batches=tuple(arguments.batch or _BATCHES),
        seconds=arguments.seconds or _SECONDS,
        repeats=arguments.repeats or _REPEATS,
        threads=threads,
        precision=arguments.precision,
    )
    circumstances = Circumstances()
    measured = measure(path, options, report)
    return {
        **circumstances.describe("speed"),
        "threads": threads,
        "numpy_threads": numpy_threads,
        "repeats": options.repeats,
        "seconds": options.seconds,
        "precision": options.precision,
        **reduce(directory, measured, with_numpy=numpy_threads == threads),
    }
