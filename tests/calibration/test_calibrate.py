"""Calibration: the same table for any batch and order, after an interruption too; unusable inputs are reported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx_graphsurgeon", reason="the graph is built with it")

from wavernn_trt.calibration import calibrate as module
from wavernn_trt.calibration.calibrate import calibrate
from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.observe import ObservingExecutor
from wavernn_trt.calibration.table import model_hash, read_table
from wavernn_trt.export.model_directory import ModelDirectory, file_sha256
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.vocoder import Vocoder

Make = Callable[..., Path]


@pytest.fixture
def directory(small_directory: Callable[[str], ModelDirectory]) -> ModelDirectory:
    return small_directory("univoc")


@pytest.fixture
def clips(recording: Make) -> list[Path]:
    return [recording(f"{name}.wav", samples, seed) for seed, (name, samples) in enumerate(CLIPS)]


CLIPS = (("b", 900), ("a", 1700), ("c", 400))


def test_a_table_has_the_model_the_inputs_and_the_ranges(
    directory: ModelDirectory, clips: list[Path], tmp_path: Path
) -> None:
    table = calibrate(directory, clips)
    assert table.model == model_hash(directory)
    assert (table.forced, table.seed) == (True, None)
    assert [one.name for one in table.inputs] == ["a.wav", "b.wav", "c.wav"]
    assert [one.sha256 for one in table.inputs] == [file_sha256(clips[place]) for place in (1, 0, 2)]
    hop = directory.audio.hop_length
    steps = [(1 + samples // hop) * hop for samples in (1700, 900, 400)]
    assert [one.samples for one in table.inputs] == [min(n, s) for n, s in zip(steps, (1700, 900, 400), strict=True)]
    total = sum(one.samples for one in table.inputs)
    sizes = {"recurrent_0": 8, "fc_0": 8, "output": 5}
    assert {name: one.values for name, one in table.ranges.items()} == {n: k * total for n, k in sizes.items()}
    for name in ("recurrent_0", "fc_0"):
        assert table.ranges[name].bounds["int8"]["minmax"] == 1.0
    table.check(directory)
    table.write(tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == table


def test_the_table_does_not_depend_on_batch_order_or_threads(directory: ModelDirectory, clips: list[Path]) -> None:
    first = calibrate(directory, clips, batch=1, threads=1)
    again = calibrate(directory, clips[::-1], batch=3, threads=2)
    assert again.sha256 == first.sha256


def test_recordings_are_resampled_to_the_model_s_rate(directory: ModelDirectory, recording: Make) -> None:
    table = calibrate(directory, [recording("fast.wav", 4410, rate=44100)])
    assert table.inputs[0].samples == 1600


def test_files_of_the_same_content_count_once(
    directory: ModelDirectory, clips: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    copy = tmp_path / "z" / "copy.wav"
    copy.parent.mkdir()
    copy.write_bytes(clips[0].read_bytes())
    assert calibrate(directory, [copy, *clips]).sha256 == calibrate(directory, clips).sha256
    assert "1 files have the content of others" in caplog.text


def test_for_mels_the_model_is_fed_with_its_own_output(directory: ModelDirectory, mel_file: Make) -> None:
    mels = [mel_file("one.npy", 90, 1), mel_file("two.npy", 30, 2), mel_file("three.npy", 61, 3)]
    table = calibrate(directory, mels, seed=5, batch=1)
    assert (table.forced, table.seed) == (False, 5)
    assert calibrate(directory, mels[::-1], seed=5, batch=3).sha256 == table.sha256
    assert calibrate(directory, mels, seed=6).ranges != table.ranges
    # The largest activation of each product, for the samples that the vocoder draws.
    executor = ObservingExecutor(directory, threads=1)
    largest = dict.fromkeys(executor.columns, 0.0)
    with Vocoder(LoadedModel.of(directory, executor)) as vocoder:
        for file in mels:
            mel = np.load(file)
            activations = vocoder.teacher_forced(mel, vocoder.labels(mel, seed=5))
            for name, columns in executor.columns.items():
                largest[name] = max(largest[name], float(np.abs(activations[:, columns]).max()))
    assert {name: one.largest for name, one in table.ranges.items()} == largest


def interrupted(directory: ModelDirectory, files: list[Path], partial: Path) -> None:
    """A run that Ctrl-C stops after its first file."""

    def stop(samples: int) -> None:
        if partial.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(directory, files, batch=1, partial=partial, progress=stop)
    assert partial.exists()


def test_an_interrupted_run_continues_with_the_remaining_files(
    directory: ModelDirectory, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / ".t.json.partial"
    interrupted(directory, clips, partial)
    read: list[str] = []
    done: list[int] = []

    def counting(path: Path) -> object:
        read.append(path.name)
        return soundfile.read(path, dtype="float32")

    monkeypatch.setattr(module, "read_audio", counting)
    table = calibrate(directory, clips, partial=partial, progress=done.append)
    assert read == ["b.wav", "c.wav"]
    assert sum(done) == sum(one.samples for one in table.inputs)
    assert partial.exists()  # until the table is written
    monkeypatch.undo()
    assert calibrate(directory, clips).sha256 == table.sha256


def test_observations_of_another_run_and_damaged_ones_are_not_used(
    directory: ModelDirectory, clips: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = tmp_path / ".t.json.partial"
    interrupted(directory, clips, partial)
    damaged = partial.read_bytes().replace(b"0", b"1", 1)
    others = clips[:1]  # without a.wav, which was counted
    expected = calibrate(directory, others).sha256
    assert calibrate(directory, others, partial=partial).sha256 == expected
    assert "not used: it has counted files that are not among these" in caplog.text
    partial.write_bytes(damaged)
    assert calibrate(directory, clips, partial=partial).sha256 == calibrate(directory, clips).sha256
    assert "not used: it is damaged" in caplog.text


def bad_files(folder: Path) -> dict[str, Path]:
    """Name of a reason -> a file that cannot be used for it."""
    folder.mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(500), 16000)
    soundfile.write(folder / "nan.wav", np.full(500, np.nan, np.float32), 16000, subtype="FLOAT")
    (folder / "text.wav").write_text("no recording")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    return {
        "found silence": folder / "silent.wav",
        "NaN": folder / "nan.wav",
        "not a recording": folder / "text.wav",
        "not a recording that": folder / "empty.wav",
        "found a directory": folder / "folder.wav",
        "No such file": folder / "gone.wav",
    }


def test_unusable_recordings_are_reported_and_the_others_counted(
    directory: ModelDirectory, clips: list[Path], tmp_path: Path
) -> None:
    bad = bad_files(tmp_path / "bad")
    failed: dict[Path, str] = {}
    table = calibrate(directory, [*bad.values(), *clips], failed=failed.__setitem__)
    assert set(failed) == set(bad.values())
    for reason, path in bad.items():
        assert reason in failed[path]
    assert table.sha256 == calibrate(directory, clips).sha256
    with pytest.raises(CalibrationError, match="none of the files can be used"):
        calibrate(directory, list(bad.values()), failed=failed.__setitem__)
    with pytest.raises(CalibrationError, match=r"silent\.wav: found silence"):
        calibrate(directory, [bad["found silence"]])


def test_unusable_mels_are_reported(directory: ModelDirectory, mel_file: Make, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((80, 4), np.float32))
    np.save(tmp_path / "nan.npy", np.full((6, 4), np.nan, np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((6, 4), np.int32))
    failed: dict[str, str] = {}
    files = [*tmp_path.glob("*.npy"), mel_file("good.npy")]
    table = calibrate(directory, files, failed=lambda path, reason: failed.update({path.name: reason}))
    assert [one.name for one in table.inputs] == ["good.npy"]
    assert "found shape (80, 4), expected [6, frames]" in failed["wide.npy"]
    assert "NaN" in failed["nan.npy"]
    assert "int32" in failed["whole.npy"]


def test_no_inputs_and_inputs_of_both_kinds_are_refused(
    directory: ModelDirectory, clips: list[Path], mel_file: Make
) -> None:
    with pytest.raises(CalibrationError, match="found no input"):
        calibrate(directory, [])
    with pytest.raises(CalibrationError, match="expected one kind"):
        calibrate(directory, [*clips, mel_file("a.npy")])


def test_less_than_a_second_of_speech_has_a_warning(
    directory: ModelDirectory, recording: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    calibrate(directory, [recording("short.wav", 1600)])
    assert "0.10 s of speech is little" in caplog.text
    caplog.clear()
    calibrate(directory, [recording("long.wav", 17000)])
    assert not caplog.records


def test_a_model_that_computes_nan_is_refused_as_damaged(
    directory: ModelDirectory, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = ObservingExecutor.condition

    def damaged(self: ObservingExecutor, mel: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return sound(self, mel) * np.float32(np.nan)

    monkeypatch.setattr(ObservingExecutor, "condition", damaged)
    with pytest.raises(CalibrationError, match=r"b\.wav: .* is not finite .*: the model is damaged"):
        calibrate(directory, clips[:1])
