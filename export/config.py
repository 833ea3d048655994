"""The configuration of a model: family, sizes and audio settings.

These classes are the contents of a model directory's ``config.json``. They need neither torch nor ONNX, so that every
other folder can import them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

SCHEMA_VERSION = 2
"""Version of ``config.json``. Version 1, which has no ``label_scale``, is read as well; other versions are refused."""

Family = Literal["univoc", "fatchord", "torchaudio", "coqui", "turian"]
"""The project whose checkpoint layout and conventions a model follows."""

Output = Literal["categorical", "logistic_mixture", "gaussian"]
"""The distribution of the last layer: class logits, a mixture of logistics, or one Gaussian."""

Expansion = Literal["held", "kernel", "linear"]
"""How a group of conditioning columns is expanded from frames to samples.

``held``: the frame's row, for each of its ``hop_length`` samples. ``kernel``: a weighted sum of the frame's row and its
neighbours, one set of weights for each position inside a frame. ``linear``: interpolation between the two nearest rows
over the whole utterance, first sample on the first row and last sample on the last.
"""

LabelScale = Literal["symmetric", "librosa"]
"""The companded value of label k of C classes.

``symmetric``: 2k/(C - 1) - 1. ``librosa``: (k - C/2) 2/C, whose middle label is exact silence (`librosa.mu_expand`).
"""

LONGEST_HOP = 8192
"""Samples; larger than any vocoder's hop, and a limit on the memory that a wrong setting can allocate."""
LONGEST_TRANSFORM = 1 << 17
"""Samples, likewise."""

FAMILIES: tuple[Family, ...] = get_args(Family)


class ConfigError(ValueError):
    """An invalid value in a JSON file: the field, the found value and the expected one."""


