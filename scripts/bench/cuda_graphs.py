"""A model's modules on a GPU with what PyTorch offers against its own overhead: many steps as one CUDA graph.

Its own fused GRU cell, weights in any precision, and samples drawn with noise made before (the Gumbel trick), which
takes one addition and one argmax. Nothing is folded or hoisted: each step takes the whole input product, as the
projects' own code does. Only what measures imports this module, since it imports torch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from wavernn_trt.export import read_checkpoint
from wavernn_trt.export.families.gru import GRUCell
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.operators import Precision
from wavernn_trt.scripts.bench.names import SUBJECTS
from wavernn_trt.scripts.bench.peer import PeerError
from wavernn_trt.scripts.bench.timings import Repeat, Timing, place_of_device

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_STEPS = 64
"""In one graph."""
_TOLERANCE = 1e-4
"""Of a step's outputs in float32, as a share of the largest."""


class CudaGraphsPeer:
    """The steps of a model, replayed."""

    subject = SUBJECTS["cuda-graphs"]
    only: int | None = None

    def __init__(self, path: Path, precision: Precision, device: str = "cuda") -> None:
        """Reads a model directory's weights.

        Args:
            path: the model directory.
            precision: of weights and states.
            device: as PyTorch calls it; on ``cpu`` the steps are run one by one.

        Raises:
            PeerError: a step with PyTorch's own cells is not the model's.
        """
        checkpoint = read_checkpoint(path)
        self._model, self._rate = checkpoint.model, checkpoint.audio.sample_rate
        self._precision, self._device = precision, device
        check_step(self._model)

    def turn(self, batch: int, seconds: float) -> tuple[Timing, Callable[[], Repeat]]:
        """See `Peer`."""
        steps = Steps(self._model, batch, _STEPS, self._precision, self._device)
        replays = math.ceil(seconds * self._rate / _STEPS)

        def run() -> Repeat:
            self._synchronize()
            started = time.perf_counter()
            for _ in range(replays):
                steps.run()
            self._synchronize()
            return Repeat(time.perf_counter() - started)

        run()
        place = place_of_device(self._device)
        timing = Timing(self.subject, batch, batch * _STEPS * replays, place=place, precision=self._precision)
        return timing, run

    def _synchronize(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize()


class Steps:
    """Many steps that follow each other, as one CUDA graph on a GPU."""

    @torch.no_grad()
    def __init__(self, model: WaveRNN, batch: int, steps: int, precision: Precision, device: str) -> None:
        """Takes the decoder to a device and captures the steps where that is a GPU."""
        dtype = TYPES[precision]
        self._step = _with_fused_cells(model.step).to(device, dtype)
        config = model.config
        self._label_feedback = config.label_feedback
        shape = (steps, batch, config.columns)
        self._rows = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        uniforms = torch.rand((steps, batch, config.outputs), generator=torch.Generator().manual_seed(2))
        self.noise = -torch.log(-torch.log(uniforms.clamp(1e-6, 1 - 1e-6))).to(device)
        self._values = torch.linspace(-1, 1, config.outputs).to(device, dtype)
        self._previous = torch.full((batch,), int(config.first_previous), device=device)
        if not config.label_feedback:
            self._previous = self._previous.to(dtype)
        self._hidden = torch.zeros(config.layers, batch, config.hidden_size, device=device, dtype=dtype)
        self.labels = torch.zeros(steps, batch, dtype=torch.long, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device != "cpu":
            self._capture()

    @torch.no_grad()
    def run(self) -> None:
        """All steps, going on where the last run ended."""
        if self._graph is None:
            self._all()
        else:
            self._graph.replay()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._all()  # libraries allocate their workspaces
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._all()

    def _all(self) -> None:
        previous, hidden = self._previous, self._hidden
        for step in range(len(self._rows)):
            logits, hidden = self._step(previous, hidden, self._rows[step])
            label = torch.argmax(logits.float() + self.noise[step], dim=1)
            self.labels[step].copy_(label)
            previous = label if self._label_feedback else self._values.index_select(0, label)
        self._previous.copy_(previous)
        self._hidden.copy_(hidden)


def _with_fused_cells(step: nn.Module) -> nn.Module:
    """A copy in which PyTorch's own GRU cells stand for those that are written out for exporting."""
    copied = copy.deepcopy(step)
    for name, child in step.named_children():
        if isinstance(child, GRUCell):
            cell = nn.GRUCell(child.input_size, child.hidden_size)
            cell.load_state_dict({key.removesuffix("_l0"): value for key, value in child.state_dict().items()})
            setattr(copied, name, cell)
    return copied.eval()


@torch.no_grad()
def check_step(model: WaveRNN) -> None:
    """Compares one step with PyTorch's own cells to the model's, in float32.

    Raises:
        PeerError: they differ.
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    hidden = torch.randn(config.layers, 2, config.hidden_size, generator=generator)
    rows = torch.randn(2, config.columns, generator=generator)
    previous = torch.tensor([1, 0]) if config.label_feedback else torch.tensor([0.5, -0.5])
    for own, theirs in zip(
        model.step(previous, hidden, rows), _with_fused_cells(model.step)(previous, hidden, rows), strict=True
    ):
        if (difference := float((own - theirs).abs().max())) > _TOLERANCE * max(1.0, float(own.abs().max())):
            raise PeerError(f"{SUBJECTS['cuda-graphs']}: a step differs from the model's by {difference:.2g}")
