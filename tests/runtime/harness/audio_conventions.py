"""Audio settings of published models."""

from __future__ import annotations

import dataclasses

from wavernn_trt.export.config import AudioConfig

UNIVOC = AudioConfig(
    sample_rate=16000,
    hop_length=200,
    win_length=800,
    n_fft=2048,
    mel_norm="sum",
    fmin=50.0,
    preemphasis=0.97,
    reference_db=20.0,
    min_level_db=-80.0,
    mel_range=(-1.0, 0.0),
    clip_high=False,
)
FATCHORD = AudioConfig(22050, 275, 1100, 2048, fmin=40.0, pad_mode="reflect")
COQUI = AudioConfig(22050, 256, 1024, 1024, pad_mode="reflect", reference_db=20.0, mel_range=(-4.0, 4.0))
TURIAN = AudioConfig(16000, 200, 800, 2048, fmin=95.0, fmax=7600.0, reference_db=20.0, mel_range=(-4.0, 4.0))
NATURAL = AudioConfig(22050, 256, 1024, 1024, fmax=8000.0, pad_mode="reflect", log="natural")
"""The convention of ForwardTacotron and Tacotron 2."""

PUBLISHED = {"univoc": UNIVOC, "fatchord": FATCHORD, "coqui": COQUI, "turian": TURIAN, "natural": NATURAL}
SHIPPED = dataclasses.replace(UNIVOC, mel_norm="slaney")
RTVC = AudioConfig(16000, 200, 800, 800, fmin=55.0, fmax=7600.0, reference_db=20.0, mel_range=(-1.0, 1.0))
