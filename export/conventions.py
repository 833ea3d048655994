"""Each family's documented audio settings, and which of them its users change."""

from __future__ import annotations

from typing import Any

from wavernn_trt.export.config import Family

_FATCHORD: dict[str, Any] = {
    "sample_rate": 22050,
    "win_length": 1100,
    "n_fft": 2048,
    "fmin": 40.0,
    "fmax": None,
    "pad_mode": "reflect",
    "reference_db": 0.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
}

AUDIO: dict[Family, dict[str, Any]] = {
    "univoc": {
        "sample_rate": 16000,
        "hop_length": 200,
        "win_length": 800,
        "n_fft": 2048,
        "fmin": 50.0,
        "mel_norm": "sum",
        "preemphasis": 0.97,
        "reference_db": 20.0,
        "min_level_db": -80.0,
        "mel_range": (-1.0, 0.0),
        "clip_high": False,
    },
    "fatchord": _FATCHORD,
    # What WaveRNN.infer takes, a mel mapped to [0, 1]; the text-to-speech pipeline converts its natural-log mel first.
    "torchaudio": _FATCHORD,
    "coqui": {
        "sample_rate": 22050,
        "hop_length": 256,
        "win_length": 1024,
        "n_fft": 1024,
        "fmin": 0.0,
        "fmax": None,
        "pad_mode": "reflect",
        "preemphasis": 0.0,
        "reference_db": 20.0,
        "min_level_db": -100.0,
        "mel_range": (-4.0, 4.0),
        "clip_high": True,
    },
    "turian": {
        "sample_rate": 16000,
        "win_length": 800,
        "n_fft": 2048,
        "fmin": 95.0,
        "fmax": 7600.0,
        "pad_mode": "constant",
        "reference_db": 20.0,
        "min_level_db": -100.0,
        "mel_range": (-4.0, 4.0),
    },
}
"""Values of `AudioConfig`; what a family leaves to the shapes of its weights is not listed."""

ADJUSTABLE: dict[Family, tuple[str, ...]] = {
    "univoc": (
        "sample_rate",
        "hop_length",
        "win_length",
        "n_fft",
        "fmin",
        "preemphasis",
        "reference_db",
        "min_level_db",
    ),
    "fatchord": ("sample_rate", "win_length", "n_fft", "fmin", "min_level_db"),
    "torchaudio": ("sample_rate", "win_length", "n_fft", "fmin", "min_level_db"),
    "coqui": tuple(AUDIO["coqui"]),
    "turian": ("sample_rate", "win_length", "n_fft", "fmin", "fmax", "reference_db", "min_level_db"),
}
"""Settings that a family's own configuration holds, so that a checkpoint without it leaves them unknown.

The others are written into the family's code.
"""

MU_LAW: dict[Family, bool] = {"univoc": True, "fatchord": True, "torchaudio": True, "coqui": True, "turian": False}
"""Whether classes are companded where no configuration tells."""

CONFIG_FILES: dict[Family, tuple[str, ...]] = {
    "univoc": ("config.yaml", "*.yaml"),
    "fatchord": ("hparams.json",),
    "torchaudio": ("params.json",),
    "coqui": ("config.json",),
    "turian": ("hparams.json",),
}
"""Names under which a configuration may stand beside a checkpoint, the likeliest first."""
