"""Writes samples of a voice during training: the first seconds of kept-out clips, with their spectrograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavernn_trt.calibration.likeness import Moments
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import write_wav
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.scripts.training.corpus import AUDIO, Recording
from wavernn_trt.scripts.training.mel_picture import draw_mels

_CLIPS = 4
"""Largest number of clips vocoded."""


@torch.inference_mode()
def vocode(state: Mapping[str, Tensor], mel: Tensor, *, temperature: float, seed: int) -> list[NDArray[np.float32]]:
    """Computes free-running waveforms with the PyTorch reference, as one batch.

    Args:
        state: weights with univoc's names, on any device.
        mel: float32 [B, frames, n_mels], on that device.
        temperature: logits are divided by it.
        seed: of the random numbers.

    Returns:
        For each row, float32 [frames * hop_length], delayed by ``AUDIO.delay`` samples.
    """
    device = mel.device
    weights = {name: value.float() for name, value in state.items()}
    model = univoc_from_state(weights, temperature, label_scale="symmetric").to(device)
    rows = model.conditioner(mel.transpose(1, 2)).transpose(0, 1)  # [frames, B, columns]
    count = len(rows) * AUDIO.hop_length
    uniforms = torch.rand(count, mel.shape[0], 1, generator=torch.Generator().manual_seed(seed)).to(device)
    previous = torch.full((mel.shape[0],), model.config.outputs // 2, device=device)
    hidden = torch.zeros(1, mel.shape[0], model.config.hidden_size, device=device)
    labels = []
    for i in range(count):
        logits, hidden = model.step(previous, hidden, rows[i // AUDIO.hop_length])
        sample, previous = model.sampler(logits, uniforms[i])
        labels.append(sample)
    coding = SampleCoding(model.config, AUDIO)
    return [coding.waveform(row) for row in torch.stack(labels, dim=1).cpu().numpy()]


def write_samples(
    state: Mapping[str, Tensor],
    recordings: Sequence[Recording],
    folder: Path,
    name: str,
    *,
    temperature: float = 0.8,
    seconds: float = 2.0,
    seed: int = 0,
) -> float:
    """Writes ``folder / NAME-CLIP.wav`` for up to four clips, and ``NAME.png``.

    Args:
        state: weights with univoc's names.
        recordings: the first four are vocoded.
        folder: created if missing.
        name: start of the file names.
        temperature: logits are divided by it.
        seconds: of each clip, from its start.
        seed: of the random numbers.

    Returns:
        Correlation between the log-mels of outputs and recordings, over all bins and frames; NaN if one is constant.

    Raises:
        OSError: a file cannot be written.
    """
    recordings = recordings[:_CLIPS]
    frames = min(int(seconds * AUDIO.sample_rate / AUDIO.hop_length), *(len(r.mel) for r in recordings))
    device = next(iter(state.values())).device
    outputs = vocode(
        state, torch.stack([r.mel[:frames] for r in recordings]).to(device), temperature=temperature, seed=seed
    )
    moments, pictures = Moments(), []
    for recording, waveform in zip(recordings, outputs, strict=True):
        output = mel_spectrogram(waveform[AUDIO.delay :], AUDIO)
        original = recording.mel[: output.shape[1]].numpy().T
        moments += Moments.of(output, original)
        pictures += [(f"{recording.name}: recording", original), (f"{recording.name}: {name}", output)]
        write_wav(folder / f"{name}-{recording.name}.wav", waveform, AUDIO.sample_rate)
    draw_mels(pictures, AUDIO, folder / f"{name}.png")
    return math.nan if moments.correlation is None else moments.correlation
