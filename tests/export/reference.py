"""Plain ways to run a `WaveRNN` over an utterance, and random checkpoints in fatchord's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wavernn_trt.export.checkpoints.checkpoint import Checkpoint
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.families.fatchord import expected_shapes, fatchord_from_state
from wavernn_trt.export.families.fatchord_layout import FatchordLayout
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.export.families.wavernn import WaveRNN


def expand(model: WaveRNN, rows: NDArray[np.float32], hop_length: int) -> NDArray[np.float64]:
    """An utterance's conditioning at the sample rate: [N + 2 * margin, columns] -> [N * hop_length, columns]."""
    margin = model.config.margin
    frames = len(rows) - 2 * margin
    samples = np.arange(frames * hop_length)
    frame, position = np.divmod(samples, hop_length)
    groups, first = [], 0
    for group in model.config.groups:
        columns = rows[:, first : first + group.columns].astype(np.float64)
        first += group.columns
        if group.expansion == "held":
            groups.append(columns[frame + margin])
        elif group.expansion == "kernel":
            taps = model.upsampling[position].astype(np.float64)
            groups.append(sum(taps[:, j, None] * columns[frame + j] for j in range(taps.shape[1])))
        elif group.name == "mel":
            stretched = _stretch(columns, hop_length)
            groups.append(stretched[margin * hop_length : len(stretched) - margin * hop_length])
        else:
            groups.append(_stretch(columns[margin : len(columns) - margin], hop_length))
    return np.concatenate(groups, axis=1)


def _stretch(rows: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    where = np.linspace(0, len(rows) - 1, len(rows) * factor)
    return np.stack([np.interp(where, np.arange(len(rows)), column) for column in rows.T], axis=1)


def utterance(model: WaveRNN, mel: Tensor, hop_length: int) -> Tensor:
    """Mel [B, n_mels, N] -> conditioning of every step [T, B, columns]."""
    with torch.no_grad():
        rows = model.conditioner(mel).numpy()
    return torch.from_numpy(np.stack([expand(model, each, hop_length) for each in rows], axis=1)).float()


@torch.no_grad()
def teacher_forced(model: WaveRNN, conditioning: Tensor, previous: Tensor) -> Tensor:
    """conditioning [T, B, columns], previous [T, B] -> outputs [T, B, outputs]."""
    hidden = torch.zeros(model.config.layers, conditioning.shape[1], model.config.hidden_size)
    outputs = []
    for sample, row in zip(previous, conditioning, strict=True):
        logits, hidden = model.step(sample, hidden, row)
        outputs.append(logits)
    return torch.stack(outputs)


@torch.no_grad()
def free_running(model: WaveRNN, conditioning: Tensor, uniforms: Tensor) -> Tensor:
    """conditioning [T, 1, columns], uniforms [T] -> samples [T]."""
    hidden = torch.zeros(model.config.layers, 1, model.config.hidden_size)
    kind = torch.int64 if model.config.label_feedback else torch.float32
    previous = torch.full((1,), model.config.first_previous, dtype=kind)
    samples = []
    for row, uniform in zip(conditioning, uniforms, strict=True):
        logits, hidden = model.step(previous, hidden, row)
        sample, previous = model.sampler(logits, uniform.reshape(1, 1))
        samples.append(sample)
    return torch.cat(samples)


SMALL = FatchordLayout(
    n_mels=6,
    hidden_size=8,
    layers=2,
    fc_sizes=(7, 7),
    outputs=16,
    factors=(2, 3),
    pad=2,
    compute_size=5,
    aux_size=8,
    blocks=2,
    uses_aux=True,
)
"""A network in fatchord's layout with a hop of 6, small enough to save and load in a millisecond."""


def random_state(layout: FatchordLayout = SMALL, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for a layout, under fatchord's names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in expected_shapes(layout).items():
        state[name] = torch.randn(shape, generator=generator) * 0.4
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
    return state


def random_univoc_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a small univoc model: 6 mel bins, 16 classes, 8 units."""
    generator = torch.Generator().manual_seed(seed)
    first, second = nn.GRU(6, 3, num_layers=2, bidirectional=True), nn.GRU(4 + 6, 8)
    shapes = {f"rnn1.{name}": tuple(value.shape) for name, value in first.state_dict().items()}
    shapes |= {f"rnn2.{name}": tuple(value.shape) for name, value in second.state_dict().items()}
    shapes |= {"embedding.weight": (16, 4), "fc1.weight": (5, 8), "fc1.bias": (5,)}
    shapes |= {"fc2.weight": (16, 5), "fc2.bias": (16,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def small_checkpoint(name: str) -> Checkpoint:
    """A small random model of a layout: univoc, or a member of fatchord's family.

    Of ``odd`` no hidden width is even, and each kind of product has a channel of zeros.
    """
    audio = AudioConfig(16000, 6, 24, 64, n_mels=6)
    if name == "univoc":
        state = random_univoc_state()
        return Checkpoint(univoc_from_state(state), audio, state, Path(name), "", ())
    layouts = {
        "mol": dataclasses.replace(SMALL, outputs=30),
        "gauss": dataclasses.replace(SMALL, outputs=2),
        "no_aux": dataclasses.replace(SMALL, uses_aux=False),
        "linear": dataclasses.replace(SMALL, factors=()),
        "linear_no_aux": dataclasses.replace(SMALL, factors=(), uses_aux=False),
        "turian": dataclasses.replace(SMALL, layers=1, fc_sizes=(7,)),
        "odd": dataclasses.replace(SMALL, hidden_size=13, fc_sizes=(9, 11)),
    }
    outputs = {"mol": "logistic_mixture", "gauss": "gaussian"}
    state = random_state(layouts.get(name, SMALL))
    for weight in ("rnn1.weight_hh_l0", "fc1.weight", "fc3.weight") if name == "odd" else ():
        state[weight][1] = 0
    model = fatchord_from_state(
        state,
        family="turian" if name == "turian" else "coqui",
        output=outputs.get(name, "categorical"),
        mu_law=False,
    )
    return Checkpoint(model, audio, state, Path(name), "", ())


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives a module what training would: statistics in its normalisation, upsampling kernels that are not flat."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var") or (value.dim() == 1 and "norm" in name and name.endswith("weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.3, generator=generator)
            elif "up" in name and value.dim() == 4:
                value.mul_(torch.rand(value.shape, generator=generator) * 2)
            elif value.is_floating_point() and value.dim() > 1:
                value.mul_(1.5)
    return model.eval()
