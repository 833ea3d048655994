"""From a folder of recordings to batches of mel windows and labels, for `train_voice`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime import mu_law
from wavernn_trt.runtime.features import mel_spectrogram, pre_emphasis

AUDIO = AudioConfig(
    sample_rate=16000,
    hop_length=200,
    win_length=800,
    n_fft=2048,
    n_mels=80,
    fmin=50.0,
    preemphasis=0.97,
    reference_db=20.0,
    min_level_db=-80.0,
    mel_range=(-1.0, 0.0),
    clip_high=False,
    waveform_preemphasis=0.85,
    peak=0.7,
    delay=100,
)
"""univoc's features; frame t, centred on sample 200 t, conditions samples 200 t - 100 to 200 t + 99."""
SHORTEST = 1.0
"""Seconds; a window with its context has to fit."""


class CorpusError(ValueError):
    """Recordings that cannot be trained on: says what was found and what was expected."""


@dataclass(frozen=True)
class Recording:
    """One recording, ready to train on."""

    name: str
    labels: Tensor
    """int64 [frames * hop_length]: mu-law labels of the pre-emphasised waveform, ``AUDIO.delay`` samples late."""
    mel: Tensor
    """float32 [frames, n_mels]."""
    silence: int
    """The label of 0, which also stands before the first."""


def mu_law_labels(waveform: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """round((sign(y) ln(1 + mu |y|) / ln(1 + mu) + 1) / 2 * mu) with mu = 2^bits - 1; silence is 2^(bits-1)."""
    mu = 2**bits - 1
    limited = np.clip(waveform, -1, 1)
    return np.asarray(np.floor((mu_law.compress(limited, mu) + 1) / 2 * mu + 0.5), dtype=np.int64)


def prepare(name: str, signal: NDArray[np.float64], rate: float, gain: float, bits: int) -> Recording:
    """Resamples a recording, scales its peak to ``AUDIO.peak * gain`` and takes its labels and features."""
    signal = soxr.resample(signal, rate, AUDIO.sample_rate)
    signal = signal * (gain * (AUDIO.peak or 1.0) / max(float(np.abs(signal).max(initial=0.0)), 1e-9))
    mel = mel_spectrogram(signal.astype(np.float32), AUDIO).T  # [frames, n_mels]
    labels = np.full(len(mel) * AUDIO.hop_length, 2 ** (bits - 1), dtype=np.int64)
    spoken = mu_law_labels(pre_emphasis(signal, AUDIO.waveform_preemphasis), bits)[: len(labels) - AUDIO.delay]
    labels[AUDIO.delay : AUDIO.delay + len(spoken)] = spoken
    return Recording(name, torch.from_numpy(labels), torch.from_numpy(np.ascontiguousarray(mel)), 2 ** (bits - 1))


Clips = dict[str, tuple[NDArray[np.float64], int]]
"""File name without suffix -> (mono signal, sample rate)."""


def read_folder(folder: Path) -> Clips:
    """Every FLAC and WAV file of a folder.

    Raises:
        CorpusError: fewer than two files (one to train on, one to keep out), or one too short or not readable.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".flac", ".wav") and path.is_file())
    if len(paths) < 2:
        raise CorpusError(f"{folder}: found {len(paths)} FLAC or WAV files, expected at least 2 recordings of speech")
    clips = {}
    for path in paths:
        try:
            signal, rate = soundfile.read(path, dtype="float64", always_2d=True)
        except RuntimeError as error:  # libsndfile's errors are RuntimeErrors
            reason = getattr(error, "error_string", error)
            raise CorpusError(f"{path}: not a recording that can be read ({reason}); move it away") from None
        if len(signal) < SHORTEST * rate:
            raise CorpusError(f"{path}: {len(signal) / rate:.2f} s, expected at least {SHORTEST} s")
        clips[path.stem] = (signal.mean(axis=1), int(rate))
    return clips


def split(names: Sequence[str], keep_out: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(training names, kept-out names); the last eighth is kept out where nothing else is asked for."""
    kept = list(keep_out) if keep_out is not None else sorted(names)[-math.ceil(len(names) / 8) :]
    unknown = sorted(set(kept) - set(names))
    if unknown:
        raise CorpusError(f"--keep-out {unknown[0]}: no such clip; the folder has {', '.join(sorted(names))}")
    training = sorted(set(names) - set(kept))
    if not training or not kept:
        raise CorpusError(f"{len(training)} clips to train on and {len(kept)} kept out: both need at least one")
    return training, sorted(kept)


def altered(name: str, signal: NDArray[np.float64], rate: int, bits: int, rng: torch.Generator) -> Recording:
    """A copy whose speed and pitch differ by up to 8 %, up to 5 dB quieter."""
    speed, decibels = (torch.rand(2, generator=rng) * torch.tensor([0.16, -5]) + torch.tensor([0.92, 0])).tolist()
    return prepare(name, signal, rate * speed, 10 ** (decibels / 20), bits)


Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""mel, window, previous labels, labels, and float [B]: 0 where a row starts afresh, 1 where its state goes on."""


def window_of(recording: Recording, start: int, frames: int, context: int) -> tuple[Tensor, ...]:
    """One row of a `Batch`, without its last entry.

    At a recording's ends the context moves inward instead of being padded: the bidirectional GRU then starts on the
    first frame, as it does in synthesis.
    """
    hop, wide = AUDIO.hop_length, frames + 2 * context
    first = min(max(start - context, 0), len(recording.mel) - wide)
    labels = recording.labels[start * hop : (start + frames) * hop]
    before = recording.labels[start * hop - 1] if start else torch.tensor(recording.silence)
    previous = torch.cat([before[None], labels[:-1]])
    return recording.mel[first : first + wide], torch.arange(start - first, start - first + frames), previous, labels


def batches(
    originals: list[Recording],
    variants: list[Recording],
    rows: int,
    frames: int,
    context: int,
    rng: torch.Generator,
) -> Iterator[Batch]:
    """Endless batches, in which every row walks through one recording after another.

    Args:
        originals: drawn in proportion to their lengths.
        variants: altered copies, which are every second draw; may be empty.
        rows: recordings walked through at the same time.
        frames: length of a window.
        context: frames of the mel on each side of it.
        rng: decides what is drawn.
    """

    def draw() -> Recording:
        pool = variants if variants and torch.rand((), generator=rng) < 0.5 else originals
        lengths = torch.tensor([float(len(recording.mel)) for recording in pool])
        return pool[int(torch.multinomial(lengths, 1, generator=rng))]

    def random_start(below: int) -> int:
        return int(torch.randint(below, (), generator=rng))

    walks = [draw() for _ in range(rows)]
    starts = [random_start(len(walk.mel) - frames + 1) for walk in walks]
    going_on = [0.0] * rows
    while True:
        windows = [window_of(*walk, frames, context) for walk in zip(walks, starts, strict=True)]
        mel, window, previous, labels = (torch.stack(column) for column in zip(*windows, strict=True))
        yield mel, window, previous, labels, torch.tensor(going_on)
        for row in range(rows):
            starts[row] += frames
            going_on[row] = 1.0
            if starts[row] + frames > len(walks[row].mel):
                walks[row], starts[row], going_on[row] = draw(), random_start(frames), 0.0
