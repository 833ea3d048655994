"""The reference executor: PyTorch modules, stepped one sample at a time.

Only ``backend="torch"`` imports this module, since it imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray, State


class TorchExecutor:
    """Runs a `WaveRNN` on the CPU, as its authors' code does, with a fixed number of streams."""

    name = "torch"
    steps: int | None = None

    def __init__(self, model: WaveRNN, slots: int = 1) -> None:
        """Takes a model.

        Args:
            model: any family, in evaluation mode.
            slots: streams of every chunk. It is fixed because matrix products of another height may round otherwise.
        """
        self.model = model
        self.slots: int | None = slots

    @torch.inference_mode()
    def condition(self, mel: FloatArray) -> FloatArray:
        """See `Executor`."""
        rows = self.model.conditioner(torch.from_numpy(np.ascontiguousarray(mel, np.float32))[None])
        return rows[0].numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        """See `Executor`."""
        conditioning = self._conditioning(chunk)  # [T, B, columns]
        uniforms = torch.from_numpy(chunk.uniforms).transpose(0, 1).contiguous()  # [T, B, U]
        previous = torch.from_numpy(state.previous.copy())
        hidden = torch.from_numpy(state.hidden.copy())
        samples: list[Tensor] = []
        for row, numbers in zip(conditioning, uniforms, strict=True):
            logits, hidden = self.model.step(previous, hidden, row)
            sample, previous = self.model.sampler(logits, numbers)
            samples.append(sample)
        categorical = self.model.config.output == "categorical"
        emitted = torch.stack(samples, dim=1).numpy().astype(np.int32 if categorical else np.float32)  # [B, T]
        return emitted, State(previous.numpy().astype(state.previous.dtype), hidden.numpy())

    @torch.inference_mode()
    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See `Executor`."""
        conditioning = self._conditioning(chunk)
        fed = torch.from_numpy(previous.copy()).transpose(0, 1)  # [T, B]
        state = torch.from_numpy(hidden.copy())
        logits: list[Tensor] = []
        for row, sample in zip(conditioning, fed, strict=True):
            outputs, state = self.model.step(sample, state, row)
            logits.append(outputs)
        return torch.stack(logits, dim=1).numpy(), state.numpy()

    def _conditioning(self, chunk: Chunk) -> Tensor:
        """The conditioning of every step, [T, B, columns]."""
        rows = torch.from_numpy(chunk.conditioning)  # [B, W, columns]
        index = torch.from_numpy(chunk.frame_index).long()  # [B, T]
        weights = torch.from_numpy(chunk.interpolation)  # [B, G, T, W]
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
