"""What every family is made of: conditioner, decoder step and sampler."""

from __future__ import annotations

import abc

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wavernn_trt.export.config import ModelConfig


class Conditioner(nn.Module, abc.ABC):
    """Runs once over a mel spectrogram, in parallel over its frames."""

    @abc.abstractmethod
    def forward(self, mel: Tensor) -> Tensor:
        """Mel [B, n_mels, N] -> conditioning [B, N + 2 * margin, columns], at the frame rate.

        Columns stand in the order of ``ModelConfig.groups``. What a step reads of a group is a weighted sum over rows
        (see ``Expansion``); since that sum runs along time and the decoder's products along columns, the two commute,
        and the products can be taken at the frame rate too.
        """


class DecoderStep(nn.Module, abc.ABC):
    """Runs once a sample."""

    @abc.abstractmethod
    def forward(self, previous: Tensor, hidden: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            previous: the sample before, [B]: int32 labels (univoc) or float32 values in [-1, 1].
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
        """Puts the three parts together.

        Args:
            config: sizes and conventions.
            conditioner: once an utterance.
            step: once a sample.
            sampler: once a sample.
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
