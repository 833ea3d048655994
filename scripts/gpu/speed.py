"""How fast the kernels are that were right, beside PyTorch and beside what the GPU can do, all in one process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_stream import DeviceStream, Work, on_device, scratch
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import Arrays, GruCase
from wavernn_trt.plugins.launch import GruCellKernel, SequenceKernel
from wavernn_trt.plugins.sequence_plan import NUMBER_BYTES
from wavernn_trt.scripts.gpu.environment import clocks
from wavernn_trt.scripts.gpu.models import CHUNK_STEPS, STANDARD, long_chunk
from wavernn_trt.scripts.gpu.runners import kernel_cache
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task

CELL_UNITS, CELL_BATCHES = 896, (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEQUENCE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
RUNS, WARM_UP = 20, 3
SAMPLE_RATE = 16000
"""Hz, of the real-time factors, whatever the model's own rate."""
COPY_BYTES = 1 << 28
PRODUCT_SIZE = 8192
CELLS, PEER_STEPS = 64, 64
"""In one CUDA graph."""
LOOP_STEPS, LOOP_RUNS = (20, 120), 20
PATIENCE, SHORT_STEPS = 0.05, 128
"""Seconds that a whole chunk may take; a slower one is measured over fewer steps."""


def tasks(settings: Settings) -> list[Task]:
    """Ceilings first, then what is asked for most."""
    return [*_ceilings(), *_sequences(settings), *_cells(settings), Task("clocks", "at the end", "", clocks)]


def _ceilings() -> Iterator[Task]:
    yield Task("clocks", "at the beginning", "", clocks)
    yield Task("ceiling", "copy", "", _copy)
    yield Task("ceiling", "bf16 product", "", _product)


def _sequences(settings: Settings) -> Iterator[Task]:
    order: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
    for precision, name in itertools.product(order, STANDARD):
        for batch in SEQUENCE_BATCHES:
            kernel = functools.partial(_sequence, settings, name, precision, batch)
            yield Task(f"sequence {precision}", name, f"batch {batch}", kernel)
            if precision == order[0]:
                yield Task("pytorch loop", name, f"batch {batch}", functools.partial(_loop, name, batch))
            graph = functools.partial(_graph, name, precision, batch)
            yield Task(f"pytorch graph {precision}", name, f"batch {batch}", graph)


def _cells(settings: Settings) -> Iterator[Task]:
    for precision, batch in itertools.product(PRECISIONS, CELL_BATCHES):
        run = functools.partial(_cell, settings, precision, batch)
        yield Task(f"gru_cell {precision}", f"{CELL_UNITS} units", f"batch {batch}", run)


def _sequence(settings: Settings, name: str, precision: Precision, batch: int) -> Outcome:
    _require(settings, f"sequence {precision}")
    model = STANDARD[name]
    case, inputs = long_chunk(model, precision, batch)
    kernel = SequenceKernel(case.shape, precision, kernel_cache(settings.folder), Choice("sequence"))
    plan = kernel.plan(batch)
    outputs = case.poisoned_outputs()
    arrays = [*(inputs[operand.name] for operand in case.shape.inputs()), *outputs.values()]
    stream = DeviceStream()
    with scratch(kernel.workspace_bytes(batch, case.steps, case.window)) as workspace, on_device(arrays) as device:
        pointers, fetch = device

        def launch(steps: int) -> Work:
            return lambda handle: kernel.launch(batch, steps, case.window, pointers, workspace, handle)

        stream.seconds(launch(SHORT_STEPS))
        whole = stream.seconds(launch(CHUNK_STEPS))
        fetch()
        _require_written(outputs, case.shape.outputs)
        # A shorter chunk reads other random numbers of the same arrays, and stays inside them.
        steps = CHUNK_STEPS if whole <= PATIENCE else SHORT_STEPS
        repeats = _repeats(lambda: stream.seconds(launch(steps)))
    stream.close()
    speeds = [batch * steps / seconds for seconds in repeats]
    numbers = {
        **_speeds(speeds),
        "kind": "sequence",
        "model": name,
        "precision": precision,
        "batch": batch,
        "steps": steps,
        "real_time_factor": SAMPLE_RATE / median(speeds),
        "flops": 2 * model.multiply_adds * median(speeds),
        "microseconds_a_step": 1e6 * batch / median(speeds),
        "grid": plan.grid,
        "tile": plan.tile,
        "shared_bytes": plan.shared_bytes,
        "resident_share": plan.resident_share,
    }
    return Outcome("noted", f"{median(speeds):,.0f} samples/s", numbers)


def _require_written(outputs: Arrays, classes: int) -> None:
    """Raises a `ValueError` where a chunk left a number that is none, or a label that does not exist."""
    labels = outputs["samples"]
    if labels.min() < 0 or labels.max() >= classes or not np.isfinite(outputs["hidden_out"]).all():
        raise ValueError("the timed chunk wrote labels that do not exist, or states that are no numbers")


