"""Runs other projects' generation loops with given samples, and keeps what they compute."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

HERE = Path(__file__).resolve().parent
ROWS, COLUMNS = 24, 48
"""Of the outputs of the last layer, about: steps and classes that are stored."""
LAST = ("fc3.weight", "fc2.weight")
"""Layers that are made louder: the last one, which must separate the classes."""
SAMPLE_FIRST = ("I.weight", "fc.weight")
"""Layers whose first column reads the sample before."""

BITS = 5
"""Of a weight, its sign not counted."""
COUNTER = 1234
"""What integer tensors hold: steps and batches."""

FRAMES = 4
"""Of the mel given to the vocoder."""
FIRST = 4
"""Frame of the recording's features that it begins with."""
STATE = "$state"
"""Stands for the tensors in a checkpoint's outline."""
OPTIMIZER = {"state": {}, "param_groups": []}
NATURAL = 10.0
"""About the largest value of a natural-log mel."""
RNN, FC, COMPUTE, AUX, BLOCKS = 24, 16, 16, 16, 2
"""Layer widths of the small networks."""

Array = NDArray[Any]
Outputs = Iterator[tuple[str, dict[str, Any]]]
PROJECTS: dict[str, Callable[[Path], Outputs]] = {}


def project(function: Callable[[Path], Outputs]) -> Callable[[Path], Outputs]:
    """Registers a function that yields (preset, arrays and facts to store)."""
    PROJECTS[function.__name__.replace("_", "-")] = function
    return function


def old_libraries() -> None:
    """Gives numpy, librosa and torch the names and defaults that these projects were written for, and no GPU."""
    for name, value in {"int": int, "complex": complex, "cumproduct": np.cumprod}.items():
        setattr(np, name, value)
    stft, mel, melspectrogram = librosa.stft, librosa.filters.mel, librosa.feature.melspectrogram

    def filters(sr: float, n_fft: int, *args: Any, **options: Any) -> Array:
        return mel(sr=sr, n_fft=n_fft, **options)  # positional until librosa 0.10

    librosa.stft = lambda *args, **options: stft(
        *args, **{"pad_mode": "reflect", **options}
    )  # the default until librosa 0.10
    librosa.filters.mel = filters
    librosa.feature.melspectrogram = lambda y=None, **options: melspectrogram(
        y=y, **({} if y is None else {"pad_mode": "reflect"}), **options
    )
    torch.Tensor.cuda = lambda self, *args, **options: self
    nn.Module.cuda = lambda self, *args, **options: self


def stand_in(name: str, **members: Any) -> None:
    """A module for an import that nothing here runs."""
    module = ModuleType(name)
    for member, value in members.items():
        setattr(module, member, value)
    sys.modules[name] = module


def recording(rate: int, seconds: float = 0.14) -> Array:
    """Silence, harmonics with noise, silence: float32 on a 16-bit grid, loud enough to reach both ends of a range."""
    count = round(rate * seconds)
    time = np.arange(count) / rate
    voice = sum(np.sin(2 * np.pi * 140 * k * time + k * k) / k for k in range(1, 25))
    noise = np.random.default_rng(count).standard_normal(count)
    loudness = np.clip(np.minimum(time - 0.2 * seconds, 0.8 * seconds - time) * 60, 0, 1)
    return (np.round((0.22 * voice + 0.03 * noise) * loudness * 32767) / 32768).astype(np.float32)


