"""PyTorch as a peer, with a model's modules: a plain loop over samples, and many steps as one CUDA graph.

Both compute the whole input product in each step, as the projects' own code does. The *loop* generates as univoc and
fatchord do: modules, a softmax, a ``Categorical`` and one Python value for each sample. *CUDA graphs* avoid PyTorch's
overhead: fused GRU cells, weights in any precision, and samples drawn with precomputed noise (the Gumbel trick), which
takes one addition and one argmax.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

from wavernn_trt.export import read_checkpoint
from wavernn_trt.export.families.wavernn import DecoderStep, GRUCell, WaveRNN
from wavernn_trt.export.operators import Precision
from wavernn_trt.scripts.bench.timing import SUBJECTS, PeerError, Repeat, Timing, Turn, place_of_device

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_STEPS = 64
"""Steps in one graph."""
_TOLERANCE = 1e-4
"""Largest error of a step's outputs in float32, as a share of the largest output."""


class PlainLoopPeer:
    """A plain loop over a model's own modules."""

    subject = SUBJECTS["loop"]
    only: int | None = None

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Reads the weights of a model directory; ``threads`` are PyTorch's on the CPU."""
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(path)
        self._model, self._audio = checkpoint.model.to(device), checkpoint.audio
        self._model.step = with_fused_cells(self._model.step)
        self._device = device

    def turn(self, batch: int, seconds: float) -> Turn:
        steps = max(1, round(seconds * self._audio.sample_rate))
        rows = self._conditioning(steps)
        self._run(rows[: max(1, steps // 10)], batch)
        place = place_of_device(self._device)
        return Timing(self.subject, batch, batch * steps, place=place), lambda: self._run(rows, batch)

    def _run(self, rows: Tensor, batch: int) -> Repeat:
        # No torch.device context here: it intercepts every operation in Python, which slows the loop down.
        started = time.perf_counter()
        plain_loop(self._model, rows, batch)  # copies every value to the host, so that nothing is pending at its end
        return Repeat(time.perf_counter() - started)

    @torch.no_grad()
    def _conditioning(self, steps: int) -> Tensor:
        """Rows of conditioning at the sample rate; their values do not affect the speed."""
        hop = self._audio.hop_length
        mel = torch.zeros(1, self._audio.n_mels, -(-steps // hop), device=self._device)
        rows: Tensor = self._model.conditioner(mel)[0]
        return rows[self._model.config.margin :].repeat_interleave(hop, dim=0)[:steps]


@torch.no_grad()
def plain_loop(model: WaveRNN, conditioning: Tensor, batch: int) -> list[Any]:
    """Generates one sample for each row of conditioning.

    Args:
        model: of any family; see `with_fused_cells`.
        conditioning: at the sample rate, [samples, columns]; the same for every stream.
        batch: streams.

    Returns:
        For each sample its value, or a list of ``batch`` values.
    """
    config, step, device = model.config, model.step, conditioning.device
    dtype = torch.long if config.label_feedback else torch.float32
    previous = torch.full((batch,), config.first_previous, dtype=dtype, device=device)
    hidden = torch.zeros(config.layers, batch, config.hidden_size, device=device)
    drawn: list[Any] = []
    for rows in torch.unbind(conditioning.expand(batch, -1, -1), dim=1):  # [B, columns]
        logits, hidden = step(previous, hidden, rows)
        previous = _draw(config.output, logits, labels=config.label_feedback)
        drawn.append(previous.item() if batch == 1 else previous.tolist())
    return drawn


def _draw(output: str, logits: Tensor, *, labels: bool) -> Tensor:
    """Draws samples [B] from logits [B, outputs]."""
    if output == "categorical":
        label: Tensor = Categorical(functional.softmax(logits, dim=1)).sample()
        return label if labels else 2 * label.float() / (logits.shape[1] - 1.0) - 1.0
    if output == "gaussian":
        mean, log_deviation = logits[:, 0], logits[:, 1]
        noise = torch.exp(log_deviation.clamp(min=-7.0)) * torch.randn_like(mean)
        return torch.clamp(mean + noise, -1.0, 1.0)
    weights, means, log_scales = logits.chunk(3, dim=1)
    gumbel = -torch.log(-torch.log(torch.empty_like(weights).uniform_(1e-5, 1.0 - 1e-5)))
    chosen = functional.one_hot((weights + gumbel).argmax(dim=1), weights.shape[1])
    mean, log_scale = (means * chosen).sum(dim=1), (log_scales * chosen).sum(dim=1)
    u = torch.empty_like(mean).uniform_(1e-5, 1.0 - 1e-5)
    return torch.clamp(mean + torch.exp(log_scale) * (torch.log(u) - torch.log(1.0 - u)), -1.0, 1.0)


class CudaGraphsPeer:
    """Replays of a CUDA graph of many steps of a model."""

    subject = SUBJECTS["cuda-graphs"]
    only: int | None = None

    def __init__(self, path: Path, precision: Precision, device: str = "cuda") -> None:
        """Reads the weights of a model directory.

        Args:
            path: the model directory.
            precision: of weights and states.
            device: PyTorch's name of it; on ``cpu`` the steps are not captured.

        Raises:
            PeerError: a step with PyTorch's own cells differs from the model's.
        """
        checkpoint = read_checkpoint(path)
        self._model, self._rate = checkpoint.model, checkpoint.audio.sample_rate
        self._precision, self._device = precision, device
        check_step(self._model)

    def turn(self, batch: int, seconds: float) -> Turn:
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
    """Many consecutive steps, on a GPU as one CUDA graph."""

    @torch.no_grad()
    def __init__(self, model: WaveRNN, batch: int, steps: int, precision: Precision, device: str) -> None:
        """Copies the decoder to a device and, on a GPU, captures the steps."""
        dtype = TYPES[precision]
        self._step = with_fused_cells(model.step).to(device, dtype)
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
        """Runs all steps, continuing from the last run."""
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


def with_fused_cells(step: DecoderStep) -> DecoderStep:
    """Returns a copy with PyTorch's GRU cells in place of the cells written for the export."""
    copied = copy.deepcopy(step)
    for name, child in step.named_children():
        if isinstance(child, GRUCell):
            cell = nn.GRUCell(child.input_size, child.hidden_size, device=child.weight_hh_l0.device)
            cell.load_state_dict({key.removesuffix("_l0"): value for key, value in child.state_dict().items()})
            setattr(copied, name, cell)
    return copied.eval()


@torch.no_grad()
def check_step(model: WaveRNN) -> None:
    """Compares one float32 step with PyTorch's own cells to the model's; raises `PeerError` if they differ."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    hidden = torch.randn(config.layers, 2, config.hidden_size, generator=generator)
    rows = torch.randn(2, config.columns, generator=generator)
    previous = torch.tensor([1, 0]) if config.label_feedback else torch.tensor([0.5, -0.5])
    for own, theirs in zip(
        model.step(previous, hidden, rows), with_fused_cells(model.step)(previous, hidden, rows), strict=True
    ):
        if (difference := float((own - theirs).abs().max())) > _TOLERANCE * max(1.0, float(own.abs().max())):
            raise PeerError(f"{SUBJECTS['cuda-graphs']}: a step differs from the model's by {difference:.2g}")