def _cell(settings: Settings, precision: Precision, batch: int) -> Outcome:
    _require(settings, f"gru_cell {precision}")
    case = GruCase(batch, CELL_UNITS, precision)
    kernel = GruCellKernel(CELL_UNITS, precision, kernel_cache(settings.folder))
    kernel.prepare()
    inputs = case.inputs()
    following = np.full((batch, CELL_UNITS), np.nan, np.float32)
    stream = DeviceStream()
    with on_device([*inputs.values(), following]) as (pointers, fetch):
        gates, one, weight, bias, other = pointers

        def work(handle: int) -> None:
            for _ in range(CELLS // 2):  # each reads what the one before wrote, as steps do
                kernel.launch(batch, [gates, one, weight, bias, other], handle)
                kernel.launch(batch, [gates, other, weight, bias, one], handle)

        replay = stream.captured(work)
        repeats = [seconds / CELLS for seconds in _repeats(lambda: stream.seconds(replay))]
        fetch()
    stream.close()
    if not np.isfinite(following).all():
        raise ValueError("the timed cells wrote states that are no numbers")
    weight_bytes = 3 * CELL_UNITS**2 * NUMBER_BYTES[precision]
    numbers = {
        "kind": "cell",
        "precision": precision,
        "batch": batch,
        "seconds": median(repeats),
        "fastest": min(repeats),
        "slowest": max(repeats),
        "weight_bytes_per_second": weight_bytes / median(repeats),
        "repeats": repeats,
    }
    return Outcome("noted", f"{1e6 * median(repeats):.2f} us a step", numbers)


def _copy() -> Outcome:
    """Reading and writing device memory."""
    stream = DeviceStream()
    with scratch(COPY_BYTES) as source, scratch(COPY_BYTES) as target:

        def work(handle: int) -> None:
            driver.call("cuMemcpyDtoDAsync", target, source, COPY_BYTES, handle)

        repeats = _repeats(lambda: stream.seconds(work))
    stream.close()
    speed = 2 * COPY_BYTES / median(repeats)
    numbers = {"kind": "ceiling", "name": "copy", "bytes_per_second": speed, "repeats": repeats}
    return Outcome("noted", f"{speed / 1e9:,.0f} GB/s, read and written", numbers)


def _product() -> Outcome:
    """PyTorch's bf16 matrix product."""
    torch = _torch()
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    repeats = _repeats(lambda: _torch_seconds(torch, lambda: a @ b))
    speed = 2 * PRODUCT_SIZE**3 / median(repeats)
    numbers = {"kind": "ceiling", "name": "product", "flops": speed, "repeats": repeats}
    return Outcome("noted", f"{speed / 1e12:,.0f} TFLOP/s", numbers)


def _loop(name: str, batch: int) -> Outcome:
    _torch()
    from wavernn_trt.scripts.gpu.peers import Loop, random_model

    loop = Loop(random_model(STANDARD[name].shape), batch, "cuda")
    loop.seconds(LOOP_STEPS[1])
    speeds = [batch / loop.step_seconds(*LOOP_STEPS) for _ in range(LOOP_RUNS)]
    return _peer(name, "loop", "fp32", batch, speeds)


def _graph(name: str, precision: Precision, batch: int) -> Outcome:
    torch = _torch()
    from wavernn_trt.scripts.bench.cuda_graphs import Steps
    from wavernn_trt.scripts.gpu.peers import random_model

    steps = Steps(random_model(STANDARD[name].shape), batch, PEER_STEPS, precision, "cuda")
    repeats = _repeats(lambda: _torch_seconds(torch, steps.run))
    return _peer(name, "graph", precision, batch, [batch * PEER_STEPS / seconds for seconds in repeats])


def _peer(name: str, subject: str, precision: Precision, batch: int, speeds: list[float]) -> Outcome:
    numbers = {"kind": "peer", "model": name, "subject": subject, "precision": precision, "batch": batch}
    return Outcome("noted", f"{median(speeds):,.0f} samples/s", {**numbers, **_speeds(speeds)})


def _speeds(speeds: list[float]) -> dict[str, Any]:
    return {
        "samples_per_second": median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "repeats": speeds,
    }


def _repeats(measure: Callable[[], float]) -> list[float]:
    for _ in range(WARM_UP):
        measure()
    return [measure() for _ in range(RUNS)]


def _torch_seconds(torch: Any, work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingError(f"torch is not there: {error}") from error
    if not torch.cuda.is_available():
        raise MissingError(f"torch {torch.__version__} finds no GPU (is it a build for the CPU?)")
    return torch


def _require(settings: Settings, subject: str) -> None:
    if subject not in settings.proved:
        raise MissingError("not timed: its cases were not all right, or not run")