@dataclass(frozen=True)
class AudioConfig:
    """The conversion of waveforms to the mel spectrograms of a model's training, and properties of its output."""

    sample_rate: int
    """Hz."""
    hop_length: int
    """Samples between the centres of neighbouring frames."""
    win_length: int
    """Samples under the Hann window."""
    n_fft: int
    """Samples in a Fourier transform; the window is centred in it."""
    n_mels: int = 80
    """Mel bins, on Slaney's scale."""
    mel_norm: Literal["slaney", "sum"] = "slaney"
    """``slaney``: each filter has unit area over Hz. ``sum``: each filter's weights add up to one (librosa's ``norm=1``
    since 0.8), which is some 18 dB more at 16 kHz and 2048 points."""
    stft: Literal["centred", "lws"] = "centred"
    """``centred``: periodic Hann window, frame t centred on sample t * hop_length. ``lws``: window and frames of the
    package lws, whose frame t is centred on sample t * hop_length + hop_length - n_fft / 2 (G-Wang)."""
    fmin: float = 0.0
    """Hz, lower edge of the first mel filter."""
    fmax: float | None = None
    """Hz, upper edge of the last mel filter; ``None`` is half the sample rate."""
    pad_mode: Literal["constant", "reflect"] = "constant"
    """Padding of ``n_fft / 2`` samples at both ends, so that frame t is centred on sample t * hop_length."""
    preemphasis: float = 0.0
    """Coefficient a of y[n] = x[n] - a x[n-1], applied before the features only; 0 is off."""
    log: Literal["decibel", "natural"] = "decibel"
    """``decibel``: 20 log10 of the magnitude, then mapped by the fields below. ``natural``: ln, not mapped."""
    floor: float = 1e-5
    """Smallest magnitude before the logarithm; 1e-5 is -100 dB."""
    reference_db: float = 0.0
    """Decibels subtracted from the log-mel before it is mapped to ``mel_range``."""
    min_level_db: float = -100.0
    """The level, after ``reference_db``, that maps to the lower end of ``mel_range``; 0 dB maps to the upper."""
    mel_range: tuple[float, float] = (0.0, 1.0)
    """The model's values of its lowest and highest level."""
    clip_high: bool = True
    """Whether levels over the upper end of ``mel_range`` are clipped to it."""
    clip_low: bool = True
    """Whether levels below the lower end are clipped to it."""
    waveform_preemphasis: float = 0.0
    """Coefficient of the pre-emphasis that the *predicted* waveform carries, undone after decoding; 0 is none."""
    peak: float | None = None
    """Peak to which a recording is scaled before features are taken from it; ``None`` leaves the level alone."""
    delay: int = 0
    """Output sample i corresponds to sample i - delay of the mel's recording."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "hop_length", "win_length", "n_fft", "n_mels"):
            require(getattr(self, name) > 0, f"audio.{name}", getattr(self, name), "a positive integer")
        require(self.mel_norm in ("slaney", "sum"), "audio.mel_norm", self.mel_norm, "slaney or sum")
        require(self.pad_mode in ("constant", "reflect"), "audio.pad_mode", self.pad_mode, "constant or reflect")
        require(self.stft in ("centred", "lws"), "audio.stft", self.stft, "centred or lws")
        require(self.log in ("decibel", "natural"), "audio.log", self.log, "decibel or natural")
        require(len(self.mel_range) == 2, "audio.mel_range", self.mel_range, "(low, high)")
        require(self.hop_length <= LONGEST_HOP, "audio.hop_length", self.hop_length, f"at most {LONGEST_HOP}")
        require(self.n_fft <= LONGEST_TRANSFORM, "audio.n_fft", self.n_fft, f"at most {LONGEST_TRANSFORM}")
        nyquist = self.sample_rate / 2
        top = nyquist if self.fmax is None else self.fmax
        require(0 <= self.fmin < top, "audio.fmin", self.fmin, f"at least 0 and below fmax ({top:g})")
        require(top <= nyquist, "audio.fmax", self.fmax, f"at most half the sample rate ({nyquist:g})")
        require(self.peak is None or 0 < self.peak <= 1, "audio.peak", self.peak, "above 0 and at most 1")
        require(self.win_length <= self.n_fft, "audio.win_length", self.win_length, f"at most n_fft ({self.n_fft})")
        require(self.min_level_db < 0, "audio.min_level_db", self.min_level_db, "a negative level")
        require(self.mel_range[0] < self.mel_range[1], "audio.mel_range", self.mel_range, "(low, high) with low < high")
        require(0 < self.floor < 1, "audio.floor", self.floor, "above 0 and below 1")
        require(0 <= self.preemphasis < 1, "audio.preemphasis", self.preemphasis, "at least 0 and below 1")
        require(
            0 <= self.waveform_preemphasis < 1,
            "audio.waveform_preemphasis",
            self.waveform_preemphasis,
            "at least 0 and below 1",
        )


@dataclass(frozen=True)
class ColumnGroup:
    """Neighbouring columns of the conditioning with the same expansion."""

    name: str
    """Source of the columns: ``mel`` or ``aux``."""
    columns: int
    expansion: Expansion


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and conventions of one WaveRNN."""

    family: Family
    output: Output
    outputs: int
    """Width of the last layer: classes, or 30 for ten logistics, or 2 for a Gaussian."""
    hidden_size: int
    """Units of each recurrent layer of the decoder."""
    input_sizes: tuple[int, ...]
    """Width of the input of each recurrent layer as trained, the conditioning not counted."""
    fc_sizes: tuple[int, ...]
    """Widths of the hidden fully connected layers."""
    groups: tuple[ColumnGroup, ...]
    """The conditioning's column groups, in column order."""
    margin: int = 0
    """Rows of conditioning before frame 0, and as many behind the last frame."""
    mu_law: bool = False
    """Whether classes are mu-law companded amplitudes."""
    label_scale: LabelScale = "symmetric"
    amplitude_feedback: bool = False
    """Whether a step reads the previous sample's amplitude instead of its companded value (G-Wang's mu-law)."""
    temperature: float = 1.0
    """Divides the logits; folded into the last layer when the checkpoint is read."""

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, "model.family", self.family, f"one of {', '.join(FAMILIES)}")
        require(self.output in get_args(Output), "model.output", self.output, f"one of {', '.join(get_args(Output))}")
        require(self.hidden_size > 0, "model.hidden_size", self.hidden_size, "a positive integer")
        require(self.margin >= 0, "model.margin", self.margin, "at least 0")
        require(bool(self.groups), "model.groups", self.groups, "at least one group")
        for group in self.groups:
            require(group.columns > 0, "model.groups.columns", group.columns, "a positive integer")
            known = ", ".join(get_args(Expansion))
            require(
                group.expansion in get_args(Expansion), "model.groups.expansion", group.expansion, f"one of {known}"
            )
        for name, sizes in (("input_sizes", self.input_sizes), ("fc_sizes", self.fc_sizes)):
            require(all(isinstance(n, int) and n > 0 for n in sizes), f"model.{name}", sizes, "positive integers")
        scales = get_args(LabelScale)
        require(self.label_scale in scales, "model.label_scale", self.label_scale, f"one of {', '.join(scales)}")
        require(
            not self.amplitude_feedback or (self.mu_law and not self.label_feedback),
            "model.amplitude_feedback",
            self.amplitude_feedback,
            "False: only mu-law classes that are fed back as numbers can be fed back as amplitudes",
        )
        require(self.outputs >= 2, "model.outputs", self.outputs, "at least 2")
        require(len(self.input_sizes) in (1, 2), "model.input_sizes", self.input_sizes, "one or two recurrent layers")
        require(
            math.isfinite(self.temperature) and self.temperature > 0,
            "model.temperature",
            self.temperature,
            "a positive number",
        )

    @property
    def layers(self) -> int:
        """Recurrent layers of the decoder."""
        return len(self.input_sizes)

    @property
    def columns(self) -> int:
        """Columns of the conditioning."""
        return sum(group.columns for group in self.groups)

    @property
    def interpolated(self) -> int:
        """Number of column groups that are not held."""
        return sum(group.expansion != "held" for group in self.groups)

    @property
    def uniforms(self) -> int:
        """Random numbers drawn for a sample: one chooses a class, a mixture takes two."""
        return 1 if self.output == "categorical" else 2

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per sample, and weights read for it: recurrent and fully connected products.

        The embedding is a table lookup, and the conditioning's products are computed once per frame.
        """
        recurrent = 3 * self.hidden_size**2 * (2 * self.layers - 1)  # a second layer also has an input product
        widths = [self.hidden_size, *self.fc_sizes, self.outputs]
        return recurrent + sum(a * b for a, b in itertools.pairwise(widths))

    @property
    def label_feedback(self) -> bool:
        """Whether the previous sample is fed back as a label; else as a value in [-1, 1]."""
        return self.family == "univoc"

    @property
    def first_previous(self) -> float:
        """The input in place of a previous sample at the first step: univoc's middle label, or silence."""
        return float(self.outputs // 2) if self.label_feedback else 0.0


def require(condition: bool, field: str, found: object, expected: str) -> None:
    """Raises a `ConfigError` with the field, the found and the expected value unless a condition holds."""
    if not condition:
        raise refused(field, found, expected)


def refused(field: str, found: object, expected: str) -> ConfigError:
    """Returns the error of a field's value, with the found value shortened to a line."""
    text = repr(found)
    return ConfigError(f"{field}: found {text if len(text) <= 70 else text[:67] + '...'}, expected {expected}")
