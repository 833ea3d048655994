"""Makes a model directory's probe by running the PyTorch modules on a short artificial mel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.families.samplers import CategoricalSampler
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.probe_measures import bits_of_steps, displacements
from wavernn_trt.export.probe_record import ProbeRecord, Rounding

SEED = 1
_STEPS = 1000
"""About one chunk of an engine; 20 ms of work for the shipped voice on one core."""
_FEWEST_FRAMES, _MOST_FRAMES = 4, 64
_RECORDED = 6
"""Steps whose logits are recorded. A few suffice, because the recurrent state carries errors on."""
_DRAWS = 16
"""Sets of random numbers that the displacement is averaged over."""
_NATURAL_RANGE = (-11.5, 1.5)
"""ln of mel magnitudes, from the floor to loud speech."""


class _Bfloat16Products(TorchFunctionMode):
    """Rounds operands and results of products to bfloat16, the coarsest engine precision; biases stay float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not nn.functional.linear:
            return func(*args, **(kwargs or {}))
        x, weight, bias = args
        return func(x.bfloat16().float(), weight.bfloat16().float()).bfloat16().float() + bias


def make_probe(model: WaveRNN, audio: AudioConfig) -> ProbeRecord:
    """Runs a model, and again with the decoder's products in bfloat16.

    Args:
        model: the trained model, in evaluation mode.
        audio: its audio settings.
    """
    mel = probe_mel(audio)
    steps = mel.shape[1] * audio.hop_length
    numbers = _numbers(model, np.random.default_rng(SEED), steps)
    conditioning = _conditioning(model, mel, audio.hop_length)
    samples, logits = _free_running(model, conditioning, numbers)
    with _Bfloat16Products():
        near = _teacher_forced(model, conditioning, _feedback(model, samples))
    bits = bits_of_steps(model.config, logits, samples)
    draws = np.random.default_rng(SEED + 1)
    displaced = []
    for _ in range(_DRAWS):
        numbers = _numbers(model, draws, steps)
        drawn = model.sampler(torch.from_numpy(near), torch.from_numpy(numbers))[0].numpy()
        displaced.append(displacements(model.config, logits, numbers, drawn).mean())
    cost = Rounding(
        logits=float(np.sqrt(np.square(near - logits, dtype=np.float64).mean())),
        bits=float(np.abs(bits_of_steps(model.config, near, samples) - bits).mean()),
        displacement=float(np.mean(displaced)),
    )
    recorded = (np.arange(1, _RECORDED + 1) * steps // _RECORDED - 1).astype(np.int32)
    return ProbeRecord(mel, SEED, samples, recorded, logits[recorded], float(bits.mean()), cost)


def probe_mel(audio: AudioConfig) -> NDArray[np.float32]:
    """Returns a speech-like mel, float32 [n_mels, frames]: spectral tilt, moving formants, harmonics, rising level."""
    frames = min(max(round(_STEPS / audio.hop_length), _FEWEST_FRAMES), _MOST_FRAMES)
    place = np.linspace(0.0, 1.0, audio.n_mels)[:, None]
    time = (np.arange(frames) + 0.5)[None] / frames
    level = 0.75 - 0.45 * place + 0.06 * np.cos(np.pi / 2 * np.arange(audio.n_mels))[:, None]
    for centre, slope in ((0.15, 0.1), (0.35, -0.1), (0.6, 0.05)):
        level = level + 0.25 * np.exp(-(((place - centre - slope * time) / 0.05) ** 2))
    level = np.clip(level, 0.0, 1.0) * np.minimum(1.0, 0.5 + 2 * time)
    low, high = audio.mel_range if audio.log == "decibel" else _NATURAL_RANGE
    # Rounded to half precision, in which it is stored.
    mel: NDArray[np.float32] = (low + (high - low) * level).astype(np.float16).astype(np.float32)
    return mel


@torch.inference_mode()
def _free_running(
    model: WaveRNN, conditioning: Tensor, numbers: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Conditioning [T, columns], numbers [T, U] -> samples [T] and their logits [T, outputs]."""
    hidden = torch.zeros(model.config.layers, 1, model.config.hidden_size)
    previous = _first(model)
    samples, logits = [], []
    for row, drawn_with in zip(conditioning, torch.from_numpy(numbers), strict=True):
        outputs, hidden = model.step(previous, hidden, row[None])
        logits.append(outputs)
        sample, previous = model.sampler(outputs, drawn_with[None])
        samples.append(sample)
    kind = np.int32 if model.config.output == "categorical" else np.float32
    return torch.cat(samples).numpy().astype(kind), torch.cat(logits).numpy()


@torch.inference_mode()
def _teacher_forced(model: WaveRNN, conditioning: Tensor, fed: Tensor) -> NDArray[np.float32]:
    """Conditioning [T, columns], fed samples [T] -> logits [T, outputs]."""
    hidden = torch.zeros(model.config.layers, 1, model.config.hidden_size)
    logits = []
    for row, previous in zip(conditioning, fed, strict=True):
        outputs, hidden = model.step(previous[None], hidden, row[None])
        logits.append(outputs)
    return torch.cat(logits).numpy()


def _feedback(model: WaveRNN, samples: NDArray[Any]) -> Tensor:
    """Returns the previous sample of each step, [T]."""
    values = torch.from_numpy(samples)
    if model.config.label_feedback:
        values = values.long()
    elif isinstance(model.sampler, CategoricalSampler):
        values = model.sampler.values.index_select(0, values.long())
    return torch.cat([_first(model), values[:-1]])


def _first(model: WaveRNN) -> Tensor:
    kind = torch.int64 if model.config.label_feedback else torch.float32
    return torch.full((1,), model.config.first_previous, dtype=kind)


def _numbers(model: WaveRNN, random: np.random.Generator, steps: int) -> NDArray[np.float32]:
    """Returns random numbers for a sampler, [steps, U]."""
    uniform = random.uniform(1e-5, 1 - 1e-5, steps)
    if model.config.output == "categorical":
        return uniform[:, None].astype(np.float32)
    draw = random.logistic if model.config.output == "logistic_mixture" else random.standard_normal
    return np.stack([uniform, draw(size=steps)], axis=1).astype(np.float32)


@torch.inference_mode()
def _conditioning(model: WaveRNN, mel: NDArray[np.float32], hop_length: int) -> Tensor:
    """Returns the expanded conditioning of every step, float32 [T, columns]."""
    rows = model.conditioner(torch.from_numpy(mel)[None])[0].numpy()  # [N + 2 * margin, columns]
    return torch.from_numpy(np.concatenate(list(_expanded(model, rows, hop_length)), axis=1).astype(np.float32))


def _expanded(model: WaveRNN, rows: NDArray[np.float32], hop_length: int) -> Iterator[NDArray[np.floating]]:
    margin, last = model.config.margin, len(rows) - model.config.margin
    frame, position = np.divmod(np.arange((last - margin) * hop_length), hop_length)
    first = 0
    for group in model.config.groups:
        columns = rows[:, first : first + group.columns]
        first += group.columns
        if group.expansion == "held":
            yield columns[frame + margin]
        elif group.expansion == "kernel":
            assert model.upsampling is not None
            taps = model.upsampling[position].astype(np.float64)  # [T, 2 * margin + 1]
            yield np.sum([taps[:, j, None] * columns[frame + j] for j in range(taps.shape[1])], axis=0)
        elif group.name == "mel":  # stretched with its margin, which is then cut off
            yield _stretched(columns, hop_length)[margin * hop_length : last * hop_length]
        else:
            yield _stretched(columns[margin:last], hop_length)


def _stretched(rows: NDArray[np.float32], factor: int) -> NDArray[np.float64]:
    where = np.linspace(0, len(rows) - 1, len(rows) * factor)
    return np.stack([np.interp(where, np.arange(len(rows)), column) for column in rows.T], axis=1)
