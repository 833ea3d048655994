"""Times what the kernels are compared with on the same GPU: a copy, a matrix product, and PyTorch's own steps.

Both are those of `wavernn_trt.scripts.bench.pytorch_peers`: the *loop* as the projects generate today, the *graph* in
fp16. Neither folds the embedding nor hoists the conditioning's products, which the kernels do.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from wavernn_trt.export.families.fatchord import expected_shapes, fatchord_from_state
from wavernn_trt.export.families.fatchord_layout import FatchordLayout
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_stream import DeviceStream, scratch
from wavernn_trt.scripts.bench.pytorch_peers import Steps, plain_loop, with_fused_cells
from wavernn_trt.scripts.gpu.findings import FindingsFile
from wavernn_trt.scripts.gpu.models import STANDARD
from wavernn_trt.scripts.gpu.tasks import RUNS, repeats, task

GRAPH_BATCHES = (1, 64, 1024)
GRAPH_STEPS, GRAPH_NUMBERS = 64, 1 << 16
"""Steps in one CUDA graph; fewer where batch times steps would be more than the second."""
LOOP_STEPS, LOOP_RUNS = (20, 120), 10
COPY_BYTES, PRODUCT_SIZE = 1 << 28, 8192

_MELS, _EMBEDDING, _CONDITIONING, _AUX = 80, 256, 128, 128


def time_peers(findings: FindingsFile, model: str) -> None:
    """Times the ceilings, then PyTorch's CUDA graphs in fp16 and its plain loop."""
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
        loop = Loop(network, 1, "cuda")
        loop.seconds(LOOP_STEPS[1])
        _add(findings, name, "loop", model, 1, [loop.step_seconds(*LOOP_STEPS) for _ in range(LOOP_RUNS)])


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
    """Makes a model with random weights whose decoder has that shape: univoc's or fatchord's RAW mode.

    Raises:
        ValueError: another shape.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(*sizes: int) -> Tensor:
        scale = float(max(1, sizes[-1])) ** -0.5
        return torch.empty(sizes).uniform_(-scale, scale, generator=generator)

    if shape.label_feedback and shape.layers == 1:
        return univoc_from_state(_univoc_state(shape, uniform))
    if not (shape.skip and shape.layers == 2 and shape.output == "categorical"):
        raise ValueError(f"found {shape}, expected univoc's or fatchord's categorical decoder")
    layout = FatchordLayout(
        n_mels=_MELS,
        hidden_size=shape.hidden_size,
        layers=2,
        fc_sizes=shape.fc_sizes,
        outputs=shape.outputs,
        factors=(5, 5, 11),
        pad=2,
        compute_size=_AUX,
        aux_size=_AUX,
        blocks=1,
        uses_aux=True,
    )
    state = {name: uniform(*sizes).abs_() for name, sizes in expected_shapes(layout).items() if "upsample" in name}
    state |= {name: uniform(*sizes) for name, sizes in expected_shapes(layout).items() if name not in state}
    return fatchord_from_state(state, "fatchord", "categorical")


def _univoc_state(shape: SequenceShape, uniform: Any) -> dict[str, Tensor]:
    networks = {
        "rnn1": nn.GRU(_MELS, _CONDITIONING, num_layers=2, bidirectional=True),
        "embedding": nn.Embedding(shape.outputs, _EMBEDDING),
        "rnn2": nn.GRU(_EMBEDDING + 2 * _CONDITIONING, shape.hidden_size),
        "fc1": nn.Linear(shape.hidden_size, shape.fc_sizes[0]),
        "fc2": nn.Linear(shape.fc_sizes[0], shape.outputs),
    }
    names = ((f"{prefix}.{name}", value) for prefix, net in networks.items() for name, value in net.named_parameters())
    return {name: uniform(*value.shape) for name, value in names}


class Loop:
    """The plain loop on a device, in float32."""

    def __init__(self, model: WaveRNN, batch: int, device: str) -> None:
        """Copies a model to a device."""
        self._model, self._batch, self._device = copy.deepcopy(model).to(device), batch, device
        self._model.step = with_fused_cells(self._model.step)

    def seconds(self, steps: int) -> float:
        """Returns how long a loop over so many steps takes, until the last value is on the host."""
        rows = torch.zeros(steps, self._model.config.columns, device=self._device)
        started = time.perf_counter()
        plain_loop(self._model, rows, self._batch)  # its last value comes to the host, so that it has ended
        return time.perf_counter() - started

    def step_seconds(self, fewer: int, more: int) -> float:
        """Returns how long a step takes: a longer loop less a shorter one, so that making the cells is not counted."""
        return (self.seconds(more) - self.seconds(fewer)) / (more - fewer)