def give_weights(model: nn.Module, seed: int, loudest: float = 1.0) -> None:
    """Random weights, half of them zero, each tensor of at most 65 values; statistics as training would leave them.

    ``loudest``: about the largest value of a mel, which the layers that read it are made quieter by.
    """
    random = np.random.default_rng(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            value.fill_(COUNTER)
            continue
        shape = tuple(value.shape)
        if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            new = random.uniform(0.5, 1.5, shape)
        elif value.dim() == 1:
            new = random.normal(0, 0.2, shape)
        elif value.dim() == 4:  # upsampling kernels: near the mean that they start from, not symmetric
            new = random.uniform(0, 2, shape) / shape[3]
        else:
            new = random.normal(0, 2.0 / math.sqrt(math.prod(shape[1:])), shape) * random.integers(0, 2, shape)
            if name in SAMPLE_FIRST:
                new[:, 0] *= 4
                new[:, 1:] /= loudest
            elif "conv_in" in name or "melresnet_model.0" in name or name.startswith("rnn1.weight_ih_l0"):
                new /= loudest
            new *= 1.5 if name in LAST else 1
        step = 2.0 ** _exponent(new)
        value.copy_(torch.from_numpy(np.round(new / step) * step))
    model.eval()


class Recorder:
    """Feeds given samples to a generation loop and keeps what the loop computes."""

    def __init__(self, model: nn.Module, samples: Array) -> None:
        """``samples``: labels, or values in [-1, 1]; one is emitted a step."""
        self.samples = samples
        self.logits: list[Array] = []
        self.previous: list[Array] = []
        self.draws: list[tuple[int, float, float]] = []
        last = model.fc3 if hasattr(model, "fc3") else model.fc2
        first = next(getattr(model, name) for name in ("embedding", "I", "fc") if hasattr(model, name))
        last.register_forward_hook(lambda module, inputs, output: self.logits.append(output.numpy().reshape(-1)))
        first.register_forward_pre_hook(lambda module, inputs: self.previous.append(inputs[0].numpy().reshape(-1)[0]))

    @property
    def step(self) -> int:
        return len(self.logits) - 1

    @contextlib.contextmanager
    def forcing(self) -> Iterator[None]:
        """Torch's distributions draw the given samples."""
        kinds = torch.distributions
        draws = {
            kinds.Categorical: lambda this: torch.tensor([int(self.samples[self.step])]),
            kinds.Normal: lambda this: torch.full_like(this.loc, float(self.samples[self.step])),
            kinds.Beta: lambda this: torch.full_like(this.mean, (float(self.samples[self.step]) + 1) / 2),
        }
        originals, multinomial = {kind: kind.sample for kind in draws}, torch.multinomial
        torch.multinomial = lambda *args: torch.tensor([[int(self.samples[self.step])]])
        for kind, draw in draws.items():
            kind.sample = draw
        try:
            yield
        finally:
            torch.multinomial = multinomial
            for kind, sample in originals.items():
                kind.sample = sample

    def forcing_mixture(self, sampler: Callable[..., Any]) -> Callable[..., Any]:
        """A mixture's sampler that notes what the project's own draws, and emits the given value."""

        def replaced(outputs: Any, *args: Any) -> Any:
            noise = np.random.default_rng(self.step).uniform(1e-5, 1 - 1e-5, 11).astype(np.float32)
            rest = [noise[:10], noise[10:]]
            uniform = torch.Tensor.uniform_
            torch.Tensor.uniform_ = lambda this, *limits: this.copy_(torch.from_numpy(rest.pop(0)).reshape(this.shape))
            try:
                value = sampler(outputs, *args)
            finally:
                torch.Tensor.uniform_ = uniform
            weights = self.logits[-1][:10].astype(np.float64) - np.log(-np.log(noise[:10].astype(np.float64)))
            deviate = float(np.log(noise[10]) - np.log(1 - noise[10]))
            self.draws.append((int(weights.argmax()), deviate, float(value)))
            return torch.full_like(value, float(self.samples[self.step]))

        return replaced

    def outputs(self) -> dict[str, Any]:
        """Arrays to store."""
        logits = np.stack(self.logits)
        rows = np.arange(0, len(logits), max(1, len(logits) // ROWS))
        columns = np.arange(0, logits.shape[1], max(1, logits.shape[1] // COLUMNS))
        arrays: dict[str, Any] = {
            "previous": np.array(self.previous),
            "samples": self.samples.astype(np.int16 if self.samples.dtype.kind == "i" else np.float32),
            "rows": rows.astype(np.int16),
            "columns": columns.astype(np.int16),
            "logits": logits[rows][:, columns],
        }
        if self.samples.dtype.kind == "i":  # previous follows from the labels, up to rounding: one value a label
            values, where = np.unique(arrays["previous"], return_inverse=True)
            arrays |= {"previous": where.astype(np.int16), "previous_values": values}
        if self.draws:
            draws = [self.draws[i] for i in rows]
            for i, name in enumerate(("drawn_component", "drawn_deviate", "drawn_value")):
                arrays[name] = np.array([draw[i] for draw in draws])
        return arrays


def labels_of(classes: int, steps: int) -> Array:
    """Labels that wander over all classes."""
    walk = np.cumsum(np.random.default_rng(classes).normal(0, classes / 24, steps)) / classes
    return np.round((classes - 1) * (0.5 - 0.5 * np.cos(2 * np.pi * (walk + 0.25)))).astype(np.int64)


def values_of(steps: int) -> Array:
    """Amplitudes in [-1, 1]."""
    return (labels_of(512, steps) / np.float32(255.5) - 1).astype(np.float32)


@contextlib.contextmanager
def no_fade() -> Iterator[None]:
    """numpy.linspace(1, 0, n), these projects' fade at the end, is 1: it raises below 21 frames and is no coding."""
    linspace = np.linspace
    np.linspace = lambda a, b, *rest, **options: np.ones(1) if (a, b) == (1, 0) else linspace(a, b, *rest, **options)
    try:
        yield
    finally:
        np.linspace = linspace


def save(name: str, values: Mapping[str, Any]) -> None:
    """Writes a preset's file: arrays, and everything else as JSON in ``facts``.

    The tensors of ``model`` stand one after another in ``weights``, as multiples of ``2 ** exponent``; ``tensors`` in
    the facts lists (name, shape, exponent), and a counter's value in place of the exponent where the shape is empty.
    """
    arrays, facts, weights = {}, {}, []
    for key, value in values.items():
        if isinstance(value, nn.Module):
            facts["tensors"] = []
            for tensor, content in value.state_dict().items():
                numbers = content.numpy()
                if numbers.dtype.kind == "i":
                    facts["tensors"].append((tensor, list(numbers.shape), None))
                    continue
                exponent = _exponent(numbers)
                weights.append(np.round(numbers.ravel() / 2.0**exponent).astype(np.int8))
                assert np.array_equal(weights[-1] * 2.0**exponent, numbers.ravel()), tensor
                facts["tensors"].append((tensor, list(numbers.shape), exponent))
        elif isinstance(value, np.ndarray):
            kind = np.int16 if key == "labels" else np.float32 if value.dtype == np.float64 else value.dtype
            arrays[key] = value.astype(kind)
        else:
            facts[key] = value
    arrays["weights"] = np.concatenate(weights)
    if "recording" in arrays:
        arrays["recording"] = np.round(arrays["recording"] * 32768).astype(np.int16)
    np.savez_compressed(HERE / f"{name}.npz", facts=np.array(json.dumps(facts)), **arrays)
    size, spread = (HERE / f"{name}.npz").stat().st_size / 1000, arrays["logits"].std(axis=1).mean()
    print(f"\n{name}: {size:.1f} kB, standard deviation of the last layer {spread:.2f}")


def _exponent(values: Array) -> int:
    return math.ceil(math.log2(np.abs(values).max())) - BITS


def literals(settings: Mapping[str, Any]) -> str:
    """Settings as the assignments of a Python module."""
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def arguments(call: str, settings: Mapping[str, Any]) -> str:
    """Settings as the keyword arguments of a call."""
    return f"hparams = {call}(\n" + "".join(f"    {name}={value!r},\n" for name, value in settings.items()) + ")\n"


def plain(module: Any) -> dict[str, Any]:
    """The settings among an object's attributes: numbers, strings and lists of them."""
    allowed = (bool, int, float, str, tuple, list, type(None))
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and isinstance(v, allowed)}


def padded(mel: Array, frames: int = 2) -> Array:
    """A mel with frames of zeros on both sides, for loops that do not add them."""
    return np.pad(mel, ((0, 0), (frames, frames)))


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"settings_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_forced(module: Any, model: nn.Module, mel: Array, hop: int, generate: Callable[..., Any]) -> dict[str, Any]:
    """Generation with forced samples; ``generate`` is given a mel tensor [1, n_mels, frames]."""
    outputs: int = model.fc3.out_features
    steps = FRAMES * hop
    recorder = Recorder(model, values_of(steps) if outputs == 30 else labels_of(outputs, steps))
    if outputs == 30:
        name = "sample_from_discretized_mix_logistic"
        setattr(module, name, recorder.forcing_mixture(getattr(module, name)))
    with recorder.forcing(), no_fade(), torch.no_grad():
        waveform = generate(torch.from_numpy(np.ascontiguousarray(mel, dtype=np.float32))[None])
    return {"model": model, **recorder.outputs(), "waveform": np.asarray(waveform)}
