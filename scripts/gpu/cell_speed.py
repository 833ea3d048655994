"""How fast one GRU cell is: what plans of the cell form launch in every step."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from statistics import median

import numpy as np

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.device_stream import DeviceStream, on_device
from wavernn_trt.plugins.kernel_cases import GruCase
from wavernn_trt.plugins.launch import GruCellKernel
from wavernn_trt.plugins.precisions import WEIGHT_BYTES
from wavernn_trt.scripts.gpu.measuring import repeats, require_proved
from wavernn_trt.scripts.gpu.runners import kernel_cache
from wavernn_trt.scripts.gpu.tasks import Outcome, Settings, Task

CELL_UNITS, CELL_BATCHES = 896, (1, 16, 256)
CELLS = 64
"""In one CUDA graph."""


def cell_tasks(settings: Settings) -> Iterator[Task]:
    """All precisions and batches."""
    for precision, batch in itertools.product(PRECISIONS if settings.wants("gru_cell") else (), CELL_BATCHES):
        run = functools.partial(_cell, settings, precision, batch)
        yield Task(f"gru_cell {precision}", f"{CELL_UNITS} units", f"batch {batch}", run, "gru_cell")


def _cell(settings: Settings, precision: Precision, batch: int) -> Outcome:
    require_proved(settings, f"gru_cell {precision}")
    case = GruCase(batch, CELL_UNITS, precision)
    kernel = GruCellKernel(CELL_UNITS, precision, kernel_cache(settings.folder))
    kernel.prepare()
    inputs = case.inputs()
    following = np.full((batch, CELL_UNITS), np.nan, np.float32)
    with (
        contextlib.closing(DeviceStream()) as stream,
        on_device([*inputs.values(), following]) as (pointers, fetch),
    ):
        gates, one, weight, bias, other = pointers

        def work(handle: int) -> None:
            for _ in range(CELLS // 2):  # each reads what the one before wrote, as steps do
                kernel.launch(batch, [gates, one, weight, bias, other], handle)
                kernel.launch(batch, [gates, other, weight, bias, one], handle)

        replay = stream.captured(work)
        taken = [seconds / CELLS for seconds in repeats(lambda: stream.seconds(replay))]
        fetch()
    if not np.isfinite(following).all():
        raise ValueError("the timed cells wrote states that are no numbers")
    weight_bytes = 3 * CELL_UNITS**2 * WEIGHT_BYTES[precision]
    numbers = {
        "kind": "cell",
        "precision": precision,
        "batch": batch,
        "seconds": median(taken),
        "fastest": min(taken),
        "slowest": max(taken),
        "weight_bytes_per_second": weight_bytes / median(taken),
        "repeats": taken,
    }
    return Outcome("noted", f"{1e6 * median(taken):.2f} us a step", numbers)
