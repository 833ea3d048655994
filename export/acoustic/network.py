"""Acoustic model: a convolutional network from phonemes to a mel, with explicit durations, pitch and energy.

The structure is that of FastPitch (Łańcucki 2021) with convolutions instead of attention: an encoder over phonemes,
predictors of duration, pitch and energy, and a decoder over frames. Between predictors and decoder, a contour network
refines the mean pitch of phonemes to a fundamental frequency for each frame.

No convolution pads its input. Inputs are longer than outputs by a margin, filled with zeros outside the sentence, so
that a part of a sentence is computed from a part of its inputs with the same values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PITCH_STEPS = 128
"""Rows of the table of pitch embeddings."""
LOWEST_F0, HIGHEST_F0 = 60.0, 500.0
"""Hz of the first and last row of the table."""
OUTSIDE = 0
"""Symbol of the positions before and after a sentence."""
FRAME_FEATURES = 6
"""Values of a frame beside the phoneme's hidden row: inside, pitch, voicing, energy, position, log(1 + duration)."""


@dataclass(frozen=True)
class AcousticSizes:
    """Sizes of the networks."""

    symbols: int
    """Rows of the embedding, `OUTSIDE` included."""
    n_mels: int = 80
    hidden: int = 192
    encoder_layers: int = 4
    encoder_kernel: int = 9
    contour_hidden: int = 128
    contour_layers: int = 3
    decoder_hidden: int = 192
    decoder_layers: int = 6
    frame_kernel: int = 7

    @property
    def encoder_margin(self) -> int:
        """Phonemes that the encoder and the predictors read on each side; a predictor has one layer."""
        return (self.encoder_layers + 1) * (self.encoder_kernel // 2)

    @property
    def contour_margin(self) -> int:
        """Frames that the contour network reads on each side."""
        return self.contour_layers * (self.frame_kernel // 2)

    @property
    def decoder_margin(self) -> int:
        """Frames that the decoder reads on each side."""
        return self.decoder_layers * (self.frame_kernel // 2)


class Prosody(NamedTuple):
    """Predictions for each phoneme, [batch, phonemes] each."""

    log_duration: Tensor
    """log(1 + frames)."""
    pitch: Tensor
    """Mean of the logarithm of f0 over voiced frames, standardised."""
    voicing: Tensor
    """Logit of the share of voiced frames."""
    energy: Tensor
    """Mean level of the mel, standardised."""


class Block(nn.Module):
    """Residual block of ConvNeXt (Liu et al. 2022) over time, without padding."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [batch, width, T + 2 * margin] to [batch, width, T]."""
        y = self.norm(self.depthwise(x).transpose(1, 2))
        y = self.narrow(self.dropout(nn.functional.gelu(self.widen(y), approximate="tanh")))
        output: Tensor = x[:, :, self.margin : x.shape[2] - self.margin] + y.transpose(1, 2)
        return output


def blocks(layers: int, width: int, kernel: int, dropout: float) -> nn.Sequential:
    """Returns blocks in a row."""
    return nn.Sequential(*(Block(width, kernel, dropout) for _ in range(layers)))


class Predictor(nn.Module):
    """A block and a projection: float [batch, hidden, T + 2 * margin] to [batch, outputs, T]."""

    def __init__(self, sizes: AcousticSizes, outputs: int, dropout: float) -> None:
        super().__init__()
        self.block = Block(sizes.hidden, sizes.encoder_kernel, dropout)
        self.project = nn.Conv1d(sizes.hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.block(x))
        return y


class Encoder(nn.Module):
    """Phonemes to hidden rows and predictions."""

    def __init__(self, sizes: AcousticSizes, dropout: float) -> None:
        super().__init__()
        self.crop = sizes.encoder_kernel // 2
        self.embedding = nn.Embedding(sizes.symbols, sizes.hidden, padding_idx=OUTSIDE)
        self.blocks = blocks(sizes.encoder_layers, sizes.hidden, sizes.encoder_kernel, dropout)
        self.duration = Predictor(sizes, 1, dropout)
        self.pitch = Predictor(sizes, 2, dropout)
        self.energy = Predictor(sizes, 1, dropout)

    def forward(self, symbols: Tensor) -> tuple[Tensor, Prosody]:
        """Maps int64 [batch, N + 2 * encoder_margin] to hidden rows, float [batch, hidden, N], and predictions."""
        x = self.blocks(self.embedding(symbols).transpose(1, 2))
        pitch = self.pitch(x)
        prosody = Prosody(self.duration(x)[:, 0], pitch[:, 0], pitch[:, 1], self.energy(x)[:, 0])
        return x[:, :, self.crop : x.shape[2] - self.crop], prosody


class Contour(nn.Module):
    """Features of frames to f0 and voicing of each frame."""

    def __init__(self, sizes: AcousticSizes, dropout: float) -> None:
        super().__init__()
        width = sizes.contour_hidden
        self.enter = nn.Conv1d(sizes.hidden + FRAME_FEATURES, width, 1)
        self.blocks = blocks(sizes.contour_layers, width, sizes.frame_kernel, dropout)
        self.project = nn.Conv1d(width, 2, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Maps float [batch, hidden + FRAME_FEATURES, T + 2 * contour_margin] to two of [batch, T].

        These are the logarithm of f0, standardised as phonemes' pitch is, and the logit of voicing.
        """
        y = self.project(self.blocks(self.enter(frames)))
        return y[:, 0], y[:, 1]


class Decoder(nn.Module):
    """Features of frames with f0 to a mel spectrogram."""

    def __init__(self, sizes: AcousticSizes, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Conv1d(sizes.hidden + FRAME_FEATURES, sizes.decoder_hidden, 1)
        self.pitch = nn.Embedding(PITCH_STEPS, sizes.decoder_hidden)
        self.blocks = blocks(sizes.decoder_layers, sizes.decoder_hidden, sizes.frame_kernel, dropout)
        self.project = nn.Conv1d(sizes.decoder_hidden, sizes.n_mels, 1)

    def forward(self, frames: Tensor, f0: Tensor, voicing: Tensor) -> Tensor:
        """Maps features, float [batch, hidden + FRAME_FEATURES, T + 2 * decoder_margin], to a mel of T frames.

        Args:
            frames: of the phonemes and their prosody.
            f0: float [batch, T + 2 * decoder_margin], Hz.
            voicing: of the same shape, 0 to 1; 0 outside the sentence.

        Returns:
            float [batch, n_mels, T], from 0 (the lowest level of the mel's range) to 1.
        """
        place = torch.log(f0.clamp(LOWEST_F0, HIGHEST_F0) / LOWEST_F0) / math.log(HIGHEST_F0 / LOWEST_F0)
        place = place * (PITCH_STEPS - 1)
        below = place.floor().clamp(0, PITCH_STEPS - 2)
        share = (place - below)[:, :, None]
        rows = below.long()
        pitch = self.pitch(rows) * (1 - share) + self.pitch(rows + 1) * share
        x = self.enter(frames) + (pitch * voicing[:, :, None]).transpose(1, 2)
        mel: Tensor = self.project(self.blocks(x))
        return mel


class AcousticNetwork(nn.Module):
    """The encoder, the contour network and the decoder."""

    def __init__(self, sizes: AcousticSizes, dropout: float = 0.1) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes, dropout)
        self.contour = Contour(sizes, dropout)
        self.decoder = Decoder(sizes, dropout)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> AcousticNetwork:
        """Returns the network of an ``acoustic.pt``'s content, for inference."""
        network = cls(AcousticSizes(**checkpoint["sizes"]))
        network.load_state_dict(checkpoint["model"])
        return network.eval()

    @property
    def frame_width(self) -> int:
        """Values of a frame: a phoneme's hidden row and `FRAME_FEATURES`."""
        return self.sizes.hidden + FRAME_FEATURES
