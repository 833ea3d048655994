"""The reference executor: PyTorch modules, one sample at a time. Only ``backend="torch"`` imports this module."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.families.rounding import round_step
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.runtime.executors.lanes import HostLane
from wavernn_trt.runtime.executors.protocol import Chunk, Lane, State


class TorchExecutor:
    """Runs a `WaveRNN` on the CPU like its authors' code, with a fixed number of streams.

    Networks are computed in double precision, so that a comparison shows the rounding error of the other executor only.
    Outputs of networks (conditioning, logits, samples) are rounded to float32, and operands of quantised products to
    their grids.
    """

    name = "torch"
    steps: int | None = None
    lanes = 1
    conditioners = 1
    """PyTorch's threads use all cores."""

    def __init__(self, model: WaveRNN, slots: int = 1, quantization: Quantization | None = None) -> None:
        """Copies a model in double precision.

        Args:
            model: any family, in evaluation mode; it is not changed.
            slots: streams of every chunk; fixed because matrix products of another height may round differently.
            quantization: of the decoder's products.
        """
        self.model = model
        self.slots: int | None = slots
        self._conditioner = copy.deepcopy(model.conditioner).double()
        self._step = copy.deepcopy(model.step).double()
        if quantization is not None:
            round_step(self._step, model.config, quantization)

    @torch.inference_mode()
    def condition(self, mel: FloatArray) -> FloatArray:
        rows = self._conditioner(torch.from_numpy(np.ascontiguousarray(mel, np.float64))[None])
        return rows[0].float().numpy()  # type: ignore[no-any-return]

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return nullcontext(HostLane(self, self.model.config, streams))

    @torch.inference_mode()
    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        conditioning = self._conditioning(chunk)  # [T, B, columns]
        uniforms = torch.from_numpy(chunk.uniforms).transpose(0, 1).contiguous()  # [T, B, U]
        previous = torch.from_numpy(state.previous.copy())
        hidden = torch.from_numpy(state.hidden.astype(np.float64))
        samples: list[Tensor] = []
        for row, numbers in zip(conditioning, uniforms, strict=True):
            logits, hidden = self._step(_exact(previous), hidden, row)
            sample, previous = self.model.sampler(logits.float(), numbers)
            samples.append(sample)
        categorical = self.model.config.output == "categorical"
        emitted = torch.stack(samples, dim=1).numpy().astype(np.int32 if categorical else np.float32)  # [B, T]
        return emitted, State(previous.numpy().astype(state.previous.dtype), hidden.numpy())

    @torch.inference_mode()
    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        conditioning = self._conditioning(chunk)
        fed = _exact(torch.from_numpy(previous.copy())).transpose(0, 1)  # [T, B]
        state = torch.from_numpy(hidden.astype(np.float64))
        logits: list[Tensor] = []
        for row, sample in zip(conditioning, fed, strict=True):
            outputs, state = self._step(sample, state, row)
            logits.append(outputs.float())
        return torch.stack(logits, dim=1).numpy(), state.numpy()

    def _conditioning(self, chunk: Chunk) -> Tensor:
        """The conditioning of every step, [T, B, columns]."""
        rows = torch.from_numpy(chunk.conditioning).double()  # [B, W, columns]
        index = torch.from_numpy(chunk.frame_index).long()  # [B, T]
        weights = torch.from_numpy(chunk.interpolation).double()  # [B, G, T, W]
        expanded: list[Tensor] = []
        interpolated = first = 0
        for group in self.model.config.groups:
            columns = rows[:, :, first : first + group.columns]
            first += group.columns
            if group.expansion == "held":
                expanded.append(torch.take_along_dim(columns, index[:, :, None], dim=1))
            else:
                expanded.append(weights[:, interpolated] @ columns)
                interpolated += 1
        return torch.cat(expanded, dim=2).transpose(0, 1).contiguous()


def _exact(previous: Tensor) -> Tensor:
    """Values in double precision; labels unchanged."""
    return previous.double() if previous.is_floating_point() else previous
