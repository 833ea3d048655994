"""Reads a folder of recordings and cuts batches of mel windows and labels from it, for `train`."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.copy_synthesis import SILENT_PEAK
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram, pre_emphasis
from wavernn_trt.runtime.files.audio import read_audio
from wavernn_trt.runtime.files.input_files import find_files
from wavernn_trt.runtime.sample_coding import mu_law_compress

logger = logging.getLogger(__name__)

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
"""univoc's features. Frame t is centred on sample 200 t, and conditions samples 200 t - 100 to 200 t + 99."""
SHORTEST = 1.0
"""Smallest length of a recording in seconds; a window with its context has to fit."""


class CorpusError(ValueError):
    """Recordings that cannot be used for training."""


@dataclass(frozen=True)
class Recording:
    """A recording, prepared for training."""

    name: str
    labels: Tensor
    """int16 [frames * hop_length]: mu-law labels of the pre-emphasised waveform, delayed by ``AUDIO.delay``."""
    mel: Tensor
    """float32 [frames, n_mels]."""
    silence: int
    """Label of the value 0, also used before the first sample."""


def mu_law_labels(waveform: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """Computes round((sign(y) ln(1 + mu |y|) / ln(1 + mu) + 1) / 2 * mu), mu = 2^bits - 1; 0 becomes 2^(bits-1)."""
    mu = 2**bits - 1
    limited = np.clip(waveform, -1, 1)
    return np.asarray(np.floor((mu_law_compress(limited, mu) + 1) / 2 * mu + 0.5), dtype=np.int64)


def prepare(name: str, recording: NDArray[np.floating], rate: float, gain: float, bits: int) -> Recording:
    """Resamples a recording, scales its peak to ``AUDIO.peak * gain`` and computes its labels and features."""
    signal: NDArray[np.float64] = soxr.resample(np.asarray(recording, np.float64), rate, AUDIO.sample_rate)
    signal = signal * (gain * (AUDIO.peak or 1.0) / max(float(np.abs(signal).max(initial=0.0)), 1e-9))
    mel = mel_spectrogram(signal.astype(np.float32), AUDIO).T  # [frames, n_mels]
    labels = np.full(len(mel) * AUDIO.hop_length, 2 ** (bits - 1), dtype=np.int64)
    speech = mu_law_labels(pre_emphasis(signal, AUDIO.waveform_preemphasis), bits)[: len(labels) - AUDIO.delay]
    labels[AUDIO.delay : AUDIO.delay + len(speech)] = speech
    return Recording(
        name, torch.from_numpy(labels).short(), torch.from_numpy(np.ascontiguousarray(mel)), 2 ** (bits - 1)
    )


Clips = dict[str, tuple[NDArray[np.float32], int]]
"""File name without suffix -> (mono signal, sample rate in Hz)."""


def read_folder(folder: Path) -> Clips:
    """Reads the recordings of a folder, not of its subfolders; logs which files are left out.

    Raises:
        CorpusError: no such folder, fewer than two files (one to train on, one to keep out), or one that is not
            readable, too short, silent, or of another's name.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    paths, left_out = find_files(folder, mels=False, beneath=False)
    if len(paths) < 2:
        others = f"; {left_out.summary()}" if left_out else ""
        raise CorpusError(f"{folder}: found {len(paths)} recordings, expected at least 2 of speech{others}")
    if left_out:
        logger.warning("%s: %s", folder, left_out.summary())
    clips: Clips = {}
    for path in paths:
        try:
            signal, rate = read_audio(path)
        except VocoderError as error:
            raise CorpusError(f"{error}; move it away") from None
        if len(signal) < SHORTEST * rate:
            raise CorpusError(f"{path}: {len(signal) / rate:.2f} s, expected at least {SHORTEST} s")
        if np.abs(signal).max() < SILENT_PEAK:
            raise CorpusError(f"{path}: found silence, expected speech; move it away")
        if path.stem in clips:
            raise CorpusError(f"{path}: found another recording of that name with another suffix; move one away")
        clips[path.stem] = (signal, rate)
    return clips


def split(folders: Sequence[Clips], keep_out: Sequence[str] | None) -> tuple[list[list[str]], list[list[str]]]:
    """Returns each folder's names to train on, and those to keep out; ``None`` keeps out the last eighth of each.

    Raises:
        CorpusError: a name is in two folders or in none, or nothing is left to train on or to keep out in a folder.
    """
    names = [name for clips in folders for name in clips]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CorpusError(f"{twice[0]}: found in two folders, expected different names")
    unknown = sorted(set(keep_out or ()) - set(names))
    if unknown:
        raise CorpusError(f"--keep-out {unknown[0]}: no such clip; the folder has {_listed(names)}")
    training, kept_out = [], []
    for clips in folders:
        kept = sorted(clips)[-math.ceil(len(clips) / 8) :] if keep_out is None else sorted({*keep_out} & {*clips})
        kept_out.append(kept)
        training.append(sorted(set(clips) - set(kept)))
        if not training[-1] or not kept:
            raise CorpusError(
                f"{_listed(clips)}: {len(training[-1])} clips to train on and {len(kept)} kept out: both need at least "
                "one"
            )
    return training, kept_out


def _listed(names: Iterable[str], most: int = 12) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


@dataclass(frozen=True)
class Windows:
    """A batch of windows of recordings, one per row."""

    mel: Tensor
    """float32 [B, N + 2 * context, n_mels]. At the ends of a recording the window is shifted inward, not padded: the
    conditioning GRU starts on the first frame, as in synthesis."""
    frames: Tensor
    """int64 [B, N]: indices of the frames that condition the samples."""
    previous: Tensor
    """int64 [N * hop_length, B]: the label before each sample."""
    labels: Tensor
    """int64 [N * hop_length, B]: the label of each sample."""


class Corpus:
    """All recordings in one tensor on a device, to cut windows from."""

    def __init__(self, recordings: Sequence[Recording], device: torch.device) -> None:
        self.frames = torch.tensor([len(recording.mel) for recording in recordings], device=device)
        """int64 [recordings]: lengths in frames."""
        self.shortest = min(len(recording.mel) for recording in recordings)
        self._first = self.frames.cumsum(0) - self.frames
        self._mel = torch.cat([recording.mel for recording in recordings]).to(device)
        self._labels = torch.cat([recording.labels for recording in recordings]).to(device)
        self._silence = recordings[0].silence

    def windows(self, which: Tensor, start: Tensor, frames: int, context: int) -> Windows:
        """Cuts a batch.

        Args:
            which: int64 [B], indices of recordings.
            start: int64 [B], the first frame of each window.
            frames: N, length of a window.
            context: frames of the mel on each side of a window.

        Raises:
            CorpusError: a window with its context is longer than a recording.
        """
        hop, wide = AUDIO.hop_length, frames + 2 * context
        if wide > self.shortest:
            raise CorpusError(f"windows of {frames} frames and {context} on each side: a recording has {self.shortest}")
        first = (start - context).clamp(min=0).minimum(self.frames[which] - wide)
        ramp = torch.arange(max(wide, frames * hop + 1), device=start.device)
        mel = self._mel[(self._first[which] + first)[:, None] + ramp[:wide]]
        places = (self._first[which] + start) * hop - 1 + ramp[: frames * hop + 1, None]  # [N * hop + 1, B]
        labels = self._labels[places.clamp(min=0)].long()
        labels[0] = torch.where(start == 0, self._silence, labels[0])
        return Windows(mel, (start - first)[:, None] + ramp[:frames], labels[:-1], labels[1:])

    def pieces(self, frames: int) -> tuple[Tensor, Tensor]:
        """Returns the recording and the first frame of each whole piece of that length."""
        starts = [torch.arange(0, int(n) - frames + 1, frames, device=self.frames.device) for n in self.frames]
        return torch.cat([torch.full_like(s, i) for i, s in enumerate(starts)]), torch.cat(starts)


def sampling_weights(corpus: Corpus, groups: Sequence[tuple[int, float]]) -> Tensor:
    """Returns weights to draw recordings with, so that every second of a group is equally frequent.

    Args:
        corpus: the groups' recordings, one group after another.
        groups: number of recordings, and share of the training data, of each.
    """
    counts, shares = zip(*groups, strict=True)
    weights = corpus.frames.double().cpu()
    for group, share in zip(weights.split(list(counts)), shares, strict=True):
        group *= share / group.sum()
    return weights


def walk(
    corpus: Corpus, weights: Tensor, rows: int, frames: int, context: int, rng: torch.Generator
) -> Iterator[tuple[Windows, Tensor]]:
    """Yields batches without end; each row goes through one recording after another, window by window.

    Args:
        corpus: the recordings.
        weights: float [recordings], from `sampling_weights`.
        rows: recordings processed in parallel.
        frames: length of a window.
        context: frames of the mel on each side of a window.
        rng: CPU generator that draws the recordings and the offset of their first window.

    Yields:
        The windows, and float [B]: 0 where a row starts a recording, 1 where it continues with its state.
    """
    device = corpus.frames.device

    def draw(below: Tensor) -> tuple[Tensor, Tensor]:
        which = torch.multinomial(weights, rows, replacement=True, generator=rng).to(device)
        return which, (torch.rand(rows, generator=rng).to(device) * below[which]).long()

    which, start = draw(corpus.frames - frames + 1)
    going_on = torch.zeros(rows, device=device)
    while True:
        yield corpus.windows(which, start, frames, context), going_on
        start = start + frames
        ended = start + frames > corpus.frames[which]
        others, starts = draw(torch.full_like(corpus.frames, frames))
        which, start = torch.where(ended, others, which), torch.where(ended, starts, start)
        going_on = 1.0 - ended.float()
