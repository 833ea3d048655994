"""The parts of every family: GRU cell, conditioner, decoder step, sampler, and the model."""

from __future__ import annotations

import abc

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wavernn_trt.export.config import ModelConfig


class GRUCell(nn.Module):
    """PyTorch's GRU cell (gates in the order reset, update, new), with its two products kept apart.

    Parameter names are those of a one-layer ``nn.GRU``, so that its state dict can be loaded.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        # Operands of the products; quantised products round here. Gates read the unrounded state.
        self.input_operand: nn.Module = nn.Identity()
        self.hidden_operand: nn.Module = nn.Identity()

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Input [B, input_size], hidden state [B, H] -> next hidden state [B, H]."""
        size = self.hidden_size
        from_input = nn.functional.linear(self.input_operand(x), self.weight_ih_l0, self.bias_ih_l0)  # [B, 3H]
        from_hidden = nn.functional.linear(self.hidden_operand(hidden), self.weight_hh_l0, self.bias_hh_l0)  # [B, 3H]
        input_gates, input_new = from_input.split([2 * size, size], dim=1)
        hidden_gates, hidden_new = from_hidden.split([2 * size, size], dim=1)
        reset, update = torch.sigmoid(input_gates + hidden_gates).split([size, size], dim=1)
        new = torch.tanh(input_new + reset * hidden_new)
        following: Tensor = new + update * (hidden - new)
        return following


class Conditioner(nn.Module, abc.ABC):
    """Runs once over a mel spectrogram, in parallel over its frames."""

    @abc.abstractmethod
    def forward(self, mel: Tensor) -> Tensor:
        """Mel [B, n_mels, N] -> conditioning [B, N + 2 * margin, columns], at the frame rate.

        Columns are in the order of ``ModelConfig.groups``. A step reads a weighted sum over a group's rows (see
        ``Expansion``). That sum runs along time and the decoder's products along columns, so the two commute, and the
        products can be computed at the frame rate.
        """


class DecoderStep(nn.Module, abc.ABC):
    """Runs once per sample."""

    @abc.abstractmethod
    def forward(self, previous: Tensor, hidden: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            previous: the previous sample, [B]: int32 labels (univoc) or float32 values in [-1, 1].
            hidden: recurrent state [L, B, H].
            conditioning: this sample's row [B, columns].

        Returns:
            The last layer's outputs [B, outputs] and the new recurrent state [L, B, H].
        """


class Sampler(nn.Module, abc.ABC):
    """Draws a sample from the last layer's outputs and given random numbers."""

    @abc.abstractmethod
    def forward(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, outputs], uniforms [B, U] -> the sample [B] and the ``previous`` of the next step [B].

        The first of the U numbers is uniform on [0, 1) and chooses a class or a component; mixtures take a second, a
        standard deviate of their distribution.
        """


class WaveRNN(nn.Module):
    """A WaveRNN with its weights, in evaluation mode."""

    def __init__(
        self,
        config: ModelConfig,
        conditioner: Conditioner,
        step: DecoderStep,
        sampler: Sampler,
        upsampling: NDArray[np.float32] | None = None,
    ) -> None:
        """Combines the three parts.

        Args:
            config: sizes and conventions.
            conditioner: run once per utterance.
            step: run once per sample.
            sampler: run once per sample.
            upsampling: for ``kernel`` groups, float32 [hop_length, 2 * margin + 1]: the weights of frames f - margin …
                f + margin at each position inside frame f.
        """
        super().__init__()
        self.config = config
        self.conditioner = conditioner
        self.step = step
        self.sampler = sampler
        self.upsampling = upsampling
        self.eval()
