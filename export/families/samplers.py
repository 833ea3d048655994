"""How the families draw a sample from the last layer's outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavernn_trt.export.families.wavernn import Sampler


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """The smallest class k with cumsum(softmax(logits))[k] > uniform: [B, C], [B, 1] -> int64 [B].

    The threshold is scaled by the sum as computed. In float32 that sum can end just below a ``uniform`` close to 1, and
    then no class would pass: once in some minutes of speech, heard as a click.
    """
    cumulative = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    total = cumulative[:, -1:]
    return torch.argmax((cumulative > uniform * total).float(), dim=1)


class CategoricalSampler(Sampler):
    """A class label; what is fed back is the label itself, or its value in [-1, 1]."""

    values: Tensor

    def __init__(self, classes: int, label_feedback: bool) -> None:
        """``classes`` labels; ``label_feedback`` is univoc's way, values 2k / (classes - 1) - 1 everyone else's."""
        super().__init__()
        self.label_feedback = label_feedback
        labels = torch.arange(classes, dtype=torch.float32)
        self.register_buffer("values", 2 * labels / (classes - 1.0) - 1.0)

    def forward(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `Sampler`; the sample is an int64 label."""
        label = pick(logits, uniforms)
        return label, label if self.label_feedback else self.values.index_select(0, label)


class LogisticMixtureSampler(Sampler):
    """Ten logistics: weights, means and log-scales (Salimans et al., PixelCNN++, 2017)."""

    MIXTURES = 10
    LOG_SCALE_FLOOR = math.log(1e-14)

    def forward(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `Sampler`; the sample is a float32 in [-1, 1]."""
        weights, means, log_scales = logits.split([self.MIXTURES] * 3, dim=1)
        choice, u = uniforms.split([1, 1], dim=1)
        component = pick(weights, choice).unsqueeze(1)
        mean = means.gather(1, component)
        scale = torch.exp(log_scales.gather(1, component).clamp(min=self.LOG_SCALE_FLOOR))
        value = (mean + scale * (torch.log(u) - torch.log(1.0 - u))).clamp(-1.0, 1.0).squeeze(1)
        return value, value


class GaussianSampler(Sampler):
    """One Gaussian: mean and log standard deviation (Coqui); the normal draw is Box and Muller's."""

    LOG_DEVIATION_FLOOR = -7.0

    def forward(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `Sampler`; the sample is a float32 in [-1, 1]."""
        mean, log_deviation = logits.split([1, 1], dim=1)
        u, angle = uniforms.split([1, 1], dim=1)
        normal = torch.sqrt(-2.0 * torch.log(u)) * torch.cos(2 * math.pi * angle)
        deviation = torch.exp(log_deviation.clamp(min=self.LOG_DEVIATION_FLOOR))
        value = (mean + deviation * normal).clamp(-1.0, 1.0).squeeze(1)
        return value, value
