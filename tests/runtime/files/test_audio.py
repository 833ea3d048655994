"""Recordings and mels read as arrays, resampling, and WAV files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import read_audio, read_mel, resample, write_wav
from wavernn_trt.runtime.files.output_files import prepare_output
from wavernn_trt.scripts.progress import estimate_seconds


def tone(rate: int, seconds: float = 0.25) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_files_that_hold_no_recording_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"not audio at all" * 100)
    with pytest.raises(VocoderError, match=r"bad\.wav: not a recording") as refused:
        read_audio(tmp_path / "bad.wav")
    assert "<_io" not in str(refused.value)
    with pytest.raises(VocoderError, match="No such file"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(VocoderError, match="directory"):
        read_audio(tmp_path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(VocoderError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(VocoderError, match="NaN"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_audio, read_mel):
        with pytest.raises(VocoderError, match="pipe: found a pipe or device, expected a regular file"):
            read(tmp_path / "pipe")
    assert estimate_seconds(tmp_path / "pipe", AudioConfig(16000, 200, 800, 2048)) == 0


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_resampling_keeps_the_tone_and_its_place(rate: int) -> None:
    found, expected = resample(tone(rate), rate, 16000), tone(16000)
    assert abs(len(found) - len(expected)) <= 1
    inner = slice(200, 3800)  # the ends ring
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.01)


def test_equal_rates_change_nothing() -> None:
    for rate in (16000, 16000.0, np.int32(16000), np.float32(16000)):
        assert np.array_equal(resample(tone(16000), rate, 16000), tone(16000))


@pytest.mark.parametrize("rate", [999, 1_000_001, 16000.5, float("nan"), True])
def test_invalid_sample_rates_are_refused(rate: float) -> None:
    with pytest.raises(VocoderError, match="expected a whole number of Hz from 1000 to 1000000"):
        resample(tone(16000), rate, 16000)


def test_a_recording_too_short_to_resample_is_refused() -> None:
    with pytest.raises(VocoderError, match="nothing is left"):
        resample(np.zeros(1, np.float32), 192000, 8000)


def test_waveforms_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "er" / "out.wav"
    write_wav(path, tone(16000), 16000)
    info = soundfile.info(path)
    assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 16000, 1, 4000)
    write_wav(path, tone(16000), 16000, floating=True)
    assert np.array_equal(soundfile.read(path, dtype="float32")[0], tone(16000))

    def fail(file: Any, *_: Any, **__: Any) -> None:
        file.write(b"RIFF half a file")
        raise OSError("disk full")

    before = path.read_bytes()
    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_wav(path, tone(16000), 16000)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["out.wav"]


def test_the_longest_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".wav")
    write_wav(path, tone(16000), 16000)
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_that_cannot_be_written_are_found_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    for name, reason in (
        ("file/a.wav", "cannot be a folder"),
        ("folder.wav", "not a file"),
        ("a" * 252 + ".wav", "name too long"),
    ):
        with pytest.raises(OSError, match=f"(?i){reason}") as refused:
            prepare_output(tmp_path / name)
        assert refused.value.filename == str(tmp_path / name)
    prepare_output(tmp_path / "new" / "a.wav")
    assert list((tmp_path / "new").iterdir()) == []


def test_samples_that_16_bits_clip_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_wav(tmp_path / "loud.wav", np.array([2.0, -2.0, 0.5], np.float32), 16000)
    assert soundfile.read(tmp_path / "loud.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384]
    assert "2 of 3 samples are clipped" in caplog.text
