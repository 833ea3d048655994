"""The quality of the shipped voice on clips that it was not trained on, in float32 and int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import wavernn_trt
from wavernn_trt.calibration.score import analyse, compare_speech, fit_speech
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.vocoder import shipped_voice

KEPT_OUT = ("LJ001-0029", "LJ001-0030", "LJ001-0031", "LJ001-0032")
CALIBRATED = ("LJ001-0001", "LJ001-0002")


def clip(shared_data: Path, name: str, seconds: float) -> tuple[np.ndarray, int]:
    waveform, sample_rate = soundfile.read(shared_data / "ljspeech" / f"{name}.flac", dtype="float32")
    return waveform[: round(seconds * sample_rate)], sample_rate


@pytest.mark.slow
def test_bits_and_correlation_on_clips_kept_out_of_training(shared_data: Path) -> None:
    with wavernn_trt.load(backend="onnxruntime") as voice:
        speech = [analyse(voice.config.audio, *clip(shared_data, name, 4)) for name in KEPT_OUT]
        bits = [fit.bits / fit.samples for _, fit in fit_speech(voice.loaded, speech)]
        correlations = [likeness.moments.correlation for _, _, likeness in compare_speech(voice, speech)]
    assert np.mean(np.array(correlations, float)) >= 0.85
    assert np.mean(bits) < 4.5


@pytest.mark.slow
def test_int8_costs_less_than_a_fiftieth_of_a_bit(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="graphs are ONNX graphs")
    from wavernn_trt.calibration.calibrate import calibrate
    from wavernn_trt.calibration.loss import LossMeter
    from wavernn_trt.calibration.precisions import quantization_of

    directory = open_model_directory(shipped_voice())
    for name in CALIBRATED:
        soundfile.write(tmp_path / f"{name}.wav", *clip(shared_data, name, 3))
    table = calibrate(directory, sorted(tmp_path.glob("*.wav")), threads=1)
    with wavernn_trt.load(backend="onnxruntime", threads=1) as voice:
        speech = [analyse(voice.config.audio, *clip(shared_data, name, 2)) for name in KEPT_OUT]
    meter = LossMeter(directory, speech, threads=1)
    assert 0 < meter.loss(quantization_of("int8", directory.model, table)) < 0.02
    assert 0 < meter.loss(quantization_of("int8-weights", directory.model)) < 0.02
