"""What the kernels are held against, in the same process: a copy, a matrix product, and PyTorch's own steps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from wavernn_trt.export.operators import Precision
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_stream import DeviceStream, scratch
from wavernn_trt.scripts.gpu.measuring import repeats, speeds
from wavernn_trt.scripts.gpu.models import STANDARD
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Task

COPY_BYTES = 1 << 28
PRODUCT_SIZE = 8192
PRODUCT: Precision = "fp16"
"""Of the matrix product; bf16 takes as long."""
PEER_STEPS, PEER_NUMBERS = 64, 1 << 16
"""Steps in one CUDA graph; fewer where batch times steps would be more than the second."""
LOOP_STEPS, LOOP_RUNS = (20, 120), 20


def ceiling_tasks() -> Iterator[Task]:
    """What the GPU itself reaches."""
    yield Task("ceiling", "copy", "", _copy)
    yield Task("ceiling", f"{PRODUCT} product", "", _product)


def loop_task(name: str, batch: int) -> Task:
    """The plain loop over samples."""
    return Task("pytorch loop", name, f"batch {batch}", functools.partial(_loop, name, batch))


def graph_task(name: str, precision: Precision, batch: int) -> Task:
    """The same step under CUDA graphs."""
    run = functools.partial(_graph, name, precision, batch)
    return Task(f"pytorch graph {precision}", name, f"batch {batch}", run)


def _copy() -> Outcome:
    """Reading and writing device memory."""
    with (
        contextlib.closing(DeviceStream()) as stream,
        scratch(COPY_BYTES) as source,
        scratch(COPY_BYTES) as target,
    ):

        def work(handle: int) -> None:
            driver.copy(source, target, COPY_BYTES, handle)

        taken = repeats(lambda: stream.seconds(work))
    speed = 2 * COPY_BYTES / median(taken)
    numbers = {"kind": "ceiling", "name": "copy", "bytes_per_second": speed, "repeats": taken}
    return Outcome("noted", f"{speed / 1e9:,.0f} GB/s, read and written", numbers)


def _product() -> Outcome:
    """PyTorch's matrix product."""
    torch = _torch()
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.float16) for _ in range(2))
    taken = repeats(lambda: _torch_seconds(torch, lambda: a @ b))
    speed = 2 * PRODUCT_SIZE**3 / median(taken)
    numbers = {"kind": "ceiling", "name": "product", "flops": speed, "repeats": taken}
    return Outcome("noted", f"{speed / 1e12:,.0f} TFLOP/s", numbers)


def _loop(name: str, batch: int) -> Outcome:
    _torch()
    from wavernn_trt.scripts.gpu.peers import Loop

    loop = Loop(_model(name), batch, "cuda")
    loop.seconds(LOOP_STEPS[1])
    return _peer(name, "loop", "fp32", batch, [batch / loop.step_seconds(*LOOP_STEPS) for _ in range(LOOP_RUNS)])


def _graph(name: str, precision: Precision, batch: int) -> Outcome:
    torch = _torch()
    from wavernn_trt.scripts.bench.cuda_graphs import Steps

    count = max(1, min(PEER_STEPS, PEER_NUMBERS // batch))
    steps = Steps(_model(name), batch, count, precision, "cuda")
    taken = repeats(lambda: _torch_seconds(torch, steps.run))
    return _peer(name, "graph", precision, batch, [batch * count / seconds for seconds in taken])


@functools.lru_cache(maxsize=1)
def _model(name: str) -> Any:
    from wavernn_trt.scripts.gpu.peers import random_model  # it imports torch

    return random_model(STANDARD[name].shape)


def _peer(name: str, subject: str, precision: Precision, batch: int, values: list[float]) -> Outcome:
    numbers = {"kind": "peer", "model": name, "subject": subject, "precision": precision, "batch": batch}
    return Outcome("noted", f"{median(values):,.0f} samples/s", {**numbers, **speeds(values)})


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
