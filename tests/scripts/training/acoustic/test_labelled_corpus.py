"""Labels of the acoustic model's corpus, and errors in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

pytest.importorskip("torch", reason="models are trained with PyTorch")

from wavernn_trt.scripts.training.acoustic.labelled_corpus import means_by_phoneme, read_corpus, symbol_table
from wavernn_trt.scripts.training.recipe import RecipeError

UNITS = 4
"""Of 25 ms; two frames each."""


def write_labels(path: Path, phonemes: str, ids: list[int], frames: int = 2 * UNITS) -> Path:
    """Writes the labels of a clip of one unit for each id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {"ids": np.int16(ids), "durations": np.ones(len(ids), np.int16), "f0": np.full(frames, 100, np.float32)}
    np.savez(path, phonemes=np.array(phonemes), **labels)
    return path


def write_audio(path: Path, rate: int = 16000) -> None:
    """Writes the noise of a clip of `UNITS` units beside its labels."""
    noise = np.random.default_rng(0).normal(0, 0.1, UNITS * rate // 40)
    soundfile.write(path.with_suffix(".flac"), noise, rate)


def test_each_line_of_phonemes_is_between_silences(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab\nc", [0, 5, 6, 0, 0, 7, 0])
    assert symbol_table([path]) == {0: "_", 5: "a", 6: "b", 7: "c"}


def test_clips_whose_symbols_lack_a_number_give_no_symbols(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "s0.npz", "abc", [0, 5, 6, 0])
    other = write_labels(tmp_path / "s1.npz", "b", [0, 6, 0])
    assert symbol_table([path, other]) == {0: "_", 6: "b"}


@pytest.mark.parametrize("durations", [[3, 1, 5], [0, 4, 0, 0, 5, 0], [9], [0, 0, 9]])
def test_means_by_phoneme_are_those_of_a_loop(durations: list[int]) -> None:
    values: NDArray[np.float32] = np.random.default_rng(0).normal(size=9).astype(np.float32)
    expected, start = [], 0
    for length in durations:
        expected.append(values[start : start + length].mean() if length else 0.0)
        start += length
    found = means_by_phoneme(values, np.array(durations))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_a_clip_is_read_with_f0_of_voiced_frames_only(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab", [0, 5, 6, 0])
    with np.load(path) as labels:
        changed = dict(labels)
    changed["f0"] = np.float32([0, 39.9, 40, 200, 200, 0, 0, 0])
    np.savez(path, **changed)
    write_audio(path)
    (clip,) = read_corpus(tmp_path)
    assert clip.symbols == ["_", "a", "b", "_"]
    assert clip.durations.tolist() == [2, 2, 2, 2]
    assert clip.f0.tolist() == [0, 0, 40, 200, 200, 0, 0, 0]
    assert clip.mel.shape == (8, 80)


def test_a_folder_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        read_corpus(tmp_path / "kept-out")
    assert str(raised.value).startswith(f"{tmp_path / 'kept-out'}: found no labelled clips")


@pytest.mark.parametrize("frames", [6, 10])
def test_labels_of_another_length_than_the_audio_are_refused(tmp_path: Path, frames: int) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab", [0, 5, 6, 0], frames)
    write_audio(path)
    with pytest.raises(RecipeError) as raised:
        read_corpus(tmp_path)
    assert f"{path}: 8 frames of durations, {frames} of f0 and " in str(raised.value)


def test_audio_of_another_rate_is_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab", [0, 5, 6, 0])
    write_audio(path, 22050)
    with pytest.raises(RecipeError) as raised:
        read_corpus(tmp_path)
    assert str(raised.value) == f"{path.with_suffix('.flac')}: found 22050 Hz, expected 16000"


def test_a_clip_without_audio_is_named(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab", [0, 5, 6, 0])
    with pytest.raises(ValueError, match=r"s0\.flac") as raised:
        read_corpus(tmp_path)
    assert str(path.with_suffix(".flac")) in str(raised.value)


@pytest.mark.parametrize("damage", ["no npz", "empty", "cut short", "other names"])
def test_damaged_labels_are_named(tmp_path: Path, damage: str) -> None:
    path = write_labels(tmp_path / "s0.npz", "ab", [0, 5, 6, 0])
    if damage == "other names":
        np.savez(path, phonemes=np.array("ab"))
    else:
        content = path.read_bytes()
        path.write_bytes({"no npz": b"text", "empty": b"", "cut short": content[: len(content) // 2]}[damage])
    for read in (symbol_table, lambda paths: read_corpus(tmp_path, {0: "_", 5: "a", 6: "b"})):
        with pytest.raises(RecipeError) as raised:
            read([path])
        assert str(raised.value).startswith(f"{path}: expected labels of synthetic_corpus with ids")
