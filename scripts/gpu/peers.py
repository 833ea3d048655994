"""Times a copy, a matrix product and PyTorch's own steps on the GPU, with which the kernels are compared.

The steps are those of `wavernn_trt.scripts.bench.pytorch_peers`: the plain loop, and CUDA graphs in fp16. Neither folds
the embedding nor hoists the conditioning's products, as the kernels do.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from statistics import median

import torch

from wavernn_trt.export.families.fatchord import fatchord_from_state
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_stream import DeviceStream, scratch
from wavernn_trt.scripts.bench.models import fatchord_state, univoc_state
from wavernn_trt.scripts.bench.pytorch_peers import Steps, plain_loop, with_fused_cells
from wavernn_trt.scripts.gpu.cases import STANDARD
from wavernn_trt.scripts.gpu.findings import FindingsFile, task
from wavernn_trt.scripts.gpu.timed_chunks import RUNS, repeats

GRAPH_BATCHES = (1, 64, 1024)
GRAPH_STEPS, GRAPH_NUMBERS = 64, 1 << 16
"""Steps in one CUDA graph; fewer if batch times steps would be more than the second number."""
LOOP_STEPS, LOOP_RUNS = (20, 120), 10
"""Steps of a short and a long loop, whose difference leaves out making the cells; and how often both are timed."""
COPY_BYTES, PRODUCT_SIZE = 1 << 28, 8192


def time_peers(findings: FindingsFile, model: str) -> None:
    """Times the limits of the GPU, then PyTorch's CUDA graphs in fp16 and its plain loop."""
    with task(findings, "copy"):
        taken = _copy_seconds()
        speed = 2 * COPY_BYTES / median(taken)
        numbers = {"kind": "ceiling", "bytes_per_second": speed, "repeats": taken}
        findings.add("copy", "noted", f"{speed / 1e9:,.0f} GB/s, read and written", numbers=numbers)
    if not torch.cuda.is_available():
        findings.add("PyTorch", "skipped", f"torch {torch.__version__} finds no GPU (is it a build for the CPU?)")
        return
    with task(findings, "fp16 product"):
        a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.float16) for _ in range(2))
        taken = repeats(lambda: _event_seconds(lambda: a @ b), RUNS)
        flops = 2 * PRODUCT_SIZE**3 / median(taken)
        numbers = {"kind": "ceiling", "flops": flops, "repeats": taken}
        findings.add("fp16 product", "noted", f"{flops / 1e12:,.0f} TFLOP/s", numbers=numbers)
    network = random_model(STANDARD[model].shape)
    for batch in GRAPH_BATCHES:
        name = f"{model} PyTorch graph batch {batch}"
        with task(findings, name):
            count = max(1, min(GRAPH_STEPS, GRAPH_NUMBERS // batch))
            steps = Steps(network, batch, count, "fp16", "cuda")
            taken = [one / count for one in repeats(functools.partial(_event_seconds, steps.run), RUNS)]
            _add(findings, name, "graph", model, batch, taken)
    name = f"{model} PyTorch loop batch 1"
    with task(findings, name):
        network = network.to("cuda")
        network.step = with_fused_cells(network.step)
        fewer, more = LOOP_STEPS
        seconds = functools.partial(loop_seconds, network, 1, device="cuda")
        seconds(more)
        taken = [(seconds(more) - seconds(fewer)) / (more - fewer) for _ in range(LOOP_RUNS)]
        _add(findings, name, "loop", model, 1, taken)


def _add(findings: FindingsFile, name: str, peer: str, model: str, batch: int, steps: list[float]) -> None:
    speed = batch / median(steps)
    numbers = {"kind": peer, "model": model, "batch": batch, "samples_per_second": speed, "repeats": steps}
    findings.add(name, "noted", f"{speed:,.0f} samples/s", numbers=numbers)


def _copy_seconds() -> list[float]:
    with (
        contextlib.closing(DeviceStream()) as stream,
        scratch(COPY_BYTES) as source,
        scratch(COPY_BYTES) as target,
    ):
        return repeats(lambda: stream.seconds(lambda handle: driver.copy(source, target, COPY_BYTES, handle)), RUNS)


def _event_seconds(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def random_model(shape: SequenceShape) -> WaveRNN:
    """Makes a model with random weights whose decoder has a shape: univoc's, or that of fatchord's RAW mode.

    Raises:
        ValueError: another shape.
    """
    torch.manual_seed(0)
    if shape.label_feedback and shape.layers == 1:
        return univoc_from_state(univoc_state(shape.hidden_size, shape.fc_sizes[0], shape.outputs))
    if not (shape.skip and shape.layers == 2 and shape.output == "categorical"):
        raise ValueError(f"found {shape}, expected univoc's or fatchord's categorical decoder")
    state = fatchord_state(shape.hidden_size, shape.fc_sizes[0], shape.outputs)
    return fatchord_from_state(state, "fatchord", "categorical")


def loop_seconds(model: WaveRNN, batch: int, steps: int, device: str) -> float:
    """Seconds of a plain loop over some steps, until the last value is on the host.

    Args:
        model: on the device, with PyTorch's own GRU cells; see `with_fused_cells`.
        batch: streams.
        steps: samples of each stream.
        device: PyTorch's name of it.
    """
    rows = torch.zeros(steps, model.config.columns, device=device)
    started = time.perf_counter()
    plain_loop(model, rows, batch)  # copies every value to the host, so that nothing is pending at its end
    return time.perf_counter() - started
