"""What the kernels are compared with on the same GPU: the model's own PyTorch modules, stepped.

The *loop* is `wavernn_trt.scripts.bench.plain_loop`, as the projects generate today. The *graph* is
`wavernn_trt.scripts.bench.cuda_graphs`, in the kernel's precision. Neither folds the embedding nor hoists the
conditioning's products, which the kernels do.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn

from wavernn_trt.export.families.fatchord import fatchord_from_state
from wavernn_trt.export.families.fatchord_layout import FatchordLayout, expected_shapes
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.scripts.bench.plain_loop import plain_loop

_MELS, _EMBEDDING, _CONDITIONING, _AUX = 80, 256, 128, 128


def random_model(shape: SequenceShape) -> WaveRNN:
    """A model with random weights whose decoder is of that shape: univoc's or fatchord's RAW mode.

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
        """Takes a copy of a model to a device."""
        self._model, self._batch, self._device = copy.deepcopy(model).to(device), batch, device

    def seconds(self, steps: int) -> float:
        """Of a loop over so many steps, from its modules to the last value on the host."""
        rows = torch.zeros(steps, self._model.config.columns, device=self._device)
        started = time.perf_counter()
        plain_loop(self._model, rows, self._batch)  # its last value comes to the host, so that it has ended
        return time.perf_counter() - started

    def step_seconds(self, fewer: int, more: int) -> float:
        """Of a step: what a longer loop takes more than a shorter one, so that making the cells is not counted."""
        return (self.seconds(more) - self.seconds(fewer)) / (more - fewer)
