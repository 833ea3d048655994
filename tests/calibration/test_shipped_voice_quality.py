"""The quality of the shipped voice on clips that it was not trained on, in float32 and int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import wavernn_trt
from wavernn_trt.calibration.judge import read_transcripts
from wavernn_trt.calibration.likeness import Likeness
from wavernn_trt.calibration.score import analyse, compare_speech, fit_speech
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.streaming.pcm import to_int16
from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.training import synthetic_corpus

PUBLISHED = Path(__file__).resolve().parents[2] / "runtime" / "voices" / "samples"

KEPT_OUT = ("LJ001-0029", "LJ001-0030", "LJ001-0031", "LJ001-0032")
CALIBRATED = ("LJ001-0001", "LJ001-0002")


def clip(shared_data: Path, name: str, seconds: float) -> tuple[np.ndarray, int]:
    waveform, sample_rate = soundfile.read(shared_data / "ljspeech" / f"{name}.flac", dtype="float32")
    return waveform[: round(seconds * sample_rate)], sample_rate


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lj-speech", "synthetic"])
def test_the_shipped_voice_is_within_its_published_interval(shared_data: Path, name: str) -> None:
    """One of the published seeds; the interval is that of all of them, and what decoding on other machines changes."""
    published = json.loads((PUBLISHED / name / "heart-lj.json").read_text())
    if name == "synthetic":
        clips = synthetic_clips(PUBLISHED / name / "metadata.csv")
    else:
        clips = {clip: soundfile.read(shared_data / "ljspeech" / f"{clip}.flac", dtype="float32") for clip in KEPT_OUT}
    assert list(clips) == published["clips"]
    with wavernn_trt.load() as voice:
        speech = [analyse(voice.config.audio, *recording) for recording in clips.values()]
        fits = [fit for _, fit in fit_speech(voice.loaded, speech)]
        likenesses = [likeness for _, _, likeness in compare_speech(voice, speech, seeds=[1])]
    bits = sum(fit.bits for fit in fits) / sum(fit.samples for fit in fits)
    assert bits == pytest.approx(published["bits"], abs=0.01)
    measures = sum(likenesses, Likeness()).measures()
    for measure, tolerance in (("correlation", 0.002), ("distortion_db", 0.05), ("level_db", 0.1), ("clipped", 1e-4)):
        found, expected = measures[measure], published[measure]
        assert found is not None
        assert min(expected) - tolerance <= found <= max(expected) + tolerance, measure


def synthetic_clips(texts: Path) -> dict[str, tuple[np.ndarray, int]]:
    """Speaks the sentences as `synthetic_corpus` did."""
    pytest.importorskip("hibari", reason="the sentences are spoken by hibari-tts (extra 'train')")
    pytest.importorskip("onnx", reason="durations are read from the speaker's ONNX graph")
    speaker = synthetic_corpus.Speaker()
    clips = {}
    for name, text in read_transcripts(texts).items():
        clip = speaker.speak(text, (0, int(name[1:])))
        assert clip is not None
        clips[name] = to_int16(clip.waveform).astype(np.float32) / 32768, synthetic_corpus.SAMPLE_RATE
    return clips


@pytest.mark.slow
def test_int8_costs_less_than_a_fortieth_of_a_bit(shared_data: Path, tmp_path: Path) -> None:
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
    assert 0 < meter.loss(quantization_of("int8", directory.model, table)) < 0.025
    assert 0 < meter.loss(quantization_of("int8-weights", directory.model)) < 0.025
