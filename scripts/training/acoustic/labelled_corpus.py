"""Reads a corpus of `synthetic_corpus` as phonemes with durations, pitch, energy and mel spectrograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import read_audio
from wavernn_trt.scripts.training.corpus import AUDIO
from wavernn_trt.scripts.training.recipe import RecipeError
from wavernn_trt.scripts.training.synthetic_corpus import DURATION_FRAMES

SILENCE = "_"
"""Symbol of the silence before and after a sentence."""
VOICED = 40.0
"""Hz: frames of a lower f0 are unvoiced."""


@dataclass(frozen=True)
class Utterance:
    """A clip; T frames are those of its N phonemes."""

    symbols: Tensor
    """int64 [N]: numbers in the table of symbols."""
    durations: Tensor
    """int64 [N], frames."""
    f0: Tensor
    """float32 [T], Hz; 0 where unvoiced."""
    pitch: Tensor
    """float32 [N]: mean of log(f0 in Hz) over a phoneme's voiced frames, standardised; 0 where there are none."""
    voicing: Tensor
    """float32 [N]: share of a phoneme's frames that are voiced."""
    energy: Tensor
    """float32 [N]: mean of a phoneme's mel, standardised."""
    mel: Tensor
    """float16 [T, n_mels], from 0 to 1 over the mel's range."""


@dataclass(frozen=True)
class Scales:
    """Means and standard deviations by which pitch and energy are standardised."""

    pitch_mean: float
    pitch_deviation: float
    energy_mean: float
    energy_deviation: float


@dataclass(frozen=True)
class Clip:
    """A clip as it is read."""

    symbols: list[str]
    durations: NDArray[np.int64]
    f0: NDArray[np.float32]
    mel: NDArray[np.float32]
    """[T, n_mels], 0 to 1."""


def symbol_table(paths: Sequence[Path]) -> dict[int, str]:
    """Returns the symbol of each phoneme number in a corpus, from the clips whose symbols all have a number.

    Raises:
        RecipeError: a file has no such labels.
    """
    table = {0: SILENCE}
    for path in paths:
        numbers, phonemes = _labels(path, "ids", "phonemes")
        ids = numbers.tolist()
        text = "".join(f"{SILENCE}{line}{SILENCE}" for line in str(phonemes).split("\n"))
        if len(text) == len(ids):
            table.update((number, symbol) for number, symbol in zip(ids, text, strict=True) if number)
    return table


def read_corpus(folder: Path, table: dict[int, str] | None = None) -> list[Clip]:
    """Reads every clip of a folder of the corpus.

    Raises:
        RecipeError: the folder has no labelled clips, or labels that do not match their audio.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise RecipeError(f"{folder}: found no labelled clips (*.npz), expected training/ of synthetic_corpus's output")
    table = table or symbol_table(paths)
    clips = []
    for path in tqdm(paths, desc=f"reading {folder.name}", unit=" clips"):
        ids, units, f0 = _labels(path, "ids", "durations", "f0")
        unknown = sorted({number for number in ids.tolist() if number not in table})
        if unknown:
            raise RecipeError(f"{path}: no clip of the corpus shows the symbols of the phonemes {unknown}")
        durations = units.astype(np.int64) * DURATION_FRAMES
        mel = _unit_mel(path.with_suffix(".flac"), AUDIO)[: len(f0)]
        if not len(mel) == len(f0) == durations.sum():
            raise RecipeError(
                f"{path}: {durations.sum()} frames of durations, {len(f0)} of f0 and {len(mel)} of speech do not match"
            )
        voiced = np.where(f0 >= VOICED, f0, 0).astype(np.float32)
        clips.append(Clip([table[number] for number in ids.tolist()], durations, voiced, mel))
    return clips


def _labels(path: Path, *names: str) -> list[NDArray[Any]]:
    try:
        with np.load(path) as labels:
            return [labels[name] for name in names]
    except (KeyError, ValueError, EOFError, BadZipFile):
        raise RecipeError(f"{path}: expected labels of synthetic_corpus with {', '.join(names)}") from None


def _unit_mel(path: Path, audio: AudioConfig) -> NDArray[np.float32]:
    signal, rate = read_audio(path)
    if rate != audio.sample_rate:
        raise RecipeError(f"{path}: found {rate} Hz, expected {audio.sample_rate}")
    low, high = audio.mel_range
    mel: NDArray[np.float32] = ((mel_spectrogram(signal, audio).T - low) / (high - low)).clip(0, 1).astype(np.float32)
    return mel


def means_by_phoneme(values: NDArray[np.float32], durations: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns float32 [N]: the means of values [T] over the frames of each phoneme; 0 where there are none."""
    ends = np.cumsum(durations)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    totals = sums[ends] - sums[ends - durations]
    return np.asarray(totals / np.maximum(durations, 1), np.float32)


def measured_scales(clips: Sequence[Clip]) -> Scales:
    """Measures `Scales` over the frames of clips."""
    pitch = np.concatenate([np.log(clip.f0[clip.f0 > 0]) for clip in clips])
    energy = np.concatenate([clip.mel.mean(1) for clip in clips])
    return Scales(float(pitch.mean()), float(pitch.std()), float(energy.mean()), float(energy.std()))


def utterance(clip: Clip, symbols: dict[str, int], scales: Scales) -> Utterance:
    """Prepares a clip for training."""
    voiced = (clip.f0 > 0).astype(np.float32)
    log_f0 = np.log(np.where(clip.f0 > 0, clip.f0, 1)).astype(np.float32)
    share = means_by_phoneme(voiced, clip.durations)
    pitch = means_by_phoneme(log_f0, clip.durations) / np.maximum(share, 1e-6)
    pitch = np.where(share > 0, (pitch - scales.pitch_mean) / scales.pitch_deviation, 0).astype(np.float32)
    energy = (means_by_phoneme(clip.mel.mean(1), clip.durations) - scales.energy_mean) / scales.energy_deviation
    return Utterance(
        torch.tensor([symbols[symbol] for symbol in clip.symbols]),
        torch.from_numpy(clip.durations),
        torch.from_numpy(clip.f0),
        torch.from_numpy(pitch),
        torch.from_numpy(share),
        torch.from_numpy(energy.astype(np.float32)),
        torch.from_numpy(clip.mel).half(),
    )


def batches(utterances: Sequence[Utterance], frames: int, generator: torch.Generator) -> Iterator[list[Utterance]]:
    """Yields batches of similar lengths, at most ``frames`` frames with padding, in a random order, without end."""
    lengths = torch.tensor([len(one.f0) for one in utterances])
    while True:
        order = torch.argsort(lengths * (1 + 0.2 * torch.rand(len(lengths), generator=generator)))
        made: list[list[int]] = [[]]
        longest = 0
        for index in order.tolist():
            longest = max(longest, int(lengths[index]))
            if made[-1] and longest * (len(made[-1]) + 1) > frames:
                made.append([])
                longest = int(lengths[index])
            made[-1].append(index)
        for place in torch.randperm(len(made), generator=generator).tolist():
            yield [utterances[index] for index in made[place]]
