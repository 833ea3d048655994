from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import read_audio, read_mel, resample, write_wav
from wavernn_trt.runtime.files.output_files import prepare_output
from wavernn_trt.scripts.progress import estimate_seconds


def tone(rate: int, seconds: float = 0.25) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_recordings_are_read_and_mixed_down(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(22050), np.zeros_like(tone(22050))], axis=1), 22050)
    samples, rate = read_audio(path)
    assert rate == 22050
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.corrcoef(samples, tone(22050))[0, 1] > 0.99
    assert np.abs(samples).max() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 100, b"RIFF\xff\xff\xff\xffWAVEfmt "])
def test_what_is_not_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(VocoderError, match=r"bad\.wav: (not a recording|found no samples)") as refused:
        read_audio(path)
    assert "<_io" not in str(refused.value)


def test_files_that_cannot_hold_a_recording_are_refused(tmp_path: Path) -> None:
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
def test_pipes_are_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_audio, read_mel):
        with pytest.raises(VocoderError, match="pipe: found a pipe or device, expected a regular file"):
            read(tmp_path / "pipe")
    assert estimate_seconds(tmp_path / "pipe", AudioConfig(16000, 200, 800, 2048)) == 0


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A sound file of each kind and a mel."""
    folder, files = tmp_path_factory.mktemp("files"), {}
    for suffix in ("wav", "flac", "ogg", "npy"):
        path = folder / f"a.{suffix}"
        if suffix == "npy":
            np.save(path, np.zeros((80, 4), np.float32))
        else:
            soundfile.write(path, tone(22050, 0.05), 22050)
        files[suffix] = path.read_bytes()
    return files


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["wav", "flac", "ogg", "npy"]),
    edits=st.lists(st.tuples(st.integers(0, 150), st.binary(max_size=8), st.integers(0, 20)), min_size=1, max_size=5),
)
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, files: dict[str, bytes], suffix: str, edits: list[tuple[int, bytes, int]]
) -> None:
    content = files[suffix]
    for place, inserted, removed in edits:
        content = content[:place] + inserted + content[place + removed :]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    # Any other exception than a refusal fails the test.
    with contextlib.suppress(VocoderError):
        if suffix == "npy":
            assert isinstance(read_mel(path), np.ndarray)
        else:
            samples, rate = read_audio(path)
            assert resample(samples, rate, 16000).ndim == 1


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_the_tone_and_its_place(rate: int) -> None:
    found, expected = resample(tone(rate), rate, 16000), tone(16000)
    assert abs(len(found) - len(expected)) <= 1
    inner = slice(200, 3800)  # the ends ring
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.01)


def test_equal_rates_change_nothing() -> None:
    for rate in (16000, 16000.0, np.int32(16000), np.float32(16000)):
        assert np.array_equal(resample(tone(16000), rate, 16000), tone(16000))


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1, 16000.5, float("nan"), float("inf"), True])
def test_rates_that_no_recording_has_are_refused(rate: float) -> None:
    with pytest.raises(VocoderError, match="expected a whole number of Hz from 1000 to 1000000"):
        resample(tone(16000), rate, 16000)


def test_a_recording_too_short_to_resample_is_refused() -> None:
    with pytest.raises(VocoderError, match="nothing is left"):
        resample(np.zeros(1, np.float32), 192000, 8000)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (np.array([{}], dtype=object), "not an array"),
        (
            {"a": np.zeros(3), "b": np.zeros(3)},
            r"found 2 arrays \(a, b\), expected one array, or one with the name mel",
        ),
        (b"", "not an array"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "not an array"),
        (b"garbage", "not an array"),
    ],
)
def test_what_is_not_an_array_is_refused(tmp_path: Path, saved: Any, message: str) -> None:
    path = tmp_path / "mel.npy"
    with path.open("wb") as file:
        if isinstance(saved, dict):
            np.savez(file, **saved)
        elif isinstance(saved, bytes):
            file.write(saved)
        else:
            np.save(file, saved, allow_pickle=True)
    with pytest.raises(VocoderError, match=message):
        read_mel(path)
    with pytest.raises(VocoderError, match="No such file"):
        read_mel(tmp_path / "nowhere.npy")


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


def test_any_name_that_the_file_system_takes_is_written(tmp_path: Path) -> None:
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


def test_16_bits_clip_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_wav(tmp_path / "loud.wav", np.array([2.0, -2.0, 0.5], np.float32), 16000)
    assert soundfile.read(tmp_path / "loud.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384]
    assert "2 of 3 samples are clipped" in caplog.text
