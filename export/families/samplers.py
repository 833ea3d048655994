"""Samplers: draw a sample from the last layer's outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavernn_trt.export.families.wavernn import Sampler


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """Returns the smallest class k with cumsum(softmax(logits))[k] > uniform: [B, C], [B, 1] -> int64 [B].

    The threshold is scaled by the computed sum. In float32 that sum can be just below a ``uniform`` close to 1, and
    then no class would pass, which is audible as a click once in some minutes of speech.
    """
    cumulative = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    total = cumulative[:, -1:]
    return torch.argmax((cumulative > uniform * total).float(), dim=1)


def _exp(x: Tensor) -> Tensor:
    # ONNX Runtime computes Pow element by element. Its vectorised Exp rounds the last elements of an array differently,
    # so that a stream's bits would depend on the number of streams beside it.
    return torch.pow(math.e, x)


class CategoricalSampler(Sampler):
    """Draws a class label; feeds back the label itself, or a value in [-1, 1]."""

    values: Tensor

    def __init__(self, classes: int, label_feedback: bool, amplitude_feedback: bool = False) -> None:
        """Computes the table of feedback values.

        Args:
            classes: number of labels, C.
            label_feedback: feed back the label (univoc), else its value 2k/(C - 1) - 1.
            amplitude_feedback: expand that value by mu-law (G-Wang's input type ``mulaw``).
        """
        super().__init__()
        self.label_feedback = label_feedback
        labels = torch.arange(classes, dtype=torch.float32)
        values = 2 * labels / (classes - 1.0) - 1.0
        if amplitude_feedback:
            exact = 2 * labels.double() / (classes - 1.0) - 1.0
            values = (exact.sign() * (float(classes) ** exact.abs() - 1) / (classes - 1)).float()
        self.register_buffer("values", values)

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
        choice, deviate = uniforms.split([1, 1], dim=1)
        component = pick(weights, choice).unsqueeze(1)
        mean = means.gather(1, component)
        scale = _exp(log_scales.gather(1, component).clamp(min=self.LOG_SCALE_FLOOR))
        value = (mean + scale * deviate).clamp(-1.0, 1.0).squeeze(1)
        return value, value


class GaussianSampler(Sampler):
    """One Gaussian: mean and log standard deviation (Coqui)."""

    LOG_DEVIATION_FLOOR = -7.0

    def forward(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `Sampler`; the sample is a float32 in [-1, 1]."""
        mean, log_deviation = logits.split([1, 1], dim=1)
        deviation = _exp(log_deviation.clamp(min=self.LOG_DEVIATION_FLOOR))
        value = (mean + deviation * uniforms[:, 1:2]).clamp(-1.0, 1.0).squeeze(1)
        return value, value
