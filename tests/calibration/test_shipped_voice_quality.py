"""The shipped voice speaks recognisably: clips that were kept out of its training, said again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

import wavernn_trt
from wavernn_trt.calibration.score import score

KEPT_OUT = ("LJ001-0029", "LJ001-0030", "LJ001-0031", "LJ001-0032")


def test_log_mel_correlation_on_clips_kept_out_of_training(shared_data: Path) -> None:
    voice = wavernn_trt.load()
    scores = [
        score(voice, *soundfile.read(shared_data / "ljspeech" / f"{name}.flac", dtype="float32"), seconds=4.0)
        for name in KEPT_OUT
    ]
    assert np.mean([one.correlation for one in scores]) >= 0.85
    assert np.mean([one.bits for one in scores]) < 4.5
