"""What speed is compared with: a WaveRNN stepped in plain PyTorch, as univoc and fatchord generate today.

Each sample is a pass through ``nn`` modules on the whole input (nothing is folded or hoisted), a softmax, a
``Categorical`` and one value handed to Python. Only ``bench`` imports this module, since it imports torch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

from wavernn_trt.export import read_checkpoint
from wavernn_trt.export.families.fatchord import FatchordStep
from wavernn_trt.export.families.gru import GRUCell
from wavernn_trt.export.families.univoc import UnivocStep
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.scripts.bench.names import SUBJECTS
from wavernn_trt.scripts.bench.timings import Repeat, Timing, place_of_device


class PlainLoopPeer:
    """The loop over a model's own modules."""

    subject = SUBJECTS["loop"]
    only: int | None = None

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Reads a model directory's weights.

        Args:
            path: the model directory.
            threads: of PyTorch on the CPU.
            device: as PyTorch calls it.
        """
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(path)
        self._model, self._audio = copy.deepcopy(checkpoint.model).to(device), checkpoint.audio
        self._device = device

    def turn(self, batch: int, seconds: float) -> tuple[Timing, Callable[[], Repeat]]:
        """See `Peer`."""
        steps = max(1, round(seconds * self._audio.sample_rate))
        rows = self._conditioning(steps)
        self._run(rows[: max(1, steps // 10)], batch)
        place = place_of_device(self._device)
        return Timing(self.subject, batch, batch * steps, place=place), lambda: self._run(rows, batch)

    def _run(self, rows: Tensor, batch: int) -> Repeat:
        # No torch.device context here: it has every single operation pass through Python, and slows the loop down.
        started = time.perf_counter()
        plain_loop(self._model, rows, batch)  # its last value comes to the host, so that it has ended
        return Repeat(time.perf_counter() - started)

    @torch.no_grad()
    def _conditioning(self, steps: int) -> Tensor:
        """Rows of conditioning at the sample rate; what they hold does not matter to the loop's speed."""
        hop = self._audio.hop_length
        mel = torch.zeros(1, self._audio.n_mels, -(-steps // hop), device=self._device)
        rows: Tensor = self._model.conditioner(mel)[0]
        return rows[self._model.config.margin :].repeat_interleave(hop, dim=0)[:steps]


@torch.no_grad()
def plain_loop(model: WaveRNN, conditioning: Tensor, batch: int) -> list[Any]:
    """Generates one sample for each row of conditioning.

    Args:
        model: any family; its weights are used as they are.
        conditioning: at the sample rate, [samples, columns]; every stream gets the same.
        batch: streams.

    Returns:
        What was drawn: a value a sample, or a list of ``batch`` values a sample.
    """
    rows = conditioning.expand(batch, -1, -1)  # [B, samples, columns]
    step = model.step
    drawn = _univoc(step, rows) if isinstance(step, UnivocStep) else _fatchord(step, model.config.output, rows)
    return [sample.item() if batch == 1 else sample.tolist() for sample in drawn]


def _univoc(step: UnivocStep, rows: Tensor) -> Iterator[Tensor]:
    cell = _cell(step.rnn2)
    x = torch.full((len(rows),), step.embedding.num_embeddings // 2, device=rows.device)
    h = torch.zeros(len(rows), cell.hidden_size, device=rows.device)
    for m in torch.unbind(rows, dim=1):
        h = cell(torch.cat([step.embedding(x), m], dim=1), h)
        logits = step.fc2(functional.relu(step.fc1(h)))
        x = Categorical(functional.softmax(logits, dim=1)).sample()
        yield x


def _fatchord(step: Any, output: str, rows: Tensor) -> Iterator[Tensor]:
    assert isinstance(step, FatchordStep)
    rnn1, rnn2 = _cell(step.rnn1), None if step.rnn2 is None else _cell(step.rnn2)
    mels, aux = rows[:, :, : step.n_mels], rows[:, :, step.n_mels :]
    first, rest = aux[:, :, : step.first_part], aux[:, :, step.first_part :]
    parts = rest.split(step.part, dim=2) if step.part else [rest] * 3
    x = torch.zeros(len(rows), 1, device=rows.device)
    h1 = h2 = torch.zeros(len(rows), rnn1.hidden_size, device=rows.device)
    for i in range(rows.shape[1]):
        x = step.I(torch.cat([x, mels[:, i], first[:, i]], dim=1))
        h1 = rnn1(x, h1)
        x = x + h1
        used = 0
        if rnn2 is not None:
            h2 = rnn2(torch.cat([x, parts[used][:, i]], dim=1), h2)
            x = x + h2
            used += 1
        x = functional.relu(step.fc1(torch.cat([x, parts[used][:, i]], dim=1)))
        if step.fc2 is not None:
            x = functional.relu(step.fc2(torch.cat([x, parts[used + 1][:, i]], dim=1)))
        sample = _draw(output, step.fc3(x))
        x = sample.unsqueeze(1)
        yield sample


def _draw(output: str, logits: Tensor) -> Tensor:
    if output == "categorical":
        label: Tensor = Categorical(functional.softmax(logits, dim=1)).sample()
        return 2 * label.float() / (logits.shape[1] - 1.0) - 1.0
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


def _cell(cell: GRUCell) -> nn.GRUCell:
    plain = nn.GRUCell(cell.input_size, cell.hidden_size, device=cell.weight_hh_l0.device)
    plain.load_state_dict({name.removesuffix("_l0"): value for name, value in cell.state_dict().items()})
    return plain
