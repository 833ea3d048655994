"""Losses of the acoustic model on a batch of utterances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from torch.nn.utils.rnn import pad_sequence

from wavernn_trt.export.acoustic.network import AcousticNetwork
from wavernn_trt.scripts.training.acoustic.labelled_corpus import Scales, Utterance

WEIGHTS = {"mel": 20.0, "duration": 1.0, "pitch": 0.5, "voicing": 0.5, "energy": 0.5, "contour": 1.0, "frames": 0.5}
"""Factors of the losses in their sum: of the mel (absolute difference; 1 is the mel's range), of phonemes' durations,
pitch, voicing and energy, of frames' f0 (``contour``) and voicing (``frames``)."""


def losses(network: AcousticNetwork, utterances: Sequence[Utterance], scales: Scales) -> dict[str, Tensor]:
    """Returns the means of each loss; the decoder gets the labels' durations, pitch, energy and f0."""
    sizes = network.sizes
    symbols = pad_sequence([one.symbols for one in utterances], batch_first=True)
    hidden, predicted = network.encoder(pad(symbols, (sizes.encoder_margin, sizes.encoder_margin)))
    inside = (symbols > 0).float()
    labels = {
        name: pad_sequence([getattr(one, name) for one in utterances], batch_first=True)
        for name in ("durations", "pitch", "voicing", "energy", "f0")
    }
    with_pitch = inside * (labels["voicing"] > 0)
    found = {
        "duration": _mean((predicted.log_duration - torch.log1p(labels["durations"].float())).square(), inside),
        "pitch": _mean((predicted.pitch - labels["pitch"]).square(), with_pitch),
        "voicing": _mean(_bce(predicted.voicing, labels["voicing"]), inside),
        "energy": _mean((predicted.energy - labels["energy"]).square(), inside),
    }
    rows = [
        frame_features(hidden[place].T[: len(one.symbols)], one.pitch, one.voicing, one.energy, one.durations)
        for place, one in enumerate(utterances)
    ]
    frames = pad_sequence(rows, batch_first=True).transpose(1, 2)
    f0, mel = labels["f0"], pad_sequence([one.mel.float() for one in utterances], batch_first=True).transpose(1, 2)
    present = pad_sequence([torch.ones(len(one.f0)) for one in utterances], batch_first=True)
    voiced = (f0 > 0).float()
    contour, voicing = network.contour(pad(frames, (sizes.contour_margin, sizes.contour_margin)))
    log_f0 = (torch.log(f0.clamp(min=1.0)) - scales.pitch_mean) / scales.pitch_deviation
    found["contour"] = _mean((contour - log_f0).square(), voiced)
    found["frames"] = _mean(_bce(voicing, voiced), present)
    margin = (sizes.decoder_margin, sizes.decoder_margin)
    output = network.decoder(pad(frames, margin), pad(f0, margin), pad(voiced, margin))
    found["mel"] = _mean((output - mel).abs().mean(1), present)
    return found


def frame_features(hidden: Tensor, pitch: Tensor, voicing: Tensor, energy: Tensor, durations: Tensor) -> Tensor:
    """Repeats phonemes' rows for their frames.

    Args:
        hidden: float [N, hidden].
        pitch: float [N], standardised.
        voicing: float [N], share of voiced frames.
        energy: float [N], standardised.
        durations: int64 [N], frames.

    Returns:
        float [T, hidden + FRAME_FEATURES]; see `wavernn_trt.export.acoustic.network.FRAME_FEATURES`.
    """
    starts = torch.cumsum(durations, 0) - durations
    total = int(durations.sum())
    length = durations.repeat_interleave(durations)
    position = (torch.arange(total) - starts.repeat_interleave(durations) + 0.5) / length
    values = torch.stack([torch.ones_like(pitch), pitch, voicing, energy], 1)
    repeated = torch.cat([hidden, values], 1).repeat_interleave(durations, 0)
    return torch.cat([repeated, position[:, None], torch.log1p(length.float())[:, None]], 1)


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)
